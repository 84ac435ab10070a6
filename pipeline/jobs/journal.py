"""The journal of a shard: records which rows are being processed, to identify images that crash workers.

    .journals/000003.journal        lines of ATTEMPT EVENT ROW ROW ...

    7f3a90c1 begin
    7f3a90c1 decode 3001            the row is being read and decoded
    7f3a90c1 decoded 3001
    7f3a90c1 detect 3001 3002       the rows are in the detector, as one batch
    7f3a90c1 detected 3001 3002
    7f3a90c1 alone 3001             the row is tried by itself, while no other row is in progress
    7f3a90c1 passed 3001
    -------- stalled                the driver ended the last attempt, because it made no progress
    7f3a90c1 ended                  the attempt ended regularly, with or without an error

An attempt without `ended` died. Damaged and unknown lines are ignored. A journal is deleted when its shard is finished.
`journals.py` stores it.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

from vilbert.pipeline.errors import DeviceLostError

_LINE = re.compile(
    rb"([0-9a-f]{8}|--------) (begin|decode|decoded|detect|detected|alone|passed|stalled|ended)((?: \d{1,12})*)"
)
_IN_HAND = {"decode", "detect", "alone"}
"""Events whose line must be stored before continuing, because the next step may kill the process."""


@dataclass(kw_only=True, slots=True)
class Attempt:
    """One attempt at a shard, as recorded in the journal."""

    decoding: set[int] = field(default_factory=set)
    """Rows that were being decoded when the attempt ended."""
    detecting: set[int] = field(default_factory=set)
    """Rows that were in the detector when the attempt ended."""
    alone: int | None = None
    """The row that was being processed alone when the attempt ended."""
    passed: set[int] = field(default_factory=set)
    """Rows that were tried by themselves and passed."""
    came_through: bool = False
    """Whether any row passed the detector, or passed by itself."""
    stalled: bool = False
    """Whether it was ended because it made no progress."""
    ended: bool = False
    """Whether it ended regularly."""


def parse_journal(data: bytes, rows: range) -> list[Attempt]:
    """Return the attempts in the order of their start. Lines that are invalid or of other rows are ignored.

    Args:
        data: The bytes of the journal, possibly damaged.
        rows: The rows of the shard.
    """
    attempts: dict[bytes, Attempt] = {}
    for line in data.split(b"\n"):
        match = _LINE.fullmatch(line)
        if match is None:
            continue
        token, event, numbers = match.groups()
        named = [row for row in map(int, numbers.split()) if row in rows]
        if event == b"stalled":
            if attempts:
                next(reversed(attempts.values())).stalled = True
        elif event == b"begin":
            attempts[token] = Attempt()
        elif token in attempts:
            _note(attempts[token], event, named)
    return list(attempts.values())


def _note(attempt: Attempt, event: bytes, rows: list[int]) -> None:
    match event:
        case b"decode":
            attempt.decoding.update(rows)
        case b"decoded":
            attempt.decoding.difference_update(rows)
        case b"detect":
            attempt.detecting.update(rows)
        case b"detected":
            attempt.detecting.difference_update(rows)
            attempt.came_through = True
        case b"alone":
            attempt.alone = rows[0] if rows else None
        case b"passed":
            attempt.passed.update(rows)
            attempt.alone = None
            attempt.came_through = True
        case b"ended":
            attempt.ended = True


class JournalFile(Protocol):
    """Destination of the lines of one attempt. Its methods may be called from several threads and raise any error."""

    def append(self, lines: bytes, *, wait: bool) -> None:
        """Append lines; with `wait`, return when they and all earlier lines survive the end of this process."""

    def close(self) -> None:
        """Accept no further lines."""

    def remove(self) -> None:
        """Delete the file."""


class Journal:
    """The journal of one attempt at a shard. Its methods may be called from several threads.

    If a journal cannot be written, the shard is made without it.
    """

    def __init__(self, file: JournalFile | None = None, *, keep: bool = False) -> None:
        """Start an attempt; without a file, nothing is written.

        keep: keep the file when the attempt ends regularly, because earlier attempts died.
        """
        self._file: JournalFile = file or _Nowhere()
        self._keep = keep
        self._token = secrets.token_hex(4)
        self._lock = threading.Lock()
        self.beats = 0
        """Increases with every event and every fetch, to show progress of the attempt."""
        self._append(f"\n{self._token} begin\n", wait=True)  # the last line of one that was killed may be torn

    def beat(self) -> None:
        """Count a heartbeat."""
        self.beats += 1

    def note(self, event: str, rows: Iterable[int] = ()) -> None:
        """Append an event listed at the head of this file."""
        self.beat()
        self._append(" ".join([self._token, event, *map(str, rows)]) + "\n", wait=event in _IN_HAND)
        self.beat()

    def flush(self) -> None:
        """Store all events safely: no row is in progress, and what follows cannot be caused by an image."""
        self._append("", wait=True)

    @contextlib.contextmanager
    def detecting(self, rows: Iterable[int]) -> Iterator[None]:
        """Record that rows enter the detector and, unless the device is lost, that they have left it."""
        self.note("detect", rows)
        try:
            yield
        except DeviceLostError:
            raise
        except BaseException:
            self.note("detected", rows)
            raise
        self.note("detected", rows)

    def end(self) -> None:
        """End the attempt regularly; later events of threads that still run are not written."""
        with self._last_of_it() as file:
            if self._keep:
                file.append(f"{self._token} ended\n".encode(), wait=False)
                file.close()
            else:
                file.remove()

    def leave(self) -> None:
        """Leave the attempt unfinished, like that of a process that died."""
        with self._last_of_it() as file:
            file.close()

    def remove(self) -> None:
        """Delete the journal because the shard is finished, unless the attempt has already ended."""
        with self._last_of_it() as file:
            file.remove()

    @contextlib.contextmanager
    def _last_of_it(self) -> Iterator[JournalFile]:
        """Return the file to the first caller only."""
        with self._lock:
            file, self._file = self._file, _Nowhere()
        with costing_nothing():
            yield file

    def _append(self, lines: str, *, wait: bool) -> None:
        with costing_nothing():
            self._file.append(lines.encode(), wait=wait)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, DeviceLostError):
            self.leave()
        else:
            self.end()


class _Nowhere:
    """A file that discards everything."""

    def append(self, lines: bytes, *, wait: bool) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""

    def remove(self) -> None:
        """Do nothing."""


def costing_nothing() -> contextlib.suppress:
    """Ignore all errors of a journal; file systems of fsspec raise errors of their own types."""
    return contextlib.suppress(Exception)
