"""Experiment trackers: where the metrics of a run are shown, beside RUN/metrics.jsonl, which is always written.

The first process of a run opens its trackers, and a resumed run continues the tracker's own run: its ID is kept in
RUN/trackers.json. docs/extending/tracker.md shows how a package adds a tracker.
"""

from __future__ import annotations

import importlib.util
import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from vilbert.documents import from_json
from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.shards.canonical import encode_json
from vilbert.pipeline.shards.storage.atomic import write_atomic
from vilbert.pipeline.train.run.disk import explain_disk_errors
from vilbert.plugins import PluginError, Registry
from vilbert.untrusted.documents import DocumentError, read_json

logger = logging.getLogger(__name__)

AUTO = "auto"
TENSORBOARD_FOLDER = "tensorboard"
IDS_FILE = "trackers.json"
PROJECT = "vilbert"
"""Project or experiment name, unless the service's own environment variable names another."""


class Tracker(Protocol):
    """Shows the metrics of one run."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show metrics of a step, such as `train/loss`; values may be NaN or infinite."""

    def finish(self) -> None:
        """Close the tracker: the run has ended, or was interrupted and may be resumed."""


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """Information about the run that a tracker opens."""

    tracker: str
    """The tracker's name, under which its ID is kept."""
    folder: Path
    """RUN."""
    settings: Mapping[str, Any]
    """Settings that affect training, and the model's config."""
    resumed_at: int | None
    """The step that the run continues from; None at its start."""

    def read_id(self) -> str | None:
        """Return the ID that `keep_id` kept in an earlier session of the run; None in the first."""
        return _read_ids(self.folder).get(self.tracker)

    def keep_id(self, identifier: str) -> None:
        """Keep the tracker's ID of the run for the sessions that resume it."""
        ids = {**_read_ids(self.folder), self.tracker: identifier}
        write_atomic(self.folder / IDS_FILE, encode_json(ids, indent=2) + b"\n")


@dataclass(frozen=True, kw_only=True)
class TrackerSpec:
    """A tracker's facts, known without importing its package."""

    open: Callable[[TrackedRun], Tracker]
    """Opens the tracker of a run."""
    package: str | None = None
    """The package that must be installed, by its import name, which is also its name for pip."""


TRACKERS = Registry(
    kind="tracker",
    group="vilbert.trackers",
    built_in={
        name: f"vilbert.pipeline.train.run.trackers:{name.upper()}"
        for name in ("tensorboard", "trackio", "wandb", "mlflow")
    },
    references=True,
)


def require_tracker(name: str) -> None:
    """Raise ValueError if there is no tracker of that name; nothing is imported."""
    if name != AUTO and not TRACKERS.is_known(name) and ":" not in name:
        raise ValueError(f"--tracker: {TRACKERS.unknown(name)}")


def installed_trackers(names: Iterable[str]) -> list[str]:
    """Return the names of trackers with `tensorboard` in place of `auto`, or without it where it is not installed."""
    if importlib.util.find_spec("tensorboard") is not None:
        return list(dict.fromkeys("tensorboard" if name == AUTO else name for name in names))
    return [name for name in names if name != AUTO]


def find_tracker(name: str) -> TrackerSpec:
    """Return the spec of a tracker.

    Raises:
        RefusedError: There is no such tracker, or its package is not installed or cannot be imported.
    """
    try:
        found = TRACKERS.load(name)
    except PluginError as error:
        raise RefusedError(f"--tracker {name}: {error}") from error
    spec = found if isinstance(found, TrackerSpec) else TrackerSpec(open=found)
    if spec.package is not None and importlib.util.find_spec(spec.package) is None:
        raise RefusedError(
            f"--tracker {name} needs the package {spec.package}: pip install {spec.package}. "
            "metrics.jsonl is written without any tracker"
        )
    return spec


def open_trackers(
    names: Iterable[str], folder: Path, settings: Mapping[str, Any], *, resumed_at: int | None
) -> dict[str, Tracker]:
    """Open the trackers of a run. One that cannot be opened is reported and left out: it does not stop the training.

    Raises:
        RefusedError: A tracker does not exist, its package is not installed, or the file of IDs is damaged.
    """
    opened: dict[str, Tracker] = {}
    asked = list(names)
    chosen = installed_trackers(asked)
    if AUTO in asked and "tensorboard" not in chosen:
        logger.info(
            "TensorBoard is not installed, so RUN/tensorboard is not written: pip install "
            "'vilbert-pipeline[tensorboard]'; give --tracker none to hide this line"
        )
    for name in chosen:
        spec = find_tracker(name)
        run = TrackedRun(tracker=name, folder=folder, settings=settings, resumed_at=resumed_at)
        try:
            opened[name] = spec.open(run)
        except RefusedError:
            raise
        except Exception as error:  # as in `log_to`
            logger.warning(
                "--tracker %s cannot be opened and is not used in this session: %s: %s; metrics.jsonl is written as "
                "always", name, type(error).__name__, error,
            )  # fmt: skip
    return opened


