"""A shard's journal: which rows are in hand right now, so that whoever comes after a crash knows whom to suspect.

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

An attempt without `ended` died. What a killed process wrote is with the kernel already, so nothing is fsynced: a
machine that loses its power is no image's fault. A line that is torn or foreign is passed over. A journal goes when
its shard is done. Where the data set is behind a URL, its journals are in the folder for temporary files of the machine
where the shard is made; when a worker is lost, the driver fetches them, and hands them to the next.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import tempfile
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from pipeline.extract.stopped import DeviceLostError
from pipeline.shards.layout import JOURNALS_FOLDER, shard_name

_LINE = re.compile(
    rb"([0-9a-f]{8}|--------) (begin|decode|decoded|detect|detected|alone|passed|stalled|ended)((?: \d{1,12})*)"
)
_NAME = re.compile(r"(\d{6,})\.journal")
_MOST_BYTES = 64 << 20
"""Of a journal that is read: of a shard of a million rows. What is behind it is passed over."""


@dataclass(kw_only=True, slots=True)
class Attempt:
    """What the journal tells of one try of a shard."""

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


def journal_folder(place: Path | str, manifest: Path) -> Path:
    """Return the folder of a data set's journals: inside its own, or where it is behind a URL, on this machine.

    There they are apart from those of data sets from other manifests, which the URL may have had or will have.
    """
    return place / JOURNALS_FOLDER if isinstance(place, Path) else _own_folder(f"{place}\n{manifest.absolute()}")


def log_folder(place: Path | str) -> Path:
    """Return the folder of a data set's log: its own, or where it is behind a URL, one of this machine."""
    return place if isinstance(place, Path) else _own_folder(place)


def _own_folder(name: str) -> Path:
    folder = Path(tempfile.gettempdir()) / f"vilbert-journals-{os.getuid()}"
    return folder / hashlib.sha256(name.encode()).hexdigest()[:16]


def journal_path(folder: Path, shard: int) -> Path:
    """Return the path of a shard's journal."""
    return folder / f"{shard_name(shard)}.journal"


def journals(folder: Path) -> dict[int, Path]:
    """Return the journals there are, by shard."""
    found = ((_NAME.fullmatch(path.name), path) for path in folder.glob("*.journal"))
    return {int(match[1]): path for match, path in found if match}


def remove_journals(folder: Path) -> None:
    """Delete all journals and their folder: the data set is complete, or begins anew."""
    with contextlib.suppress(OSError):  # it is not there; one that stays is `verify`'s to name
        for path in journals(folder).values():
            path.unlink(missing_ok=True)
        folder.rmdir()


def read_journal(path: Path) -> bytes:
    """Return a journal's bytes; none where there is no journal, or none that can be read."""
    try:
        with path.open("rb") as file:
            return file.read(_MOST_BYTES)
    except OSError:
        return b""


def write_journal(path: Path, data: bytes) -> None:
    """Put the bytes of a journal that was kept on another machine in the place of what is here."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def mark_stalled(path: Path) -> None:
    """Write down that the last attempt is ended because it stands still."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(descriptor, b"\n-------- stalled\n")
        finally:
            os.close(descriptor)


class Journal:
    """The journal of one attempt at a shard. Its methods may be called from several threads.

    A journal that cannot be written costs nothing but itself: the shard is what matters.
    """

    def __init__(self, path: Path | None, *, keep: bool = False) -> None:
        """Begin an attempt; without a path nothing is written.

        keep: leave the file when the attempt ends in order, because others before it died.
        """
        self._path = path
        self._keep = keep
        self._token = secrets.token_hex(4)
        self._lock = threading.Lock()
        self._descriptor: int | None = None
        if path is not None:
            with contextlib.suppress(OSError):
                path.parent.mkdir(parents=True, exist_ok=True)
                self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self.beats = 0
        """Grows with every event and every try to fetch: whether the attempt still moves."""
        self._append(f"\n{self._token} begin\n")  # the last line of one that was killed may be torn

    def beat(self) -> None:
        """Count a sign of life."""
        self.beats += 1

    def note(self, event: str, rows: Iterable[int] = ()) -> None:
        """Append an event, of those at the head of this file."""
        self.beat()
        self._append(" ".join([self._token, event, *map(str, rows)]) + "\n")

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
        """Write down that the attempt ends in order; what threads that are still at it note is not written."""
        self.note("ended")
        if self.leave() and not self._keep:
            self.remove()

    def leave(self) -> bool:
        """Let the attempt stand as it is, like that of a process that died; say whether it was not yet over."""
        with self._lock:
            descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)
        return descriptor is not None

    def remove(self) -> None:
        """Delete the journal: the shard is done."""
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)

    def _append(self, text: str) -> None:
        with self._lock, contextlib.suppress(OSError):
            if self._descriptor is not None:
                os.write(self._descriptor, text.encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, DeviceLostError):
            self.leave()
        else:
            self.end()
