"""Run the training function on many workers through Ray Train; restart it when a worker dies.

Ray starts the processes and joins them into a torch process group (gloo, or nccl with GPUs). What a run has learnt is
in its own checkpoints, not in Ray's: a group that is started again calls the training function again, and that resumes
from the run's folder. A group takes as many workers as the cluster has room for, from one to the number asked for.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vilbert.pipeline.errors import LoaderError, RefusedError, ShardError, first_line
from vilbert.pipeline.openmp import wait_policy
from vilbert.pipeline.ray_session import ray_session
from vilbert.pipeline.signals import handling
from vilbert.pipeline.socket_folder import shorten_multiprocessing_sockets
from vilbert.pipeline.train.run.node_watch import watching_node

logger = logging.getLogger(__name__)

STORAGE_FOLDER = "ray"
# Errors of a worker when another worker or a data loading process dies or its machine fails; other errors would only
# occur again.
WORTH_ANOTHER_TRY = (RuntimeError, OSError, LoaderError)
# A full or read-only disk fails again on the next attempt.
NO_WAY = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
INTERRUPTED = 130
RUN_AGAIN = "run the same command again to resume, or leave out --workers"
NODE_DIED = f"Ray's node on this machine has died (was it killed, or is memory short?); {RUN_AGAIN}"
# A Ray started here otherwise repeats each second that it has no dashboard to ask. Read when Ray is imported.
QUIET = {"RAY_LOGGER_LEVEL": "error", "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"}


def launch(
    train: Callable[[Any], int],
    settings: Any,
    *,
    workers: int,
    use_gpu: bool,
    run: Path,
    max_failures: int = 3,
    address: str | None = None,
) -> int:
    """Run `train(settings)` on at most `workers` workers and return what it returns on rank 0, the exit status.

    `train` runs in the folder that this process runs in, with torch.distributed set up, and must go on from what it
    left in `run`; a worker that dies restarts the whole group, at most `max_failures` times. Paths must mean the same
    on every machine of the cluster at `address`; by default Ray is started on this machine, on loopback.

    Ctrl-C and SIGTERM end the workers where they are, and give 130: what is left is the last periodic checkpoint.
    Raises what `train` raised, with no other try unless it is worth one (`WORTH_ANOTHER_TRY`); ShardError where
    workers die more often than allowed; RefusedError where not one worker fits, or ray[train] is not installed.
    """
    _require_ray_train()
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    with ray_session(
        address, instead="leave out --workers to train in this process, or start the processes with torchrun"
    ) as cluster:
        check_room(cluster, workers=workers, use_gpu=use_gpu)
        storage = run.absolute() / STORAGE_FOLDER
        trainer = _trainer(train, settings, storage, workers=workers, use_gpu=use_gpu, max_failures=max_failures)
        terminated = threading.Event()
        try:
            with watching_node(partial(_node_died, storage, terminated)):
                return _fit(trainer, terminated)
        except KeyboardInterrupt:
            logger.warning("interrupted; run the same command again to resume from the last checkpoint in %s", run)
            return INTERRUPTED
        finally:
            shutil.rmtree(storage, ignore_errors=True)  # Ray's notes on this start, of no use to another


def _node_died(storage: Path, terminated: threading.Event) -> int:
    """Log how to resume, delete Ray's records of this start, and return the exit status."""
    shutil.rmtree(storage, ignore_errors=True)
    if terminated.is_set():  # the signal went to all processes of a job, Ray's node among them
        logger.warning("interrupted; run the same command again to resume from the last checkpoint")
        return INTERRUPTED
    logger.error("%s", NODE_DIED)
    return 1


def _require_ray_train() -> None:
    # ray.train imports it, ray alone does not ask for it. Looked up only: ray_session decides how Ray is imported.
    if find_spec("pandas") is None:
        raise RefusedError("--workers needs parts of Ray that are not installed: pip install 'ray[train]'")


def check_room(cluster: dict[str, float], *, workers: int, use_gpu: bool) -> None:
    """Raise RefusedError if not one worker fits on a cluster with these resources; warn if not all fit."""
    cpus, gpus = int(cluster.get("CPU", 0)), int(cluster.get("GPU", 0))
    fitting = min(cpus, gpus) if use_gpu else cpus
    if fitting == 0:
        raise RefusedError(
            f"no worker fits a Ray cluster with {cpus} CPUs and {gpus} GPUs: each takes a CPU{' and a GPU' * use_gpu}; "
            "give Ray more, or leave out --workers" + (" or --use-gpu" * use_gpu)
        )
    if fitting < workers:
        logger.warning(
            "--workers %d: Ray has room for %d now; the same batches are divided among them",
            workers,
            fitting,
        )