def log_to(trackers: dict[str, Tracker], step: int, metrics: Mapping[str, float]) -> None:
    """Show metrics in trackers. One that fails is reported once and dropped: it does not stop the training."""
    for name, tracker in list(trackers.items()):
        try:
            tracker.log(step, metrics)
        except Exception as error:  # a service that cannot be reached must not end days of training
            logger.warning("--tracker %s failed and is not used any more: %s: %s", name, type(error).__name__, error)
            del trackers[name]


def finish_trackers(trackers: Mapping[str, Tracker]) -> None:
    """Close trackers; one that fails is reported."""
    for name, tracker in trackers.items():
        try:
            tracker.finish()
        except Exception as error:  # as in `log_to`
            logger.warning("--tracker %s could not be closed: %s: %s", name, type(error).__name__, error)


def _read_ids(folder: Path) -> dict[str, str]:
    path = folder / IDS_FILE
    try:
        return from_json(dict[str, str], read_json(path))
    except FileNotFoundError:
        return {}
    except (DocumentError, OSError) as error:
        raise RefusedError(f"{path}: cannot be read ({error}); delete it to begin new runs in the trackers") from error


class _TensorBoard:
    def __init__(self, run: TrackedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._folder = run.folder / TENSORBOARD_FOLDER
        # The events of the steps that are taken again are hidden, not rewritten: the writer only appends files.
        purge_step = None if run.resumed_at is None else run.resumed_at + 1
        self._writer: Any = SummaryWriter(str(self._folder), purge_step=purge_step)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        with explain_disk_errors(self._folder):
            for name, value in metrics.items():
                self._writer.add_scalar(name, value, step)

    def finish(self) -> None:
        self._writer.close()


class _Logged:
    """A run of trackio or wandb: `log(metrics, step=)` and `finish()`."""

    def __init__(self, run: Any) -> None:
        self._run = run

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=step)

    def finish(self) -> None:
        self._run.finish()


def _open_trackio(run: TrackedRun) -> Tracker:
    import os

    import trackio

    name = run.read_id() or _new_id(run)
    project = os.environ.get("TRACKIO_PROJECT", PROJECT)
    return _Logged(trackio.init(project=project, name=name, config=dict(run.settings), resume="allow"))


def _open_wandb(run: TrackedRun) -> Tracker:
    import os

    import wandb

    identifier = run.read_id() or _new_id(run)
    return _Logged(
        wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=identifier,
            name=run.folder.resolve().name,
            config=dict(run.settings),
            dir=str(run.folder),
            resume="allow",
        )
    )


def _new_id(run: TrackedRun) -> str:
    import secrets

    identifier = f"{run.folder.resolve().name[:40]}-{secrets.token_hex(4)}"
    run.keep_id(identifier)
    return identifier


class _Mlflow:
    def __init__(self, run: TrackedRun) -> None:
        import os

        import mlflow

        self._mlflow = mlflow
        if "MLFLOW_EXPERIMENT_NAME" not in os.environ and "MLFLOW_EXPERIMENT_ID" not in os.environ:
            mlflow.set_experiment(PROJECT)
        before = run.read_id()
        started = mlflow.start_run(run_id=before, run_name=None if before else run.folder.resolve().name)
        if before is None:
            run.keep_id(started.info.run_id)
            texts = {key: str(value)[:500] for key, value in run.settings.items()}  # MLflow's limit is 6000
            mlflow.log_params(texts)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._mlflow.log_metrics({name: value for name, value in metrics.items() if math.isfinite(value)}, step=step)

    def finish(self) -> None:
        self._mlflow.end_run()


TENSORBOARD = TrackerSpec(open=_TensorBoard, package="tensorboard")
TRACKIO = TrackerSpec(open=_open_trackio, package="trackio")
WANDB = TrackerSpec(open=_open_wandb, package="wandb")
MLFLOW = TrackerSpec(open=_Mlflow, package="mlflow")
