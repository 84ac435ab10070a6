"""Rows of Parquet files: URL lists such as those of LAION or img2dataset, and Hugging Face data sets.

Files are read in batches of rows, only the required columns. Images embedded in a file (bytes columns) are not read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vilbert.manifests.readers.columns import FIELD_NAMES, ID_NAMES, ColumnNames, normalise, require_columns, uri_column
from vilbert.manifests.readers.images import is_hidden, is_hidden_below, walk
from vilbert.manifests.record import ManifestError
from vilbert.manifests.regular_file import require_regular
from vilbert.manifests.report import Report

ROWS_AT_A_TIME = 4096
_OTHERS = (
    *ID_NAMES,
    *FIELD_NAMES,
    *("key", "status", "error_message", "original_width", "original_height"),
)
_PUBLISHED = re.compile(r"(train|validation|val|test)-\d+-of-\d+")


def parquet_files(path: Path, report: Report | None = None) -> list[Path]:
    """Return the file itself, or every .parquet file under a folder, sorted by folder and name.

    Hidden files are skipped and counted in `report`.
    """
    if not path.is_dir():
        return [path]
    found = []
    for folder, names in walk(path):
        hidden = is_hidden_below(path, folder)
        for name in names:
            if not name.endswith(".parquet"):
                continue
            if not hidden and not is_hidden(name):
                found.append(Path(folder, name))
            elif report is not None:
                report.count("hidden-file", os.path.join(folder, name))
    return found


def parquet_split(path: Path) -> str:
    """Return the split in a file name such as `train-00000-of-00004.parquet` (Hugging Face), or an empty string."""
    match = _PUBLISHED.match(path.name)
    return {"validation": "val"}.get(match[1], match[1]) if match else ""


def has_image_column(path: Path, columns: ColumnNames) -> bool:
    """Return whether a Parquet file has a column that names images. Raise ManifestError if it cannot be read."""
    return uri_column(_fields(path), columns, str(path)) is not None


def read_parquet(path: Path, report: Report, columns: ColumnNames) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place, row) of a Parquet file. Names are normalised; nulls are omitted.

    Rows that img2dataset could not download are counted and skipped.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    fields = _fields(path)
    uri, caption = require_columns(fields, columns, str(path))
    _require_text(path, uri, fields[uri])
    wanted = [fields[name] for name in dict.fromkeys((uri, caption, *_OTHERS)) if name in fields]
    embedded = [name for name, field in fields.items() if name not in (uri, caption) and _holds_bytes(field.type)]
    downloaded = {"key", "status"} <= fields.keys()
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            if embedded:
                example = f"{path}: column {embedded[0]}; images are read from the column {uri}"
                report.count("embedded-image", example, file.metadata.num_rows)
            for batch in file.iter_batches(ROWS_AT_A_TIME, columns=[field.name for field in wanted]):
                for values in batch.to_pylist():
                    where = f"{path}: row {number}"
                    number += 1
                    row = {normalise(name): _plain(value) for name, value in values.items() if value is not None}
                    if downloaded and not _is_downloaded(row, where, report):
                        continue
                    yield where, row
    except (pa.ArrowException, OSError) as error:
        raise ManifestError(f"{path}: row {number}: cannot be read ({error}); download the file again") from None


def _plain(value: Any) -> Any:
    """Return a value as a JSON value; some writers store strings as bytes."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _is_downloaded(row: dict[str, Any], where: str, report: Report) -> bool:
    """Remove img2dataset's own columns from a row of its lists; the URL is that of the original image."""
    key, status = row.pop("key", None), row.pop("status", None)
    width, height = row.pop("original_width", None), row.pop("original_height", None)
    if status != "success":
        report.count("failed-download", f"{where}: {row.get('error_message')} {row.get('url')}")
        return False
    row.pop("width", None), row.pop("height", None)
    row |= {name: value for name, value in (("width", width), ("height", height)) if value is not None}
    row.setdefault("image_id", key)
    return True


def _fields(path: Path) -> dict[str, Any]:
    """Return the columns of a Parquet file by normalised name."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        require_regular(path)
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise ManifestError(f"{path}: not a Parquet file, or damaged ({error}); download it again") from None
    fields = {normalise(field.name): field for field in schema}
    if len(fields) < len(schema):
        raise ManifestError(f"{path}: duplicate column name among {', '.join(schema.names)}; rename one")
    return fields


def _require_text(path: Path, name: str, field: Any) -> None:
    import pyarrow as pa

    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    if _holds_bytes(kind) and (pa.types.is_struct(kind) or name == "image"):
        raise ManifestError(
            f"{path}: the column {name} holds the images themselves ({kind}); write "
            "them to files (in Python: row['image'].save(...)) and list those, or name another column with --uri-column"
        )
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    if not any(is_text(kind) for is_text in (*texts, pa.types.is_string_view)):
        raise ManifestError(
            f"{path}: the column {name} is of type {kind}, expected paths or URLs; set another one with --uri-column"
        )


def _holds_bytes(kind: Any) -> bool:
    """Return whether values are bytes, or the struct of bytes and path in which Hugging Face stores images."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return any(pa.types.is_binary(part.type) or pa.types.is_large_binary(part.type) for part in kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
