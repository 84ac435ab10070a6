"""State of a job's run, in a file that `vilbert status` reads.

    DIR/.run.json     rewritten every few seconds, and a last time when the run ends

It is the summary of the last run, not part of the data set; it may be deleted.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Any

from annotated_types import Interval

from vilbert.documents import DOCUMENT_CONFIG, Count, Counts, from_json
from vilbert.pipeline.shards.location.folder import Folder
from vilbert.settings import NonNegativeFloat
from vilbert.untrusted.documents import read_json

RUN_FILE = ".run.json"
FORMAT = 1
"""Format number of the file."""
DERIVED = ("images_per_second", "detector_waited", "worker_hours_per_million", "cost_per_million")
"""Values in the file that are derived from the fields of `RunState`."""
Seconds = Annotated[float, Interval(ge=0, lt=1e13)]
HOUR = 3600.0
MILLION = 1_000_000


@dataclass(kw_only=True)
class RunState:
    """Counts of a run; times are in seconds. "This run" excludes earlier runs."""

    __pydantic_config__ = DOCUMENT_CONFIG

    state: str = "running"
    """starting, running, finished, interrupted or failed."""
    message: str = ""
    """Message of the failure."""
    software: str
    """Version of this package."""
    holder: dict[str, Any]
    """The process, see `vilbert.pipeline.shards.location.process`."""
    log: str | None = None
    """Path of the run's log on the driver's machine; None if it cannot be written."""
    begun: Seconds
    """Unix time of the start."""
    updated: Seconds = 0.0
    """Unix time of the last change."""
    seconds: Seconds = 0.0
    """Seconds since the start, by a monotonic clock."""
    rows: Count = 0
    """Rows of the manifest that the data set covers."""
    rows_before: Count = 0
    """Rows finished by earlier runs, including kept rows of shards that are made again."""
    rows_done: Count = 0
    """Rows in finished shards, of this run and earlier ones."""
    rows_in_work: Count = 0
    """Finished rows of unfinished shards."""
    shards: Count = 0
    """Shards of the data set."""
    shards_done: Count = 0
    """Finished shards, of this run and earlier ones."""
    samples: Count = 0
    """Samples written by this run."""
    failures: Counts = field(default_factory=dict)
    """Rows that failed in this run, by reason."""
    failures_before: Count = 0
    """Rows that failed in earlier runs."""
    bytes: Count = 0
    """Bytes of samples written by this run."""
    workers: Count = 0
    """Workers that are running now."""
    workers_lost: Count = 0
    """Workers that were killed, died or got stuck in this run."""
    worker_seconds: Seconds = 0.0
    """Sum over all workers since their detectors were ready."""
    detector_seconds: Seconds = 0.0
    """Seconds in which detectors processed images, for shards that this run finished."""
    price_per_hour: NonNegativeFloat | None = None
    """Price of a worker per hour, from `--price-per-hour`."""

    def ends(self, error: BaseException | None) -> None:
        """Set the final state of the run: finished, or the state for this error."""
        if error is None:
            self.state = "finished"
        elif isinstance(error, KeyboardInterrupt):
            self.state = "interrupted"
        else:
            self.state, self.message = "failed", encodable(str(error))

    @property
    def failed(self) -> int:
        """Failed rows of this run and earlier ones."""
        return self.failures_before + sum(self.failures.values())

    @property
    def images_per_second(self) -> float | None:
        """Rows finished by this run per second; None in its first moment."""
        done = self.rows_done + self.rows_in_work - self.rows_before
        return done / self.seconds if self.seconds > 0 else None

    @property
    def detector_waited(self) -> float | None:
        """Fraction of the workers' time in which their detectors had no images; None before a shard is finished."""
        if not self.detector_seconds or not self.worker_seconds:
            return None
        return max(0.0, 1.0 - self.detector_seconds / self.worker_seconds)

    @property
    def worker_hours_per_million(self) -> float | None:
        """Worker hours per million images; None before a shard is finished."""
        done = self.rows_done - self.rows_before
        return self.worker_seconds / HOUR * MILLION / done if done > 0 else None

    @property
    def cost_per_million(self) -> float | None:
        """Cost of a million images in the currency of `--price-per-hour`; None without that option."""
        hours = self.worker_hours_per_million
        return None if hours is None or self.price_per_hour is None else hours * self.price_per_hour

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values, including derived values."""
        return {
            "format": FORMAT,
            **dataclasses.asdict(self),
            **{name: getattr(self, name) for name in DERIVED},
        }


def read_state(folder: Folder, file: str = RUN_FILE) -> RunState | None:
    """Return the state of the last run from a file; None if the file does not exist or has another format."""
    with folder.local([file]) as directory:
        try:
            found = read_json(directory / file)
            if not isinstance(found, dict) or found.pop("format", None) != FORMAT:
                return None
            return from_json(RunState, {name: value for name, value in found.items() if name not in DERIVED})
        except (OSError, ValueError):
            return None


def encodable(text: str) -> str:
    """Return a string that JSON can represent: bytes of a path that are not UTF-8 become escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
