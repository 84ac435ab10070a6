"""The manifest file: Parquet with one row per image, streamed on reading and writing, identified by a content hash.

The content hash depends on the rows only, so compression, row groups and Parquet versions may change without changing
it. It is the SHA-256 over blocks of 32,768 rows (the last may be shorter). Each block contributes its columns in order.
Each column contributes the number of its values (8 bytes), one byte per value (1 present, 0 null), and then:

- numbers: the values;
- strings: their lengths in bytes (4 bytes each) and their UTF-8;
- lists: their lengths, and the items as a column.

Numbers are little-endian, and a null counts as 0 or as empty. The hash and the format number are in the Parquet footer.

The last column, `exif_orientation`, exists only in manifests with a source whose images may be decoded as stored (COCO,
Visual Genome). It is hashed as one-byte numbers in blocks that contain such a row; without one, the hash is the same as
without the column.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, repeat
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from vilbert.manifests.atomic import publish, temporary_name
from vilbert.manifests.record import ImageRecord, ManifestError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FORMAT = 1
ROWS_PER_GROUP = 32_768  # part of the format; about 6 MB to read for a shard, 3,000 groups for 100 million rows
COLUMNS = ("image_id", "uri", "captions", "split", "boxes", "sha256", "width", "height")
ORIENTATION = "exif_orientation"
"""Optional last column: false if an image is decoded as stored."""


def schema(*, orientation: bool = False) -> Any:
    """Return the manifest's pyarrow schema, with or without the orientation column."""
    import pyarrow as pa

    types = (
        pa.string(),
        pa.string(),
        pa.list_(pa.string()),
        pa.string(),
        pa.list_(pa.list_(pa.float64())),  # float64: a row read back must hash as the row written
        pa.string(),
        pa.int32(),
        pa.int32(),
    )
    optional = ("boxes", "sha256", "width", "height")
    fields = [pa.field(name, kind, name in optional) for name, kind in zip(COLUMNS, types, strict=True)]
    return pa.schema([*fields, pa.field(ORIENTATION, pa.bool_(), nullable=False)] if orientation else fields)


def columns_of(records: Sequence[ImageRecord]) -> list[Any]:
    """Return the records as pyarrow arrays, with the orientation column last.

    Raises:
        ManifestError: A string cannot be encoded as UTF-8.
    """
    import pyarrow as pa

    *columns, orientation = zip(*records, strict=True)
    try:
        arrays = [pa.array(values, field.type) for field, values in zip(schema(), columns, strict=True)]
    except UnicodeEncodeError as error:
        raise ManifestError(f"a row holds text that cannot be encoded as UTF-8: {error.object!r:.200}") from None
    return [*arrays, pa.repeat(True, len(records)) if all(orientation) else pa.array(orientation, pa.bool_())]


def hash_block(sha256: Any, columns: Sequence[Any]) -> None:
    """Update a SHA-256 with a block of `columns_of`; orientation is included only if an image is decoded as stored."""
    for column in columns[: len(COLUMNS)]:
        hash_column(sha256, column)
    if columns[-1].false_count:
        hash_column(sha256, columns[-1].cast("uint8"))


