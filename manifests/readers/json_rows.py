"""Rows of JSON files: one object per line (JSONL), or one array of objects, as LAVIS and LLaVA publish annotations."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from vilbert.manifests.readers.columns import (
    FIELD_NAMES,
    ID_NAMES,
    ColumnNames,
    caption_column,
    normalise_row,
    uri_column,
)
from vilbert.manifests.readers.repeated_keys import RepeatedKeys, mark_rows
from vilbert.manifests.record import ManifestError
from vilbert.manifests.regular_file import open_regular
from vilbert.manifests.report import Report
from vilbert.untrusted.documents import DocumentError, parse_json, read_json

MAX_LINE = 1 << 26
"""Maximum number of characters in a line of JSONL."""


def read_jsonl(path: Path, report: Report) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place, row) of a file with one JSON object per line. Names are normalised; nulls are omitted."""
    with open(path, encoding="utf-8-sig", errors="replace", opener=open_regular, newline="\n") as file:
        for number, line in enumerate(_lines(file), 1):
            where = f"{path}:{number}"
            try:
                if line is None:
                    raise DocumentError(f"a line of more than {MAX_LINE:,} characters")
                if not line.strip():
                    continue
                values = _values(parse_json(line, allow_surrogates=True, allow_nan=True))
            except ValueError as error:
                report.count("malformed-row", f"{where}: {error}")
                continue
            yield where, values


def _values(row: Any) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise DocumentError("not a JSON object")
    if isinstance(row, RepeatedKeys):
        raise DocumentError(f"key {row.key!r:.80} appears twice")
    return normalise_row(row)


def read_json_array(path: Path, report: Report, columns: ColumnNames) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place, row) of a file that is one array of objects, merging rows of the same image.

    LAVIS lists an image once for each of its captions. Rows are merged if all record fields except the captions are
    equal; a row with other boxes or another split is kept separate. The file is held in memory.
    """
    try:
        document = read_json(path, repeated=RepeatedKeys, allow_surrogates=True, allow_nan=True)
    except DocumentError as error:
        raise ManifestError(f"{path}: {error}; is the download complete?") from None
    if not isinstance(document, list):
        raise ManifestError(f"{path}: not a JSON array of objects; see docs/manifests.md for the formats")
    mark_rows(document)
    images: dict[tuple[str, str, str], tuple[str, dict[str, Any]]] = {}
    for i, row in enumerate(document):
        where = f"{path}: [{i}]"
        try:
            values = _values(row)
        except ValueError as error:
            report.count("malformed-row", f"{where}: {error}")
            continue
        uri, caption = uri_column(values, columns, where), caption_column(values, columns, where)
        ids = [values[name] for name in ID_NAMES if name in values]
        fields = [values.get(name) for name in FIELD_NAMES]
        image = repr(ids[:1]), repr(values.get(uri) if uri else i), repr(fields)
        if image not in images:
            images[image] = where, values
        else:
            _, first = images[image]
            if caption is not None:
                name = caption_column(first, columns, where) or caption
                first[name] = [*_as_list(first.get(name)), *_as_list(values[caption])]
            report.count("merged-row", f"{where}: {image[1]}")
    yield from images.values()


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _lines(file: IO[str]) -> Iterator[str | None]:
    """Yield the lines of a file, and None for each line that is too long."""
    while line := file.readline(MAX_LINE + 1):
        if len(line) <= MAX_LINE or line.endswith("\n"):
            yield line
            continue
        while line and not line.endswith("\n"):
            line = file.readline(MAX_LINE)
        yield None
