"""State of a run of a job, in a file that `vilbert status` reads.

    DIR/.run.json     rewritten every few seconds, and a last time when the run ends, however it ends

It is the summary of the last run, no part of the data set: it may be deleted.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from vilbert.pipeline.shards.location.folder import Folder
from vilbert.untrusted.documents import read_json

RUN_FILE = ".run.json"
FORMAT = 1
"""Of the file."""
LARGEST = {int: 10**18, float: 1e13}
"""Numbers from here on are no counts and no seconds of a run."""
HOUR = 3600.0
MILLION = 1_000_000


@dataclass(kw_only=True)
class RunState:
    """Counts of a run; times are in seconds. "This run" leaves out what earlier ones did."""

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
    begun: float
    """Unix time of the beginning."""
    updated: float = 0.0
    """Unix time of the last change."""
    seconds: float = 0.0
    """Seconds since the start, by a monotonic clock."""
    rows: int = 0
    """Of the manifest that the data set covers."""
    rows_before: int = 0
    """Done by earlier runs, those of shards made once more that were kept among them."""
    rows_done: int = 0
    """In shards that are done, by this run and earlier ones."""
    rows_in_work: int = 0
    """Done of shards that are not."""
    shards: int = 0
    """Of the data set."""
    shards_done: int = 0
    """By this run and earlier ones."""
    samples: int = 0
    """Written by this run."""
    failures: dict[str, int] = field(default_factory=dict)
    """Rows that failed in this run, by reason."""
    failures_before: int = 0
    """Rows that failed in earlier runs."""
    bytes: int = 0
    """Of samples, written by this run."""
    workers: int = 0
    """At work now."""
    workers_lost: int = 0
    """Killed, dead or stuck in this run."""
    worker_seconds: float = 0.0
    """Of all workers together, from the moment that their detectors were ready."""
    detector_seconds: float = 0.0
    """For which detectors were at images, of shards that this run finished."""
    price_per_hour: float | None = None
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
            "images_per_second": self.images_per_second,
            "detector_waited": self.detector_waited,
            "worker_hours_per_million": self.worker_hours_per_million,
            "cost_per_million": self.cost_per_million,
        }


def read_state(folder: Folder, file: str = RUN_FILE) -> RunState | None:
    """Return what the last run left in a file; None if there is no such file, or none of this format."""
    with folder.local([file]) as directory:
        try:
            document = read_json(directory / file)
            if document["format"] != FORMAT:
                return None
            values = {name: document[name] for name in get_type_hints(RunState)}
        except (OSError, ValueError, TypeError, LookupError):
            return None
    if not all(_is_of(values[name], kind) for name, kind in get_type_hints(RunState).items()):
        return None
    return RunState(**values)


def encodable(text: str) -> str:
    """Return a text that JSON can hold: bytes of a path that are not UTF-8 become escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _is_of(value: Any, kind: Any) -> bool:
    """Say whether a value of a file is of a field's type, and a number one that can be told."""
    if isinstance(kind, UnionType):
        return any(_is_of(value, one) for one in get_args(kind))
    if get_origin(kind) is dict:
        of_value = get_args(kind)[1]
        return isinstance(value, dict) and (of_value is Any or all(_is_of(one, of_value) for one in value.values()))
    if kind in (int, float):
        return type(value) in (int, kind) and abs(value) < LARGEST[kind]
    return isinstance(value, kind)
