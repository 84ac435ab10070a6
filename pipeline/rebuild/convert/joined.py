"""Captions, splits and metadata by image id, in one SQLite file of any size, built once and read by every worker.

The file also contains the rows of `--add-fields-from` by key.
"""

from __future__ import annotations

import csv
import math
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vilbert.manifests.manifest import Manifest
from vilbert.manifests.readers.coco import read_coco
from vilbert.manifests.readers.images import ImageRoot
from vilbert.manifests.readers.json_rows import read_jsonl
from vilbert.manifests.readers.karpathy import read_karpathy
from vilbert.manifests.record import ImageRecord, ManifestError
from vilbert.manifests.report import Report
from vilbert.pipeline.errors import RefusedError, ShardError
from vilbert.pipeline.rebuild.where import ALIASES
from vilbert.pipeline.shards.canonical import decode_json, encode_json
from vilbert.pipeline.shards.sample import REGION_FIELDS

QUERY = 500
"""Maximum number of ids per query; SQLite allows 999."""
HEAD = 1 << 16
"""Number of bytes from which the kind of a file is detected."""
MAX_CELL = 1 << 24
"""Maximum number of characters in a cell of a CSV file."""
ID_NAMES = ("image_id", "id", "img_id")
PARQUET = b"PAR1"
FIXED = (*REGION_FIELDS, *ID_NAMES, *ALIASES)
"""Metadata that files cannot change: properties of the regions, and the name of the image."""

Fields = dict[str, Any]


def read_join(path: Path, wanted: Sequence[str] | None) -> Iterator[tuple[str, Fields]]:
    """Yield (image id, new metadata) of a file of `--join`.

    Args:
        path: A manifest, COCO or Karpathy JSON, JSONL or CSV file.
        wanted: Names of the fields to read; None for all.

    Raises:
        RefusedError: The file does not exist, has none of these formats, or has rows that cannot be read.
    """
    report = Report()
    try:
        for image_id, fields in _rows(path, report):
            chosen = {
                name: value
                for name, value in fields.items()
                if name not in FIXED and (wanted is None or name in wanted)
            }
            check_fields(image_id, chosen)
            yield image_id, chosen
    except OSError as error:
        raise RefusedError(f"--join {path}: cannot be read ({error.strerror or error})") from None
    except (ManifestError, ValueError, csv.Error) as error:
        raise RefusedError(f"--join {path}: {str(error).removeprefix(f'{path}: ')}") from None
    for issue in ("malformed-row", "bad-caption"):
        if count := report.counts[issue]:
            raise RefusedError(f"--join {path}: {count:,} rows cannot be read; the first: {report.examples[issue][0]}")


def check_fields(image_id: str, fields: Mapping[str, Any]) -> None:
    """Raise ValueError if values cannot be metadata of a sample."""
    captions, split = fields.get("captions", []), fields.get("split", "")
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        raise ValueError(f"image {image_id!r:.80}: captions is {captions!r:.80}, expected a list of texts")
    if not isinstance(split, str):
        raise ValueError(f"image {image_id!r:.80}: split is {split!r:.80}, expected text")
    try:
        encode_json(dict(fields))
    except (ValueError, TypeError) as error:
        raise ValueError(f"image {image_id!r:.80}: cannot be written as JSON ({error})") from None


def _rows(path: Path, report: Report) -> Iterator[tuple[str, Fields]]:
    """Yield the rows of a file, whose format is detected from its content."""
    with path.open("rb") as file:
        head = file.read(HEAD)
    if head.startswith(PARQUET):
        manifest = Manifest.open(path)
        for start, stop in zip(manifest.group_starts, manifest.group_starts[1:], strict=False):
            yield from map(_of_record, manifest.read(start, stop))
    elif not head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"{", b"[")):
        yield from _csv_rows(path)
    elif b'"images"' not in head and b'"annotations"' not in head:
        for where, row in read_jsonl(path, report):
            yield _named(row, where)
    else:
        root = ImageRoot(Path(), check_files=False)  # images are not opened
        reader = read_karpathy if b'"sentences"' in head or b'"sentids"' in head else read_coco
        yield from map(_of_record, reader(path, report, images=root))


def _of_record(record: ImageRecord) -> tuple[str, Fields]:
    split = {"split": record.split} if record.split else {}
    return record.image_id, {"captions": list(record.captions), **split}


def _named(row: Fields, where: str) -> tuple[str, Fields]:
    """Return a row by its image id, with its captions as a list."""
    image_id = next((row[name] for name in ID_NAMES if name in row), None)
    if isinstance(image_id, bool) or not isinstance(image_id, str | int):
        raise ValueError(f"{where}: image_id is {image_id!r:.80}; a row needs image_id, a string or an integer")
    fields = {name: value for name, value in row.items() if name != "caption"}
    if "caption" in row and "captions" not in row:
        caption = row["caption"]
        fields["captions"] = caption if isinstance(caption, list) else [caption]
    return str(image_id), fields


