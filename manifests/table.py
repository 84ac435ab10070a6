"""CSV (with a header) and JSONL: a row an image, columns by name.

image_id or id; uri, url, path or img_path; caption (a text); captions or sentences (a list); split; width; height;
sha256; boxes ([[x1, y1, x2, y2], …]). A list in a CSV cell is written as JSON. Only the uri is required. A relative
path starts at `--images`, or else at the table's folder.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from manifests.boxes import fit_boxes, parse_boxes
from manifests.captions import clean_captions, storable
from manifests.document import pixels
from manifests.record import ImageRecord, ManifestError
from manifests.report import Report

ID_NAMES = ("image_id", "id")
URI_NAMES = ("uri", "url", "path", "img_path")
CAPTION_NAMES = ("caption", "captions", "sentences")
_LISTS = ("captions", "sentences", "boxes")


def read_csv(path: Path, report: Report) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place, row) of a comma separated file whose first line names the columns."""
    with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            names = [name.strip().lower() for name in next(reader, [])]
            if not set(URI_NAMES) & set(names) or len(set(names)) < len(names):
                raise ManifestError(f"{path}: header {names} must name one of {', '.join(URI_NAMES)}, each name once")
            for cells in reader:
                where = f"{path}:{reader.line_num}"
                if len(cells) != len(names):
                    if cells:
                        report.count("malformed-row", f"{where}: {len(cells)} cells, {len(names)} columns")
                    continue
                row = dict(zip(names, cells, strict=True))
                yield where, {name: cell for name, cell in row.items() if cell or name == "caption"}
        except csv.Error as error:
            raise ManifestError(
                f"{path}:{reader.line_num}: {error}; quote cells as RFC 4180 says, or use JSONL"
            ) from None


def read_jsonl(path: Path, report: Report) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place, row) of a file with one JSON object a line."""
    with open(path, encoding="utf-8-sig", errors="replace", newline="\n") as file:
        for number, line in enumerate(file, 1):
            where = f"{path}:{number}"
            try:
                row = json.loads(line) if line.strip() else None
            except (ValueError, RecursionError) as error:
                report.count("malformed-row", f"{where}: {error}")
                continue
            if isinstance(row, dict):
                yield where, {name: value for name, value in row.items() if value is not None}
            elif line.strip():
                report.count("malformed-row", f"{where}: not a JSON object")


def read_table(
    path: Path,
    report: Report,
    *,
    jsonl: bool,
    images: Path | None = None,
    check_files: bool = True,
    split: str | None = None,
) -> Iterator[ImageRecord]:
    """Yield one record a row; rows that cannot be read are counted and left out."""
    root = os.path.abspath(path.parent if images is None else images)
    for number, (where, row) in enumerate((read_jsonl if jsonl else read_csv)(path, report)):
        try:
            record = table_record(row, number, root, where, report, split)
        except ValueError as error:
            report.count("malformed-row", f"{where}: {error}")
            continue
        if check_files and "://" not in record.uri and not os.path.isfile(record.uri):
            report.count("missing-file", f"{where}: {record.uri}")
        yield fit_boxes(record, report)


def table_record(
    row: dict[str, Any], number: int, root: str, where: str, report: Report, split: str | None
) -> ImageRecord:
    """Return a row's record; raise ValueError saying what is wrong with it.

    The id of a row without one is its number and eight digits of the sha1 of its uri as written.
    """
    for name in _LISTS:
        if isinstance(row.get(name), str):
            row[name] = json.loads(row[name])
    uri = _text(row, URI_NAMES)
    if uri is None:
        raise ValueError(f"none of {', '.join(URI_NAMES)}")
    digest = hashlib.sha1(uri.encode(), usedforsecurity=False).hexdigest()[:8]
    image_id = _text(row, ID_NAMES) or f"{number:09d}-{digest}"
    sha256 = _text(row, ("sha256",))
    if sha256 is not None and not re.fullmatch("[0-9a-f]{64}", sha256.lower()):
        raise ValueError(f"sha256 {sha256!r} is not 64 hex digits")
    texts: list[Any] = []
    for name in CAPTION_NAMES:
        value = row.get(name, [])
        texts += value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"captions {texts!r:.80} are not all text")
    if not texts:
        report.count("no-caption", where)
    boxes = row.get("boxes")
    return ImageRecord(
        image_id=image_id,
        uri=uri if "://" in uri else os.path.join(root, uri),
        captions=clean_captions(texts, where, report),
        split=(_text(row, ("split",)) or "") if split is None else split,
        boxes_xyxy=(parse_boxes(boxes, where, report) or None) if boxes is not None else None,
        sha256=sha256 and sha256.lower(),
        width=pixels(row.get("width")),
        height=pixels(row.get("height")),
    )


def _text(row: dict[str, Any], names: tuple[str, ...]) -> str | None:
    """Return the first of these columns that is there, as text without white space around it; None where empty."""
    for name in names:
        value = row.get(name)
        if isinstance(value, str | int) and not isinstance(value, bool):
            return storable(str(value).strip()) or None
        if value is not None:
            raise ValueError(f"{name} {value!r:.80} is neither text nor a whole number")
    return None
