"""A training run of any stage, from its start or its newest checkpoint to its end.

`train` is the one training function. It runs in this process, in each that torchrun started, or in each of Ray Train's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from vilbert.pipeline.errors import OutputError, RefusedError
from vilbert.pipeline.shards.storage.atomic import write_atomic
from vilbert.pipeline.train.engine.distributed import Group, process_group
from vilbert.pipeline.train.engine.loop import Training, held_out, restore, run_steps
from vilbert.pipeline.train.engine.memory import explain_out_of_memory
from vilbert.pipeline.train.engine.share import share_of
from vilbert.pipeline.train.engine.step_graphs import step_graphs
from vilbert.pipeline.train.engine.working_weights import working_weights
from vilbert.pipeline.train.run.checkpoints import Checkpoint, checkpoint_path, newest_whole, read_checkpoint, sweep
from vilbert.pipeline.train.run.export import export_final
from vilbert.pipeline.train.run.folder import (
    FINAL_FOLDER,
    in_present_terms,
    is_described,
    read_run,
    require_same_run,
    run_folder,
    write_run,
    writing_where_possible,
)
from vilbert.pipeline.train.run.journal import Journal, read_journal
from vilbert.pipeline.train.run.longer_run import as_long
from vilbert.pipeline.train.run.precision import with_precision
from vilbert.pipeline.train.run.progress import TrainProgress
from vilbert.pipeline.train.run.report import REPORT_FILE, write_report
from vilbert.pipeline.train.run.sessions import begin_session, end_session, used_gpus
from vilbert.pipeline.train.run.settings import RunSettings
from vilbert.pipeline.train.run.trackers import find_tracker, installed_trackers, open_trackers

logger = logging.getLogger(__name__)

MODEL_FILES = ("config.json", "model.safetensors", "README.md")
TASK_FILE = "task.json"
LAST_BREATH = 30.0  # seconds that a killed process may take to let go of the folder
LESS_MEMORY = (
    "Give a larger --grad-accumulation, which computes the same batch in smaller parts, or --precision bf16 with a new "
    "--output; the same command then resumes from the last checkpoint"
)
S = TypeVar("S", bound=RunSettings)


class Stage(NamedTuple):
    """The parts of a run that depend on the stage of training."""

    training: Training
    """The run before its first step."""
    load_start: Callable[[], None]
    """Initialises the parameters of a new run."""
    finish: Callable[[], None]
    """Writes the results of the run, in the first process."""


def train(settings: S, prepare: Callable[[S, Group], Stage]) -> int:
    """Train from the newest checkpoint, or from the start, to the end; run it in every process of the group."""
    with process_group(settings.device) as group, explain_out_of_memory(LESS_MEMORY), ExitStack() as stack:
        is_read_only = False
        if group.first:
            for name in installed_trackers(settings.tracker):
                find_tracker(name)  # here, and not after the data sets were read
            stack.enter_context(run_folder(settings.output))
            patience = LAST_BREATH if settings.workers else 0
            is_read_only = not stack.enter_context(writing_where_possible(settings.output, patience=patience))
            if not is_read_only:
                sweep(settings.output)
        group.wait()
        stack.enter_context(_threads(settings.num_threads))
        share_of(settings, group)  # refuses more processes, or parts, than a batch has samples
        settings = with_precision(settings, group)
        stage = prepare(settings, group)
        training = stage.training
        is_same = resume(training, stage.load_start)
        training.working = working_weights(
            training.model,
            device=group.device,
            bfloat16=settings.precision == "bf16",
            bare=training.wrapped is training.model,
        )
        training.graphs = step_graphs(settings, group, training.model, training.objective, training.working)
        if all(group.gather(is_same and training.step == training.total_steps and is_finished(settings.output))):
            if group.first:
                logger.info("nothing to do: %s has all %d steps", settings.output, training.total_steps)
            return 0
        if group.first:
            if is_read_only:
                raise OutputError(
                    f"--output {settings.output}: is read-only and its run is not finished; give another folder"
                )
            write_run(settings.output, training.description)
            (settings.output / REPORT_FILE).unlink(missing_ok=True)  # written last: a run that has it is finished
        # Running a finished run again is no session.
        works = training.step < training.total_steps or training.evaluation_due
        if group.first and works:
            gpus = used_gpus(group.device.type, group.device.index, group.world)
            begin_session(settings.output, step=training.step, processes=group.world, gpus=gpus)
        finished = run(training, stack)
        if finished and training.evaluation is None:
            held_out(training, None, saving=False)  # all steps were done before, by a process that was killed since
        if not group.first:
            return 0 if finished else 130
        if works:
            end_session(settings.output, step=training.step, finished=finished)
        if not finished:
            logger.warning(
                "interrupted after step %d of %d; run the same command again to resume",
                training.step,
                training.total_steps,
            )
            return 130
        stage.finish()
    return 0


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    """Set the number of threads of operators; None keeps PyTorch's choice."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def wrap(model: PreTrainedModel, settings: RunSettings, group: Group, *, reads_all: bool) -> nn.Module:
    """Return what goes forward.

    reads_all: whether each step's loss depends on all parameters that want a gradient.
    """
    wrapped: nn.Module = model
    if settings.compile:
        wrapped = cast(nn.Module, torch.compile(wrapped, dynamic=True))
    if group.world > 1:
        devices = [group.device.index] if group.device.type == "cuda" else None
        wrapped = DistributedDataParallel(
            wrapped,
            device_ids=devices,
            gradient_as_bucket_view=True,
            find_unused_parameters=not reads_all,
        )
    return wrapped


