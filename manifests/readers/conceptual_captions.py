"""Conceptual Captions 3M and 12M: tab-separated, with or without a header, URL first (12M) or caption first (3M).

The files have no quoting: a caption may contain quotes, carriage returns and no-break spaces, and only a line feed ends
a row (Sharma et al. 2018; Changpinyo et al. 2021; google-research-datasets on GitHub). The original ViLBERT files name
an image by the CRC-32 of its URL, which collides among millions of images; here the id is the row number and eight
digits of the URL's SHA-1.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from vilbert.manifests.captions import is_blank
from vilbert.manifests.record import ImageRecord, ManifestError
from vilbert.manifests.report import Report

ROWS_LOOKED_AT = 1000
_URL = re.compile(r"https?://", re.IGNORECASE)
_URL_NAMES = ("url", "image_url")
_HOW_TO_SAY = "put a header line with the names caption and url before the rows"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The column layout of a file."""

    header: bool
    url: int
    caption: int
    columns: int
    """Number of cells in the header, or in most rows if there is no header."""


def detect_layout(lines: Sequence[str], where: str) -> Layout:
    """Detect the layout of a file from its first lines. Raise ManifestError if it is ambiguous.

    A first line with a cell named url, image_url or caption is a header. Without a header, the URL column is whichever
    of the first two columns has http(s) URLs in at least 95 % of its cells.
    """
    rows = [line.rstrip("\r\n").split("\t") for line in lines]
    if not rows:
        raise ManifestError(f"{where}: empty file")
    names = [cell.strip().lower() for cell in rows[0]]
    if any(name in (*_URL_NAMES, "caption") for name in names) and not any(_URL.match(name) for name in names):
        urls = [i for i, name in enumerate(names) if name in _URL_NAMES]
        captions = [i for i, name in enumerate(names) if name == "caption"]
        if len(urls) != 1 or len(captions) != 1:
            raise ManifestError(f"{where}: header {names} does not name one caption and one url column")
        return Layout(header=True, url=urls[0], caption=captions[0], columns=len(names))
    matches = [sum(len(row) > i and bool(_URL.match(row[i].strip())) for row in rows) for i in range(2)]
    urls = [i for i in range(2) if matches[i] >= 0.95 * len(rows)]
    if len(urls) != 1:
        raise ManifestError(
            f"{where}: cannot tell the caption from the URL: of the first {len(rows)} rows, {matches[0]} have a URL in "
            f"column 1 and {matches[1]} in column 2, and one column must have it in at least 95 %; {_HOW_TO_SAY}"
        )
    columns = Counter(map(len, rows)).most_common(1)[0][0]
    return Layout(header=False, url=urls[0], caption=1 - urls[0], columns=columns)


def _splitter(layout: Layout) -> Callable[[str], Sequence[str]]:
    """Return the function that splits a line into (left, tab, right). A tab within a caption stays in the caption."""
    if layout.columns == 2:
        return (lambda line: line.partition("\t")) if layout.url == 0 else (lambda line: line.rpartition("\t"))
    left, right = sorted((layout.url, layout.caption))

    def split(line: str) -> Sequence[str]:
        cells = line.split("\t")
        return (cells[left], "\t", cells[right]) if len(cells) > right else (line, "", "")

    return split


def published_split(path: Path) -> str:
    """Return the split that the name of a published file contains, or an empty string."""
    name = path.name.lower()
    if name.startswith(("train_gcc", "cc12m")):
        return "train"
    return "val" if name.startswith("validation_gcc") else ""


def read_conceptual_captions(path: Path, report: Report, *, split: str | None = None) -> Iterator[ImageRecord]:
    """Yield one record per row, with its URL as the uri. Rows without a URL are counted and skipped."""
    # newline="\n": a carriage return within a caption does not end the row.
    with open(path, encoding="utf-8-sig", errors="replace", newline="\n") as file:
        layout = detect_layout(list(islice(file, ROWS_LOOKED_AT)), str(path))
        file.seek(0)
        if layout.header:
            file.readline()
        split = published_split(path) if split is None else split
        cut, url_first = _splitter(layout), layout.url < layout.caption
        first_line = 2 if layout.header else 1
        is_url, sha1 = _URL.match, hashlib.sha1
        for row, line in enumerate(file):
            left, _, right = cut(line)
            url, caption = (left.strip(), right.strip()) if url_first else (right.strip(), left.strip())
            if not is_url(url):
                report.count("malformed-row", f"{path}:{row + first_line}: no URL where expected: {line[:80]!r}")
                continue
            if not caption or (not caption[0].isprintable() and is_blank(caption)):
                report.count("empty-caption", f"{path}:{row + first_line}")
                caption = ""
            if "\ufffd" in line:
                report.count("replaced-characters", f"{path}:{row + first_line}: {caption[:80]!r}")
            digest = sha1(url.encode(), usedforsecurity=False).hexdigest()[:8]
            # Positional arguments: keyword arguments would take a fifth of this loop's time.
            yield ImageRecord(f"{row:09d}-{digest}", url, (caption,) if caption else (), split)
