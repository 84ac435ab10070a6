"""A shard's journal: which rows are being processed, to find the image that crashed a worker.

    .journals/000003.journal        lines of ATTEMPT EVENT ROW ROW …

    7f3a90c1 begin
    7f3a90c1 decode 3001            the row is being read and decoded
    7f3a90c1 decoded 3001
    7f3a90c1 detect 3001 3002       the rows are in the detector, as one batch
    7f3a90c1 detected 3001 3002
    7f3a90c1 alone 3001             the row is tried by itself, with nothing else in hand
    7f3a90c1 passed 3001
    -------- stalled                the driver ended the last attempt, because it stood still
    7f3a90c1 ended                  the attempt ended in order, whether well or with an error

An attempt without `ended` died. A line that is torn or foreign is passed over. A journal goes when its shard is done.
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
"""Events before which their line has to be safe: what comes next may end the process."""


@dataclass(kw_only=True, slots=True)
class Attempt:
    """What the journal records of one attempt at a shard."""

    decoding: set[int] = field(default_factory=set)
    """Rows that were being decoded when it ended."""
    detecting: set[int] = field(default_factory=set)
    """Rows that were in the detector when it ended."""
    alone: int | None = None
    """The row that was being tried by itself when it ended."""
    passed: set[int] = field(default_factory=set)
    """Rows that were tried by themselves and did no harm."""
    came_through: bool = False
    """Whether any row came out of the detector, or did no harm by itself."""
    stalled: bool = False
    """Whether it was ended because it stood still."""
    ended: bool = False
    """Whether it ended in order."""


def parse_journal(data: bytes, rows: range) -> list[Attempt]:
    """Return the attempts in the order of their beginning. What is no line of a journal, or of other rows, is nothing.

    data: the journal's bytes, in any state.
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
    """Where the lines of one attempt go. Its methods may be called from several threads, and raise what they like."""

    def append(self, lines: bytes, *, wait: bool) -> None:
        """Append lines; `wait` until they, and those before, would outlive this process."""

    def close(self) -> None:
        """Append nothing from now on."""

    def remove(self) -> None:
        """Delete the file."""


class Journal:
    """The journal of one attempt at a shard. Its methods may be called from several threads.

    A journal that cannot be written costs nothing but itself: the shard is what matters.
    """

    def __init__(self, file: JournalFile | None = None, *, keep: bool = False) -> None:
        """Begin an attempt; without a file nothing is written.

        keep: leave the file when the attempt ends in order, because others before it died.
        """
        self._file: JournalFile = file or _Nowhere()
        self._keep = keep
        self._token = secrets.token_hex(4)
        self._lock = threading.Lock()
        self.beats = 0
        """Grows with every event and every try to fetch: whether the attempt still moves."""
        self._append(f"\n{self._token} begin\n", wait=True)  # the last line of one that was killed may be torn

    def beat(self) -> None:
        """Count a sign of life."""
        self.beats += 1

    def note(self, event: str, rows: Iterable[int] = ()) -> None:
        """Append an event, of those at the head of this file."""
        self.beat()
        self._append(" ".join([self._token, event, *map(str, rows)]) + "\n", wait=event in _IN_HAND)
        self.beat()

    def flush(self) -> None:
        """Have what was noted safe: nothing is in hand now, and what comes next is not an image's fault."""
        self._append("", wait=True)

    @contextlib.contextmanager
    def detecting(self, rows: Iterable[int]) -> Iterator[None]:
        """Note that rows go into the detector, and that they came out of it, unless the device was lost over them."""
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
        """Let the attempt end in order; what threads that are still at it note is not written."""
        with self._last_of_it() as file:
            if self._keep:
                file.append(f"{self._token} ended\n".encode(), wait=False)
                file.close()
            else:
                file.remove()

    def leave(self) -> None:
        """Let the attempt stand as it is, like that of a process that died."""
        with self._last_of_it() as file:
            file.close()

    def remove(self) -> None:
        """Delete the journal, if the attempt is not over yet: the shard is done."""
        with self._last_of_it() as file:
            file.remove()

    @contextlib.contextmanager
    def _last_of_it(self) -> Iterator[JournalFile]:
        """Give the file to the first caller."""
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
    """A file that takes everything and keeps nothing."""

    def append(self, lines: bytes, *, wait: bool) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""

    def remove(self) -> None:
        """Do nothing."""


def costing_nothing() -> contextlib.suppress:
    """Pass over whatever goes wrong with a journal; file systems behind fsspec raise errors of their own kinds."""
    return contextlib.suppress(Exception)