def begin_group(settings: RunSettings) -> None:
    """Check the settings before a group of processes is started: no other writer, and a valid `--resume`."""
    with writing_where_possible(settings.output, patience=0):
        checkpoint_to_resume(settings, is_start=True)


def checkpoint_to_resume(settings: RunSettings, *, is_start: bool) -> Checkpoint | None:
    """Return the checkpoint to go on from, its hashes compared: the run's newest, or an earlier run's to begin by.

    None if no checkpoint exists. is_start: False where a group is started again, which goes on from the newest
    whatever it began with. RefusedError if `--resume` is a checkpoint of this run that is not its newest.
    """
    newest = newest_whole(settings.output)
    if settings.resume == "auto":
        return newest
    path = Path(settings.resume)
    if newest is None or newest.step <= (asked := read_checkpoint(path, hashes=False)).step:
        return read_checkpoint(path, hashes=True)
    if is_start and path.resolve().parent == newest.path.resolve().parent:
        raise RefusedError(
            f"--resume {path}: {settings.output} has continued to step {newest.step}; delete the checkpoints "
            f"after step {asked.step}, give another --output, or --resume auto"
        )
    return newest


def resume(training: Training, load_start: Callable[[], None]) -> bool:
    """Restore the checkpoint that the settings request, or start from step 0 without one; refuse one of another run.

    Return whether run.json already says what the run is.
    """
    settings, group = training.settings, training.group
    found = checkpoint_to_resume(settings, is_start=not settings.workers)
    if found is not None:
        same_length = as_long(training, in_present_terms(found.info["run"]), found.info["step"], where=found.path)
        require_same_run(same_length, training.description, where=found.path)
        restore(training, found.info, *found.read_tensors())
        if group.first:
            logger.info("resuming from step %d of %d", training.step, training.total_steps)
    else:
        if (before := read_run(settings.output)) is not None:
            same_length = as_long(training, in_present_terms(before), 0, where=settings.output)
            require_same_run(same_length, training.description, where=settings.output)
        load_start()
    group.wait()
    return is_described(settings.output, training.description)


def is_finished(run: Path) -> bool:
    """Return whether all outputs of a run exist. Its report is written last, and removed when the run resumes."""
    final = run / FINAL_FOLDER
    wanted = [final / name for name in (*MODEL_FILES, *(name for name in (TASK_FILE,) if (run / name).is_file()))]
    return all(path.is_file() for path in (*wanted, run / REPORT_FILE))


def run(training: Training, stack: ExitStack) -> bool:
    """Run the remaining steps; return False if a signal ended them."""
    if not training.group.first:
        return run_steps(training, None, None)
    settings = training.settings
    described = {**training.description["settings"], "model": training.description["model"]}
    trackers = open_trackers(settings.tracker, settings.output, described, resumed_at=training.step or None)
    journal = Journal(
        settings.output,
        resumed_at=training.step or None,
        trackers=trackers,
        evaluation_due=training.evaluation_due,
    )
    stack.callback(journal.close)
    mean_batch = training.samples(training.total_steps) // training.total_steps
    progress = TrainProgress(
        training.total_steps,
        training.step,
        mean_batch,
        stage=training.objective.stage,
        eval_every=settings.eval_every if training.eval_batches is not None else None,
        checkpoint_every=settings.checkpoint_every,
    )
    stack.callback(progress.close)
    return run_steps(training, journal, progress)


def finish_run(training: Training, tokenizer: PreTrainedTokenizerBase, evaluation: bytes | None) -> None:
    """Write RUN/final, RUN/evaluation.json and RUN/report.html, and log a summary."""
    output = training.settings.output
    evaluations = [entry for entry in read_journal(output) if entry["kind"] == "eval"]
    facts: dict[str, Any] = {
        **training.description,
        "stage": training.objective.stage,
        "steps": training.step,
        "evaluation": evaluations[-1] if evaluations else None,
    }
    export_final(output, training.model, tokenizer, facts)
    if evaluation is not None:
        write_atomic(output / "evaluation.json", evaluation)
    write_report(output)
    logger.info(
        "%s: done after %d steps; the model is in %s, curves in %s",
        output,
        training.step,
        output / "final",
        output / "report.html",
    )
    best = training.best.get("step", training.step)
    if best != training.step:
        logger.info("best evaluation after step %d, checkpoint %s", best, checkpoint_path(output, int(best)))