def _csv_rows(path: Path) -> Iterator[tuple[str, Fields]]:
    """Yield the rows of a CSV file with a header; empty cells are omitted, integers and decimals become numbers.

    `nan` and `inf` remain strings.
    """
    csv.field_size_limit(max(MAX_CELL, csv.field_size_limit()))
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, strict=True)
        names = [name.strip().lower() for name in next(rows, [])]
        if not set(names) & set(ID_NAMES) or len(set(names)) < len(names):
            raise ValueError(
                "its first line is not a header with a column image_id; expected a manifest, JSON, JSONL or CSV"
            )
        for number, row in enumerate(rows, start=2):
            if len(row) != len(names) and row:
                raise ValueError(f"row {number} has {len(row)} cells, the header {len(names)}")
            cells = {name: cell for name, cell in zip(names, row, strict=False) if cell}
            texts = {name: cells[name] for name in (*ID_NAMES, "caption", "split") if name in cells}
            if cells:
                yield _named({name: _value(cell) for name, cell in cells.items()} | texts, f"row {number}")


def _value(cell: str) -> Any:
    """Return a cell's value: a number, a JSON list or a string."""
    if cell.startswith("["):
        try:
            return decode_json(cell.encode())
        except ValueError:
            return cell
    for kind in (int, float):
        try:
            value = kind(cell)
        except ValueError:
            continue
        if str(value) == cell and math.isfinite(value):
            return value
    return cell


def build_joined(
    path: Path, files: Sequence[Path], wanted: Sequence[str] | None, donor_keys: Iterable[tuple[str, int]]
) -> None:
    """Write the SQLite file.

    Args:
        path: The file to write; it must not exist.
        files: The files of `--join`, in order.
        wanted: Names of the fields to read; None for all.
        donor_keys: Key and row of each sample of `--add-fields-from`.

    Raises:
        RefusedError: No row has one of the wanted fields, or a file cannot be read.
        ShardError: The file cannot be written, or `--add-fields-from` has a key twice.
    """
    database = sqlite3.connect(path, isolation_level=None)
    try:
        database.execute("PRAGMA journal_mode=OFF")
        database.execute("PRAGMA synchronous=OFF")
        database.execute("CREATE TABLE joined (id TEXT PRIMARY KEY, file INTEGER, fields BLOB) WITHOUT ROWID")
        database.execute("CREATE TABLE donor (key TEXT PRIMARY KEY, row INTEGER) WITHOUT ROWID")
        database.execute("BEGIN")
        met: set[str] = set()
        for number, file in enumerate(files):
            for image_id, fields in read_join(file, wanted):
                met.update(fields)
                known = database.execute("SELECT file, fields FROM joined WHERE id = ?", (image_id,)).fetchone()
                if known is not None:
                    before = decode_json(known[1])
                    if known[0] == number and "captions" in before and "captions" in fields:
                        fields["captions"] = before["captions"] + fields["captions"]
                    fields = before | fields
                row = image_id, number, encode_json(fields)
                database.execute("INSERT OR REPLACE INTO joined VALUES (?, ?, ?)", row)
        if absent := [name for name in wanted or () if name not in met]:
            raise RefusedError(
                f"--join-fields {' '.join(absent)}: no row of --join has this field, or it belongs to the regions; "
                "texts of images are in captions, splits in split"
            )
        for key, row_number in donor_keys:
            try:
                database.execute("INSERT INTO donor VALUES (?, ?)", (key, row_number))
            except sqlite3.IntegrityError:
                raise ShardError(f"--add-fields-from: contains the key {key!r} twice") from None
        database.execute("COMMIT")
    except sqlite3.Error as error:
        raise ShardError(f"{path}: cannot be written ({error}); free space and run the same command again") from error
    finally:
        database.close()


class Joined:
    """The SQLite file, read by one thread."""

    def __init__(self, path: Path) -> None:
        uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
        self._database = sqlite3.connect(uri, uri=True, check_same_thread=False)

    def fields(self, image_ids: Sequence[str]) -> dict[str, Fields]:
        """Return the new metadata of the images that have some."""
        return {
            name: decode_json(fields)
            for name, fields in self._find("SELECT id, fields FROM joined WHERE id", image_ids)
        }

    def donor_rows(self, keys: Sequence[str]) -> dict[str, int]:
        """Return the rows of `--add-fields-from` by key, for the keys that it has."""
        return dict(self._find("SELECT key, row FROM donor WHERE key", keys))

    def _find(self, query: str, names: Sequence[str]) -> Iterator[tuple[str, Any]]:
        for start in range(0, len(names), QUERY):
            some = names[start : start + QUERY]
            yield from self._database.execute(f"{query} IN ({','.join('?' * len(some))})", some)

    def close(self) -> None:
        """Release the file."""
        self._database.close()
