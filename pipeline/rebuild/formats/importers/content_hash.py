"""The SHA-256 of all rows, which identifies the content of a published file, computed once per state of the file."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from vilbert.pipeline.rebuild.formats.importers.published_image import RowError
from vilbert.pipeline.shards.storage.atomic import write_atomic

logger = logging.getLogger(__name__)

LOG_SECONDS = 30.0
DAMAGE = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError)
"""Exceptions of readers for a damaged row, besides RowError."""
_known: dict[str, str] = {}
"""SHA-256 by the state of the files that this process has hashed."""


class Rows(Protocol):
    """Rows to hash."""

    def __len__(self) -> int: ...

    def content(self, row: int) -> bytes:
        """Return the bytes of a row."""


def content_sha256(rows: Rows, path: Path, *, scratch: Path | None = None) -> str:
    """Return the hex SHA-256 of all rows; damaged rows are hashed by their error.

    Args:
        rows: The opened file.
        path: The file or folder of the rows.
        scratch: Folder in which the hash is stored for other processes; None: in this process only.
    """
    state = _state(path)
    kept = None if scratch is None else scratch / f"{state}.sha256"
    if state not in _known and kept is not None:
        with suppress(OSError, ValueError):
            if re.fullmatch("[0-9a-f]{64}", text := kept.read_text("ascii")):
                _known[state] = text
    if state not in _known:
        _known[state] = _hash(rows, path)
    if kept is not None and not kept.exists():
        with suppress(OSError):  # what cannot be kept is hashed once more by the next process
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(kept, _known[state].encode())
    return _known[state]


def _hash(rows: Rows, path: Path) -> str:
    digest, logged = hashlib.sha256(), time.monotonic()
    for row in range(len(rows)):
        try:
            content = rows.content(row)
        except (RowError, *DAMAGE) as error:
            content = str(error).encode("utf-8", "backslashreplace")
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)
        if time.monotonic() - logged >= LOG_SECONDS:
            logged = time.monotonic()
            logger.info("%s: hashing its content: %s of %s rows", path, f"{row:,}", f"{len(rows):,}")
    return digest.hexdigest()


def _state(path: Path) -> str:
    """Return a hash of the names, sizes, times and inodes of a folder's files, or of a file and its companions."""
    state = hashlib.blake2b(os.fsencode(path.absolute()), digest_size=16)
    for file in _files(path):
        with suppress(OSError):
            found = file.stat()
            facts = (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
            state.update(os.fsencode("\0".join(map(str, (file, *facts)))))
    return state.hexdigest()


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        prefix = re.sub(r"(features?|predictions)?\..*", "", path.name)  # labels and sizes lie beside features
        yield from sorted(file for file in path.parent.iterdir() if file.name.startswith(prefix))
        return
    for place, folders, names in os.walk(path):
        folders.sort()
        yield from (Path(place, name) for name in sorted(names) if name != "lock.mdb")
