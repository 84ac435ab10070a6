"""The journal of a run: RUN/metrics.jsonl, and the same values in experiment trackers.

An entry is a line of JSON: `{"kind": "train", "step": 20, "loss": 5.25, ...}`. JSON cannot represent numbers that are
not finite: they are written as null and listed in the entry's "not_finite" as "loss=nan", "loss=inf" or "loss=-inf".
Lines are written in the order of steps. A run that resumes at step n deletes the entries of later steps, so apart from
`TIMING`, an interrupted run has the same lines as an uninterrupted one.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.shards.storage.atomic import write_atomic
from vilbert.pipeline.train.run.disk import explain_disk_errors
from vilbert.pipeline.train.run.trackers import Tracker, finish_trackers, log_to
from vilbert.untrusted.documents import parse_json

logger = logging.getLogger(__name__)

METRICS_FILE = "metrics.jsonl"
TIMING = frozenset(
    {
        *("samples_per_second", "samples_per_second_per_device", "tokens_per_second_per_device"),
        *("waiting", "seconds", "memory_bytes", "mfu"),
    }
)
"""Fields about speed, the only ones in which the lines of two equal runs differ."""


class Journal:
    """Writes a run's entries, on rank 0 only."""

    def __init__(
        self,
        run: Path,
        *,
        resumed_at: int | None,
        trackers: Mapping[str, Tracker] | None = None,
        evaluation_due: bool = False,
    ) -> None:
        """Open the journal in the folder `run`: anew, or, at step `resumed_at`, without what came after that step.

        trackers: Open trackers by name, which are shown every entry as `KIND/NAME` and closed with the journal.
        evaluation_due: Leave out the evaluation of that step too; it is done again.
        """
        run.mkdir(parents=True, exist_ok=True)
        self._path = run / METRICS_FILE
        with explain_disk_errors(self._path):
            if resumed_at is None:
                write_atomic(self._path, b"")
            else:
                cut_back(self._path, resumed_at, evaluation_due=evaluation_due)
        self._file = self._path.open("ab")
        self._trackers = dict(trackers or {})

    def write(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """Append an entry and hand it to the system: a kill of the process does not lose it.

        Raises OSError naming the file where the disk refuses.
        """
        with explain_disk_errors(self._path):
            try:
                self._file.write(line(kind, step, values))
                self._file.flush()
            except OSError:
                with contextlib.suppress(OSError):  # what is left of the line, refused once more
                    self._file.close()
                raise
        log_to(self._trackers, step, {f"{kind}/{name}": value for name, value in values.items()})

    def close(self) -> None:
        """Close the file and the trackers."""
        self._file.close()
        finish_trackers(self._trackers)


def line(kind: str, step: int, values: Mapping[str, float]) -> bytes:
    """Return an entry as a line of JSON, the same bytes for the same values."""
    entry: dict[str, Any] = {"kind": kind, "step": step}
    entry |= {name: value if math.isfinite(value) else None for name, value in values.items()}
    not_finite = [f"{name}={float(value)}" for name, value in values.items() if not math.isfinite(value)]
    if not_finite:
        entry["not_finite"] = not_finite
    return json.dumps(entry, allow_nan=False).encode() + b"\n"


def read_journal(run: Path) -> list[dict[str, Any]]:
    """Read a run's entries in order; an incomplete last line is ignored, and a missing journal has no entries.

    Raises ShardError where another line is not an entry.
    """
    path = run / METRICS_FILE
    if not path.exists():
        return []
    return [entry for _, entry in _entries(path)]


def without_timing(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the entries without fields about speed: equal for a run and the same run resumed."""
    return [{name: value for name, value in entry.items() if name not in TIMING} for entry in entries]


def cut_back(path: Path, step: int, *, evaluation_due: bool = False) -> None:
    """Keep only complete lines of steps up to `step` in a journal, atomically.

    evaluation_due: Leave out the evaluation of `step`.
    """
    if not path.exists():
        write_atomic(path, b"")
        return
    kept = b"".join(
        raw + b"\n"
        for raw, entry in _entries(path)
        if entry["step"] <= step and not (evaluation_due and entry["step"] == step and entry["kind"] == "eval")
    )
    if path.stat().st_size != len(kept):
        write_atomic(path, kept)


def _entries(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    *lines, _unfinished = path.read_bytes().split(b"\n")  # a line is whole once its end is written
    return [(raw, _entry(raw, path, number)) for number, raw in enumerate(lines, 1)]


def _entry(raw: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        entry = parse_json(raw)
    except ValueError:
        entry = None
    if not isinstance(entry, dict) or not isinstance(entry.get("kind"), str) or not isinstance(entry.get("step"), int):
        raise ShardError(f"{path}, line {number}: is not an entry with a kind and a step; delete this line")
    return entry
