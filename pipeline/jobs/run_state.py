"""State of a run of a job, in a file that `vilbert status` reads.

    DIR/.run.json     rewritten every few seconds, and a last time when the run ends, however it ends

It is the summary of the last run, no part of the data set: it may be deleted.
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
"""Of the file."""
DERIVED = ("images_per_second", "detector_waited", "worker_hours_per_million", "cost_per_million")
"""What the file has beside the fields of `RunState`, from which it follows."""
Seconds = Annotated[float, Interval(ge=0, lt=1e13)]
HOUR = 3600.0
MILLION = 1_000_000


@dataclass(kw_only=True)
class RunState:
    """Counts of a run; times are in seconds. "This run" leaves out what earlier ones did."""

    __pydantic_config__ = DOCUMENT_CONFIG

    state: str = "running"
    """starting, running, finished, interrupted or failed."""
    message: str = ""
    """Why it failed."""
    software: str
    """Version of this package."""
    holder: dict[str, Any]
    """The process, see `vilbert.pipeline.shards.location.process`."""
    log: str | None = None
    """Path of the run's log on the driver's machine; None where it cannot be written."""
    begun: Seconds
    """Unix time of the beginning."""
    updated: Seconds = 0.0
    """Unix time of the last change."""
    seconds: Seconds = 0.0
    """Seconds since the start, by a monotonic clock."""
    rows: Count = 0
    """Of the manifest that the data set covers."""
    rows_before: Count = 0
    """Done by earlier runs, those of shards made once more that were kept among them."""
    rows_done: Count = 0
    """In shards that are done, by this run and earlier ones."""
    rows_in_work: Count = 0
    """Done of shards that are not."""
    shards: Count = 0
    """Of the data set."""
    shards_done: Count = 0
    """By this run and earlier ones."""
    samples: Count = 0
    """Written by this run."""
    failures: Counts = field(default_factory=dict)
    """Rows that failed in this run, by reason."""
    failures_before: Count = 0
    """Rows that failed in earlier runs."""
    bytes: Count = 0
    """Of samples, written by this run."""
    workers: Count = 0
    """At work now."""
    workers_lost: Count = 0
    """Killed, dead or stuck in this run."""
    worker_seconds: Seconds = 0.0
    """Of all workers together, from the moment that their detectors were ready."""
    detector_seconds: Seconds = 0.0
    """For which detectors were at images, of shards that this run finished."""
    price_per_hour: NonNegativeFloat | None = None
    """Of a worker, as `--price-per-hour` said."""

    def ends(self, error: BaseException | None) -> None:
        """Say how the run ended: with this error, or well."""
        if error is None:
            self.state = "finished"
        elif isinstance(error, KeyboardInterrupt):
            self.state = "interrupted"
        else:
            self.state, self.message = "failed", encodable(str(error))

    @property
    def failed(self) -> int:
        """Rows that failed in this run and earlier ones."""
        return self.failures_before + sum(self.failures.values())

    @property
    def images_per_second(self) -> float | None:
        """Rows done by this run over its seconds; None in its first moment."""
        done = self.rows_done + self.rows_in_work - self.rows_before
        return done / self.seconds if self.seconds > 0 else None

    @property
    def detector_waited(self) -> float | None:
        """The share of the workers' time in which their detectors had no images; None before a shard is done."""
        if not self.detector_seconds or not self.worker_seconds:
            return None
        return max(0.0, 1.0 - self.detector_seconds / self.worker_seconds)

    @property
    def worker_hours_per_million(self) -> float | None:
        """What a million images cost in hours of a worker; None before a shard is done."""
        done = self.rows_done - self.rows_before
        return self.worker_seconds / HOUR * MILLION / done if done > 0 else None

    @property
    def cost_per_million(self) -> float | None:
        """What a million images cost in the currency of `--price-per-hour`; None where that was not given."""
        hours = self.worker_hours_per_million
        return None if hours is None or self.price_per_hour is None else hours * self.price_per_hour

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values, with what follows from the counts."""
        return {
            "format": FORMAT,
            **dataclasses.asdict(self),
            **{name: getattr(self, name) for name in DERIVED},
        }


def read_state(folder: Folder, file: str = RUN_FILE) -> RunState | None:
    """Return what the last run left in a file; None if there is no such file, or none of this format."""
    with folder.local([file]) as directory:
        try:
            found = read_json(directory / file)
            if not isinstance(found, dict) or found.pop("format", None) != FORMAT:
                return None
            return from_json(RunState, {name: value for name, value in found.items() if name not in DERIVED})
        except (OSError, ValueError):
            return None


def encodable(text: str) -> str:
    """Return a text that JSON can hold: bytes of a path that are not UTF-8 become escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
