"""index.parquet: one row per sample, to look up, filter or count without opening shards."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vilbert.pipeline.shards.canonical import encode_json
from vilbert.pipeline.shards.index.arrow_columns import arrow_array
from vilbert.pipeline.shards.index.energon import sample_ends
from vilbert.pipeline.shards.storage.store import ShardReader, read_captions
from vilbert.pipeline.shards.storage.tar_store import TarReader

if TYPE_CHECKING:
    import pyarrow as pa

GROUP_ROWS = 65_536
"""Rows per Parquet row group, which a writer or reader holds in memory."""
RECORDS_KEY = b"vilbert.records_sha256"
"""Metadata key of the file: the hash of all records of its data set."""
COLUMNS = (
    "key", "image_id", "split", "width", "height", "num_boxes", "shard", "offset", "bytes", "captions", "sha256"
)  # fmt: skip


def index_schema(records_sha256: str) -> pa.Schema:
    """Return the schema of index.parquet, with the hash of the data set's records."""
    import pyarrow as pa

    types = {
        "key": pa.string(),
        "image_id": pa.string(),
        "split": pa.string(),
        "width": pa.int32(),
        "height": pa.int32(),
        "num_boxes": pa.int32(),
        "shard": pa.string(),
        "offset": pa.int64(),
        "bytes": pa.int64(),
        "captions": pa.list_(pa.string()),
        "sha256": pa.string(),
    }
    return pa.schema([(name, types[name]) for name in COLUMNS], metadata={RECORDS_KEY: records_sha256.encode()})


def index_rows(reader: ShardReader, file: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a shard's samples.

    Args:
        reader: The shard.
        file: Its path inside the data set's folder.

    Yields:
        Values by name for `COLUMNS`. offset and bytes are the position of the sample's members in a tar; None for LMDB.

    Raises:
        CorruptShardError: A sample's metadata is invalid.
    """
    ends = sample_ends(reader.index).tolist() if isinstance(reader, TarReader) else None
    for number, key in enumerate(reader.keys()):
        metadata = reader.metadata(number)
        captions = list(read_captions(reader, number, metadata))
        sha256 = metadata.get("sha256")
        yield {
            "key": key,
            "image_id": metadata["image_id"],
            "split": str(metadata.get("split", "")),
            "width": metadata["width"],
            "height": metadata["height"],
            "num_boxes": metadata["num_boxes"],
            "shard": file,
            "offset": None if ends is None else ends[number],
            "bytes": None if ends is None else ends[number + 1] - ends[number],
            "captions": captions,
            "sha256": sha256 if isinstance(sha256, str) else None,
        }


def rows_digest(rows: Iterator[Mapping[str, Any]]) -> str:
    """Return the SHA-256 of rows, to compare the rows of a shard with those in a file."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(encode_json(dict(row)) + b"\n")
    return digest.hexdigest()


class IndexWriter:
    """Writes a new index.parquet, with tens of thousands of rows in memory at a time."""

    def __init__(self, path: Path, records_sha256: str) -> None:
        import pyarrow.parquet as pq

        self._schema = index_schema(records_sha256)
        self._file = path.open("wb")  # pyarrow cannot open paths that are not UTF-8
        self._writer = pq.ParquetWriter(self._file, self._schema)
        self._rows: list[dict[str, Any]] = []

    def add(self, row: dict[str, Any]) -> None:
        """Append a row."""
        self._rows.append(row)
        if len(self._rows) >= GROUP_ROWS:
            self._flush()

    def finish(self) -> None:
        """Write the remaining rows and close the file."""
        if self._rows:
            self._flush()
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()
        self._file.close()

    def _flush(self) -> None:
        import pyarrow as pa

        arrays = [arrow_array([row[field.name] for row in self._rows], field.type) for field in self._schema]
        table = pa.Table.from_arrays(arrays, schema=self._schema)
        self._writer.write_table(table, row_group_size=GROUP_ROWS)
        self._rows = []
