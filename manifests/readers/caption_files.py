"""Caption files next to the images of a folder: `a.txt`, `a.caption` or `a.json` for `a.jpg` (or `a.jpg.txt`).

A text file holds one caption per line. A JSON file holds an object with a captions column, as img2dataset writes it,
and is read only if there is no text file. Images without captions are counted at the end, when it is known whether the
folder has captions at all.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from typing import Any

from vilbert.manifests.captions import clean_captions
from vilbert.manifests.readers.columns import ColumnNames, caption_column, normalise_row
from vilbert.manifests.regular_file import open_regular
from vilbert.manifests.report import EXAMPLES, Report
from vilbert.untrusted.documents import parse_json

SUFFIXES = (".txt", ".caption", ".json")
MAX_BYTES = 1 << 20
"""Maximum size of a caption file."""
_NUMBERS = re.compile(r"\d+(\s+-?[\d.]+(e-?\d+)?){4,}", re.IGNORECASE)


class CaptionFiles:
    """The caption files of one tree of folders."""

    def __init__(self, report: Report, columns: ColumnNames) -> None:
        self._report = report
        self._columns = columns
        self._found = False
        self._images = _Deferred()
        self._files = _Deferred()

    def read(self, folder: str, names: Collection[str], images: Collection[str]) -> Iterator[tuple[str, ...]]:
        """Yield the captions of each image of a folder.

        Args:
            folder: Path of the folder.
            names: Names of all files in the folder.
            images: Names of the image files.
        """
        files = {(os.path.splitext(name)[0], suffix): name for name in names if (suffix := _suffix(name))}
        used = set()
        for image in images:
            bases = (image, os.path.splitext(image)[0])
            candidates = [file for suffix in SUFFIXES for base in bases if (file := files.get((base, suffix)))]
            captions = None
            for file in candidates:
                if captions is None or file.lower().endswith(".json"):
                    used.add(file)
                if captions is None:
                    captions = self._read_file(os.path.join(folder, file))
            if captions is None:
                self._images.add(os.path.join(folder, image))
            self._found |= captions is not None
            yield captions or ()
        for name in files.values():
            if name not in used:
                self._files.add(os.path.join(folder, name))

    def finish(self) -> None:
        """Count images without captions, and caption files without an image (or other files, if no image has any)."""
        self._files.count(self._report, "caption-file-without-image" if self._found else "other-file")
        if self._found:
            self._images.count(self._report, "no-caption")

    def _read_file(self, path: str) -> tuple[str, ...] | None:
        """Return the captions in a file, or None if it is not a caption file."""
        try:
            with open(path, "rb", opener=open_regular) as file:
                data = file.read(MAX_BYTES + 1)
            if len(data) > MAX_BYTES:
                raise ValueError(f"larger than {MAX_BYTES:,} bytes")
            texts = self._from_json(data, path) if path.lower().endswith(".json") else _from_text(data)
        except (ValueError, OSError) as error:
            self._report.count("unreadable-caption", f"{path}: {error}")
            return None
        return None if texts is None else clean_captions(texts, path, self._report)

    def _from_json(self, data: bytes, path: str) -> list[Any] | None:
        row = parse_json(data, allow_surrogates=True, allow_nan=True)
        values = normalise_row(row) if isinstance(row, dict) else {}
        name = caption_column(values, self._columns, path)
        if name is None:
            self._report.count("other-file", path)
            return None
        return values[name] if isinstance(values[name], list) else [values[name]]


def is_caption_file(name: str) -> bool:
    """Return whether a file's name has the suffix of a caption file."""
    return bool(_suffix(name))


def _suffix(name: str) -> str:
    suffix = os.path.splitext(name)[1].lower()
    return suffix if suffix in SUFFIXES else ""


def _from_text(data: bytes) -> list[str]:
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    lines = [line for line in data.decode(encoding, "replace").splitlines() if line.strip()]
    if lines and all(_NUMBERS.fullmatch(line.strip()) for line in lines):
        raise ValueError(f"numbers, such as the boxes of YOLO, not captions: {lines[0][:60]!r}")
    return lines or [""]


class _Deferred:
    """Examples to count at the end, when the name of the issue is known."""

    def __init__(self) -> None:
        self._number = 0
        self._examples: list[str] = []

    def add(self, example: str) -> None:
        self._number += 1
        if len(self._examples) < EXAMPLES:
            self._examples.append(example)

    def count(self, report: Report, issue: str) -> None:
        for example in self._examples:
            report.count(issue, example)
        if rest := self._number - len(self._examples):
            report.count(issue, "", rest)
