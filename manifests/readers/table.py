"""Tables with one row per image and named columns: CSV, JSONL, JSON arrays and Parquet files.

The column `uri`, or one of `columns.URI_NAMES`, names the image; one of `columns.CAPTION_NAMES` holds its captions, a
string or a list of strings. Optional columns: image_id or id, split, width, height, sha256, boxes
([[x1, y1, x2, y2], …]). A list in a CSV cell is written as JSON. Relative paths are resolved against `--images`, or
else the table's folder.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

from vilbert.manifests.box_units import boxes_in_pixels
from vilbert.manifests.boxes import parse_boxes
from vilbert.manifests.captions import image_captions, storable
from vilbert.manifests.merge import merge_rows
from vilbert.manifests.readers.columns import ID_NAMES, URI_NAMES, USUAL_NAMES, ColumnNames, caption_column, uri_column
from vilbert.manifests.readers.csv_rows import read_csv
from vilbert.manifests.readers.document import pixels
from vilbert.manifests.readers.json_rows import read_json_array, read_jsonl
from vilbert.manifests.readers.parquet_rows import parquet_files, parquet_split, read_parquet
from vilbert.manifests.record import ImageRecord
from vilbert.manifests.report import Report
from vilbert.untrusted.documents import parse_json

TableKind = Literal["csv", "jsonl", "json", "parquet"]
_LISTS = ("captions", "sentences")


def read_rows(
    path: Path, kind: TableKind, report: Report, columns: ColumnNames
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place, row) of a table. Names are normalised; nulls are omitted."""
    match kind:
        case "csv":
            return read_csv(path, report, columns)
        case "jsonl":
            return read_jsonl(path, report)
        case "json":
            return read_json_array(path, report, columns)
        case "parquet":
            return read_parquet(path, report, columns)


def read_table(
    path: Path,
    report: Report,
    *,
    kind: TableKind,
    columns: ColumnNames = USUAL_NAMES,
    images: Path | None = None,
    check_files: bool = True,
    split: str | None = None,
) -> Iterator[ImageRecord]:
    """Return an iterator with one record per row. Rows that cannot be read are counted and skipped.

    Consecutive rows with the same id and path are merged into one with all their captions.
    """
    rows = merge_rows(_records(path, report, kind, columns, images, split), report)
    records = count_missing(rows, report) if check_files else (record for _, record in rows)
    return boxes_in_pixels(records, str(path), report, columns.box_format)


def count_missing(rows: Iterable[tuple[str, ImageRecord]], report: Report) -> Iterator[ImageRecord]:
    """Yield the records of (place, record). Count those whose local image does not exist."""
    for where, record in rows:
        if "://" not in record.uri and not os.path.isfile(record.uri):
            report.count("missing-file", f"{where}: {record.uri}")
        yield record


def _records(
    path: Path, report: Report, kind: TableKind, columns: ColumnNames, images: Path | None, split: str | None
) -> Iterator[tuple[str, ImageRecord]]:
    """Yield (place, record) of each row. A row without an id gets its number and a digest of its uri as the id."""
    number = 0
    for file in parquet_files(path, report) if kind == "parquet" else [path]:
        root = os.path.abspath(file.parent if images is None else images)
        published = parquet_split(file) if kind == "parquet" else ""
        for where, row in read_rows(file, kind, report, columns):
            try:
                record = table_record(row, columns, where, report, default_id=partial(row_id, number), split=published)
            except ValueError as error:
                report.count("malformed-row", f"{where}: {error}")
            else:
                uri = record.uri if "://" in record.uri else os.path.join(root, record.uri)
                yield where, record._replace(uri=uri, split=record.split if split is None else split)
            number += 1


def row_id(number: int, uri: str) -> str:
    """Return the id for a row without one: its number and eight digits of the SHA-1 of its uri as written."""
    return f"{number:09d}-{hashlib.sha1(uri.encode(), usedforsecurity=False).hexdigest()[:8]}"


def table_record(
    row: dict[str, Any],
    columns: ColumnNames,
    where: str,
    report: Report,
    *,
    default_id: Callable[[str], str],
    split: str = "",
) -> ImageRecord:
    """Return the record of a row, with its uri as written.

    Args:
        row: Values by normalised column name.
        columns: Column options of the user.
        where: Location for messages.
        report: Counts invalid captions and boxes.
        default_id: Returns the id for a row without one, from its uri.
        split: Split of a row without one.

    Raises:
        ValueError: The row is invalid. The message gives the reason.
        ManifestError: There are two candidates for a column.
    """
    name = uri_column(row, columns, where)
    uri = _text(row, name) if name is not None else None
    if uri is None:
        raise ValueError(f"none of {', '.join(URI_NAMES)}" if columns.uri is None else f"no {columns.uri}")
    image_id = next((text for name in ID_NAMES if (text := _text(row, name))), None)
    sha256 = _text(row, "sha256")
    if sha256 is not None and not re.fullmatch("[0-9a-f]{64}", sha256.lower()):
        raise ValueError(f"sha256 {sha256!r} is not 64 hex digits")
    boxes = row.get("boxes")
    if isinstance(boxes, str):
        boxes = parse_json(boxes, allow_nan=True)
    return ImageRecord(
        image_id=image_id or default_id(uri),
        uri=uri,
        captions=image_captions(_captions(row, columns, where), where, report),
        split=_text(row, "split") or split,
        boxes_xyxy=(parse_boxes(boxes, where, report, columns.box_format or "xyxy") or None)
        if boxes is not None
        else None,
        sha256=sha256 and sha256.lower(),
        width=pixels(row.get("width")),
        height=pixels(row.get("height")),
        exif_orientation=_is_true(row.get("exif_orientation", True)),
    )


def _captions(row: dict[str, Any], columns: ColumnNames, where: str) -> list[object]:
    """Return a row's captions. In a list column, or one that the user named, a string may hold JSON."""
    name = caption_column(row, columns, where)
    value = row.get(name, []) if name is not None else []
    if isinstance(value, str) and value.lstrip().startswith("[") and (name in _LISTS or columns.caption is not None):
        value = parse_json(value, allow_surrogates=True, allow_nan=True)
    return value if isinstance(value, list) else [value]


def _is_true(value: object) -> bool:
    """Return a JSON boolean, or parse the boolean in a CSV cell."""
    if isinstance(value, str) and value.strip().lower() in ("true", "false", "1", "0"):
        return value.strip().lower() in ("true", "1")
    if not isinstance(value, bool):
        raise ValueError(f"exif_orientation {value!r:.80} is neither true nor false")
    return value


def _text(row: dict[str, Any], name: str) -> str | None:
    """Return a column's value as a string without surrounding white space, or None if it is empty or missing."""
    value = row.get(name)
    if isinstance(value, str | int) and not isinstance(value, bool):
        return storable(str(value).strip()) or None
    if value is not None:
        raise ValueError(f"{name} {value!r:.80} is neither a string nor an integer")
    return None
