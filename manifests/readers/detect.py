"""Detect the published format of a source from its content. Ambiguous and unknown formats are refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal, get_args

from vilbert.manifests.readers.columns import URI_NAMES, USUAL_NAMES, ColumnNames, names_an_image
from vilbert.manifests.readers.conceptual_captions import ROWS_LOOKED_AT, detect_layout
from vilbert.manifests.readers.csv_rows import csv_header
from vilbert.manifests.readers.folder import holds_images, shard_names
from vilbert.manifests.readers.images import is_image
from vilbert.manifests.readers.metadata_file import is_metadata
from vilbert.manifests.readers.parquet_rows import parquet_files
from vilbert.manifests.record import ManifestError

Kind = Literal["conceptual-captions", "img2dataset", "coco", "karpathy", "folder", "csv", "jsonl", "json", "parquet"]
HEAD = 1 << 20
_BY_FIRST_BYTES = {
    b"\xff\xfe": "UTF-16 text; save it as UTF-8",
    b"\xfe\xff": "UTF-16 text; save it as UTF-8",
    b"\x1f\x8b": "gzip; unpack it first",
    b"PK\x03\x04": "a zip archive; unpack it first",
    b"\xff\xd8\xff": "a JPEG image; give its folder",
    b"\x89PNG": "a PNG image; give its folder",
}
_FORCE = f"set its format with --kind ({', '.join(get_args(Kind))})"


def detect_kind(path: Path, columns: ColumnNames = USUAL_NAMES) -> Kind:
    """Return the kind of a source. Raise ManifestError if it does not exist, or is unknown or ambiguous."""
    if path.is_dir():
        return detect_folder(path)
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD)
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read: {error.strerror}") from None
    return detect_file(head, str(path), columns)


def detect_folder(path: Path) -> Kind:
    """Return "img2dataset" for shards, "folder" for a tree of images, captions and metadata, "parquet" for Parquet.

    Raises:
        ManifestError: The folder holds none of them, or both shards and images.
    """
    names = sorted(entry.name for entry in path.iterdir())
    shards = shard_names(path, names)
    others = [name for name in names if is_image(name) or (shards and is_metadata(name))]
    if shards and others:
        raise ManifestError(f"{path}: contains the shard {shards[0]} and the file {others[0]}; {_FORCE}")
    if shards:
        return "img2dataset"
    if holds_images(path):
        return "folder"
    if parquet_files(path):
        return "parquet"
    raise ManifestError(f"{path}: no images and no shards in this folder")


def detect_file(head: bytes, where: str, columns: ColumnNames = USUAL_NAMES) -> Kind:
    """Detect the kind of a file from its first HEAD bytes."""
    if head.startswith(b"PAR1"):
        return "parquet"
    for magic, what in _BY_FIRST_BYTES.items():
        if head.startswith(magic):
            raise ManifestError(f"{where}: {what}")
    if head[257:262] == b"ustar":
        raise ManifestError(f"{where}: a tar; give the folder of the shards, or unpack it")
    if b"\0" in head:
        raise ManifestError(f"{where}: a binary file of unknown format")
    text = head.decode("utf-8-sig", "replace")
    if not text.strip():
        raise ManifestError(f"{where}: empty file")
    if text.lstrip().startswith(("{", "[")):
        return _detect_json(text, where, columns)
    return _detect_lines(text, whole=len(head) < HEAD, where=where, columns=columns)


def _detect_json(text: str, where: str, columns: ColumnNames) -> Kind:
    start = text.lstrip()
    if start.startswith("["):
        return _detect_array(start, where, columns)
    keys = set(re.findall(r'"(\w+)"\s*:', text))
    first_line = _first_value(start.partition("\n")[0])
    if isinstance(first_line, dict) and names_an_image(first_line, columns):
        return "jsonl"
    if "filename" in keys and keys & {"sentences", "sentids"}:
        return "karpathy"
    if "annotations" in keys or "images" in keys:
        if keys & {"bbox", "iscrowd", "segmentation"}:
            raise ManifestError(f"{where}: COCO instances hold boxes, not images; give the file to --given-boxes")
        if "file_name" in keys or {"image_id", "caption"} <= keys:
            return "coco"
    first = _first_value(start)
    if isinstance(first, dict) and names_an_image(first, columns) and not isinstance(first_line, dict):
        raise ManifestError(f"{where}: JSON objects that span several lines; write each on one line, as `jq -c .` does")
    named = (
        f"; its columns are {', '.join(first_line)}: name the one with the image's path or URL with --uri-column"
        if first_line
        else ""
    )
    raise ManifestError(f"{where}: JSON of unknown format, which starts with {start[:60]!r}{named}; {_FORCE}")


def _detect_array(text: str, where: str, columns: ColumnNames) -> Kind:
    """Return "json" for an array whose first item is an object that names an image."""
    first = _first_value(text[1:].lstrip())
    if isinstance(first, dict) and names_an_image(first, columns):
        return "json"
    found = f"objects with {', '.join(first)}" if isinstance(first, dict) else f"{text[:60]!r}"
    raise ManifestError(
        f"{where}: a JSON array of {found}, expected objects that name an image by one of {', '.join(URI_NAMES)}; "
        f"name the column with --uri-column, or {_FORCE}"
    )


def _first_value(text: str) -> Any:
    """Return the JSON value at the start of a text, or None if there is no complete value."""
    try:
        return json.JSONDecoder().raw_decode(text)[0]
    except (ValueError, RecursionError):
        return None


def _detect_lines(text: str, *, whole: bool, where: str, columns: ColumnNames) -> Kind:
    """Return "csv" or "conceptual-captions"."""
    lines = text.split("\n")
    lines = [line for line in (lines if whole else lines[:-1])[:ROWS_LOOKED_AT] if line]
    if not lines:
        raise ManifestError(f"{where}: no line break in the first {HEAD} bytes; {_FORCE}")
    first = lines[0]
    tabs = sum("\t" in line for line in lines)
    header = csv_header([f"{line}\n" for line in lines], columns)
    if header is not None and "\t" not in first:
        if tabs == len(lines) - 1 > 0 and _has_layout(lines[1:]):
            raise ManifestError(f"{where}: a header with {header[0]!r} over rows with tabs; {_FORCE}")
        return "csv"
    has_tabs = tabs >= 0.95 * len(lines)
    if header is not None and not (has_tabs and not columns.named and _has_layout(lines)):
        return "csv"
    if has_tabs:
        detect_layout(lines, where)
        return "conceptual-captions"
    if columns.uri is not None:
        raise ManifestError(f"{where}: no header with a column {columns.uri!r} (--uri-column); starts {first[:60]!r}")
    raise ManifestError(
        f"{where}: neither tab-separated captions and URLs nor CSV with a header that names {' or '.join(URI_NAMES)}; "
        f"it starts {first[:60]!r}; put a header line first, name the image's column with --uri-column, or {_FORCE}"
    )


def _has_layout(lines: list[str]) -> bool:
    try:
        detect_layout(lines, "")
    except ManifestError:
        return False
    return True