def worker_error(failures: dict[int, Exception], *, tries: int) -> Exception:
    """Return the error to leave with for the errors that the ranks of a group ended with, the telling one first.

    When a rank raises, the others often fail of the broken connection: what is not such a failure tells more.
    """
    return _final_error(failures) or ShardError(
        f"training workers failed {tries} times, most recently with: {_said_first(failures)}; if a worker was killed, "
        "check that there is enough memory. Run the same command again to resume from the last checkpoint"
    )


def _causes(failures: dict[int, Exception]) -> list[Exception]:
    """Return the errors of the ranks, in the order of ranks, without Ray's wrappers."""
    return [getattr(error, "_base_exc", error) for _, error in sorted(failures.items())]


def _final_error(failures: dict[int, Exception]) -> Exception | None:
    """Return the first error that a restart would raise again, or None."""
    return next((error for error in _causes(failures) if _is_final(error)), None)


def _is_final(error: BaseException) -> bool:
    # Ray's own errors tell of lost workers (it has no public base class of them all); RefusedError and its kin, and
    # slips in code, stay what they are.
    if isinstance(error, OSError) and error.errno in NO_WAY:
        return True
    return not isinstance(error, WORTH_ANOTHER_TRY) and type(error).__module__.partition(".")[0] != "ray"


def _said_first(failures: dict[int, Exception]) -> str:
    errors = _causes(failures)
    return first_line(errors[0]) if errors else "nothing said"


def _trainer(
    train: Callable[[Any], int], settings: Any, storage: Path, *, workers: int, use_gpu: bool, max_failures: int
) -> Any:
    # Relative paths in the settings mean this folder; Ray would change to one of its own.
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig, UserCallback
    from ray.train.torch import TorchConfig, TorchTrainer

    from vilbert.model import cpu
    from vilbert.pipeline.train.engine.distributed import GPU_PATIENCE, PATIENCE

    class StopOnFinalError(UserCallback):  # type: ignore[misc] # Ray has no types
        """End the run at an error that another try would meet again; an error in a callback ends it."""

        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
            if (final := _final_error(worker_exceptions)) is not None:
                raise final
            logger.warning("a training worker was lost; all workers are restarted (%s)", _said_first(worker_exceptions))

    folder = str(Path.cwd())
    patience = GPU_PATIENCE if use_gpu else PATIENCE

    def work() -> int:
        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
        if Path(folder).is_dir():
            os.chdir(folder)
        shorten_multiprocessing_sockets()
        return train(settings)

    return TorchTrainer(
        work,
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo", timeout_s=int(patience.total_seconds())),
        scaling_config=ScalingConfig(num_workers=(1, workers), use_gpu=use_gpu),
        run_config=RunConfig(
            storage_path=str(storage),
            failure_config=FailureConfig(max_failures=max_failures, controller_failure_limit=max_failures),
            callbacks=[StopOnFinalError()],
            # Ray's workers load torch before any module of ours.
            worker_runtime_env={"env_vars": {**wait_policy(), cpu.VARIABLE: str(int(cpu.enabled))}},
            logging_config=LoggingConfig(log_level="CRITICAL"),  # its tracebacks; what matters is raised here
        ),
    )


@contextmanager
def _interruptible(terminated: threading.Event) -> Iterator[None]:
    """Make Ctrl-C and SIGTERM end a fit as KeyboardInterrupt once Ray has ended the workers; SIGTERM sets the event."""

    def terminate(*_: object) -> None:
        terminated.set()
        signal.raise_signal(signal.SIGINT)

    # While it fits, Ray has a handler of its own for Ctrl-C, which ends the workers and leaves with status 0; after it
    # the one of before is to be back.
    before = signal.getsignal(signal.SIGINT)
    with handling(before, signal.SIGINT), handling(terminate, signal.SIGTERM):
        try:
            yield
        except SystemExit as end:
            raise KeyboardInterrupt from end


def _fit(trainer: Any, terminated: threading.Event) -> int:
    from ray.exceptions import RayError
    from ray.train import ControllerError, WorkerGroupError

    try:
        with _interruptible(terminated):
            result = trainer.fit()
    except WorkerGroupError as error:
        tries = trainer.run_config.failure_config.max_failures + 1
        raise worker_error(error.worker_failures, tries=tries) from error
    except ControllerError as error:
        raise error.controller_failure from error
    except (RayError, ConnectionError) as error:  # of a driver, or of Ray Train's controller, whose node died
        raise ShardError(f"Ray has ended ({first_line(error)}); {RUN_AGAIN}") from error
    return int(result.return_value)
