"""Annotation files that are written row by row, in constant memory."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

ROWS: list[Any] = []
"""A member of a frame with this value is an array to be filled."""
Frame = Mapping[str, Any]


def compact(value: Any) -> bytes:
    """Return JSON in ASCII without white space."""
    return json.dumps(value, separators=(",", ":")).encode("ascii")


class JsonFile:
    """A JSON object with some members that are growing arrays or, without a frame, a single array.

    The arrays are kept in unnamed temporary files until `close` assembles the file.
    """

    def __init__(self, path: Path, frame: Frame | None) -> None:
        self._path, self._frame = path, frame
        names = [""] if frame is None else [name for name, value in frame.items() if value is ROWS]
        self._parts: dict[str, IO[bytes]] = {name: tempfile.TemporaryFile() for name in names}  # noqa: SIM115

    def add(self, row: Any, name: str = "") -> None:
        """Add a row to the array `name` of the frame."""
        part = self._parts[name]
        part.write((b",\n" if part.tell() else b"") + compact(row))

    def _copy(self, name: str, file: IO[bytes]) -> None:
        self._parts[name].seek(0)
        file.write(b"[\n")
        shutil.copyfileobj(self._parts[name], file)
        file.write(b"\n]")

    def close(self) -> None:
        """Write the file."""
        with self._path.open("wb") as file:
            if self._frame is None:
                self._copy("", file)
            else:
                for number, (name, value) in enumerate(self._frame.items()):
                    file.write((b"," if number else b"{") + compact(name) + b":")
                    if value is ROWS:
                        self._copy(name, file)
                    else:
                        file.write(compact(value))
                file.write(b"}")
            file.write(b"\n")
        self.discard()

    def discard(self) -> None:
        """Discard the rows."""
        for part in self._parts.values():
            part.close()


class LineFile:
    """A file of lines: strings are written unchanged, other values as JSON."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")

    def add(self, row: Any, name: str = "") -> None:
        """Add a line; `name` exists for compatibility with JsonFile."""
        self._file.write((row.encode("ascii") if isinstance(row, str) else compact(row)) + b"\n")

    def close(self) -> None:
        """Write the buffered lines."""
        self._file.close()

    discard = close