def hash_column(sha256: Any, column: Any) -> None:
    """Update a SHA-256 with a pyarrow array, as described at the top of this file."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    sha256.update(len(column).to_bytes(8, "little"))
    sha256.update(column.is_valid().to_numpy(zero_copy_only=False).astype(np.uint8).data)
    if pa.types.is_list(column.type):
        sha256.update(pc.list_value_length(column).fill_null(0).to_numpy().astype("<i4").data)
        hash_column(sha256, column.flatten())
    elif pa.types.is_string(column.type):
        sha256.update(pc.binary_length(column).fill_null(0).to_numpy().astype("<i4").data)
        offsets = np.frombuffer(column.buffers()[1], np.int32)[column.offset : column.offset + len(column) + 1]
        if len(column) and offsets[-1] > offsets[0]:
            sha256.update(memoryview(column.buffers()[2])[offsets[0] : offsets[-1]])
    else:
        values = column.fill_null(0).to_numpy()
        sha256.update(values.astype(values.dtype.newbyteorder("<")).data)


def content_hash(records: Sequence[ImageRecord]) -> str:
    """Return the content hash of a manifest with these records."""
    sha256 = hashlib.sha256()
    for start in range(0, len(records), ROWS_PER_GROUP):
        hash_block(sha256, columns_of(records[start : start + ROWS_PER_GROUP]))
    return sha256.hexdigest()


class ManifestWriter:
    """Writes records to a manifest in a stream. Leaving the `with` block without `commit` leaves no file behind.

    Args:
        path: The file to write.
        orientation: Write the orientation column. Without it, every record must apply the EXIF orientation.
    """

    def __init__(self, path: str | os.PathLike[str], *, orientation: bool = False) -> None:
        self.path = Path(path)
        self._schema = schema(orientation=orientation)
        self.rows = 0
        self._temporary = temporary_name(self.path)
        self._pending: list[ImageRecord] = []
        self._sha256 = hashlib.sha256()

    def __enter__(self) -> Self:
        import pyarrow.parquet as pq

        # Ids, URLs and captions rarely repeat, so dictionary encoding would cost time and memory for no benefit.
        self._parquet = pq.ParquetWriter(self._temporary, self._schema, compression="zstd", use_dictionary=["split"])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._parquet.close()
        self._temporary.unlink(missing_ok=True)

    def write(self, records: Sequence[ImageRecord]) -> None:
        """Append records, in order."""
        self._pending.extend(records)
        while len(self._pending) >= ROWS_PER_GROUP:
            self._write_group(self._pending[:ROWS_PER_GROUP])
            del self._pending[:ROWS_PER_GROUP]

    def _write_group(self, records: Sequence[ImageRecord]) -> None:
        import pyarrow as pa

        columns = columns_of(records)
        written = columns[: len(self._schema)]
        if len(written) < len(columns) and columns[-1].false_count:
            raise ValueError("a record sets exif_orientation: create the manifest with that column")
        self._parquet.write_table(pa.table(written, schema=self._schema), row_group_size=ROWS_PER_GROUP)
        hash_block(self._sha256, columns)
        self.rows += len(records)

    def commit(self) -> Manifest:
        """Write the remaining records and the footer, publish the file under its name, and open it."""
        if self._pending:
            self._write_group(self._pending)
            self._pending = []
        footer = {"format": str(FORMAT), "rows": str(self.rows), "hash": self._sha256.hexdigest()}
        self._parquet.add_key_value_metadata({f"vilbert.manifest.{name}": value for name, value in footer.items()})
        self._parquet.close()
        publish(self._temporary, self.path)
        return Manifest.open(self.path)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A manifest on disk. Holds only its row counts, so that it is cheap to open and to send to another process."""

    path: Path
    rows: int
    hash: str
    """Content hash, 64 hex digits."""
    group_starts: tuple[int, ...]
    """First row of every Parquet row group, followed by the total number of rows."""

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Manifest:
        """Read a manifest's footer. Raise ManifestError if the file is not a manifest of this format."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = Path(path)
        make_one = "make one with `vilbert manifest SOURCE --output FILE`"
        try:
            metadata = pq.read_metadata(path)
        except FileNotFoundError:
            raise ManifestError(f"{path}: no such file; {make_one}") from None
        except (pa.ArrowException, OSError) as error:
            raise ManifestError(f"{path}: not a manifest, or damaged ({error}); {make_one}") from None
        footer = metadata.metadata or {}
        found = footer.get(b"vilbert.manifest.format")
        if found is None:
            raise ManifestError(f"{path}: a Parquet file, but not a manifest; {make_one}")
        if found != str(FORMAT).encode():
            raise ManifestError(
                f"{path}: manifest format {found[:20].decode(errors='replace')}, this version reads format {FORMAT}; "
                "create it again with `vilbert manifest`"
            )
        try:
            groups = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
            columns = metadata.schema.to_arrow_schema()
            is_whole = columns.equals(schema(orientation=ORIENTATION in columns.names)) and min(groups, default=0) >= 0
        except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
            raise ManifestError(f"{path}: damaged footer ({error}); create the manifest again") from None
        rows, digest = footer.get(b"vilbert.manifest.rows"), footer.get(b"vilbert.manifest.hash", b"")
        if rows != str(sum(groups)).encode() or not re.fullmatch(rb"[0-9a-f]{64}", digest) or not is_whole:
            raise ManifestError(f"{path}: the footer does not match the rows or columns; create the manifest again")
        starts = tuple(accumulate(groups, initial=0))
        return cls(path=path, rows=sum(groups), hash=digest.decode(), group_starts=starts)

    def read(self, start: int, stop: int) -> list[ImageRecord]:
        """Return rows [start, stop), reading only their row groups. Raise IndexError outside [0, rows]."""
        if not 0 <= start <= stop <= self.rows:
            raise IndexError(f"rows [{start}, {stop}) of {self.path}, which has {self.rows}")
        groups = [i for i, (a, b) in enumerate(self._groups()) if a < stop and start < b]
        if start == stop:
            return []
        table = self._read_groups(groups, None)
        try:
            rows = table.slice(start - self.group_starts[groups[0]], stop - start).to_pydict()
            return self._records(rows, stop - start)
        except (ValueError, TypeError, LookupError) as error:  # text that is not UTF-8, null in a required column
            raise ManifestError(f"{self.path}: rows [{start}, {stop}) are damaged ({error}); create it again") from None

    def _records(self, rows: dict[str, list[Any]], count: int) -> list[ImageRecord]:
        orientation = rows.get(ORIENTATION, repeat(True, count))
        return [
            ImageRecord(
                image_id=image_id,
                uri=uri,
                captions=tuple(captions),
                split=split,
                boxes_xyxy=None if boxes is None else tuple(tuple(box) for box in boxes),
                sha256=sha256,
                width=width,
                height=height,
                exif_orientation=exif_orientation,
            )
            for image_id, uri, captions, split, boxes, sha256, width, height, exif_orientation in zip(
                *(rows[name] for name in COLUMNS), orientation, strict=True
            )
        ]

    def values(self, column: str, rows: NDArray[np.int64]) -> Iterator[tuple[int, Any]]:
        """Yield (row, value) of one column at ascending row numbers, reading only that column of the groups."""
        for i, (start, stop) in enumerate(self._groups()):
            wanted = rows[rows.searchsorted(start) : rows.searchsorted(stop)]
            if len(wanted):
                values = self._read_groups([i], [column])[column].take(wanted - start).to_pylist()
                yield from zip(wanted.tolist(), values, strict=True)

    def _groups(self) -> Iterator[tuple[int, int]]:
        return zip(self.group_starts, self.group_starts[1:], strict=False)

    def _read_groups(self, groups: list[int], columns: list[str] | None) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(self.path) as file:
                return file.read_row_groups(groups, columns=columns)
        except (pa.ArrowException, OSError) as error:
            raise ManifestError(f"{self.path}: cannot read row groups {groups} ({error}); create it again") from None
