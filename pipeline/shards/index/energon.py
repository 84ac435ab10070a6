"""Files with which Megatron-Energon opens a data set without `energon prepare`.

`.nv-meta/.info.json` (samples per shard), `split.yaml` (shards per split), `dataset.yaml` (how samples are decoded),
`index.sqlite` (every sample and member by its byte offset), `index.uuid`, and `shards/NNNNNN.tar.idx` beside each tar.
The layout is that of megatron-energon 7.4.1.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.shards.canonical import encode_json
from vilbert.pipeline.shards.index.listed_shards import ListedShard, by_split
from vilbert.pipeline.shards.index.seal import seal_yaml
from vilbert.pipeline.shards.storage.tar_scan import TarIndex
from vilbert.pipeline.shards.storage.ustar import BLOCK, padding

ENERGON_VERSION = "7.4.1"
"""The release whose layout is written."""
DATASET_YAML = seal_yaml("__module__: megatron.energon\n__class__: CrudeWebdataset\n")
"""dataset.yaml: samples are passed on as decoded; a `Cooker` of the user's TaskEncoder processes them."""
_NAMESPACE = uuid.UUID("0f8b6f0e-4a33-5d62-9b0c-6f2d5f6c1c55")
_TABLES = """
CREATE TABLE samples (tar_file_id INTEGER NOT NULL, sample_key TEXT NOT NULL UNIQUE, sample_index INTEGER NOT NULL,
    byte_offset INTEGER, byte_size INTEGER);
CREATE TABLE sample_parts (tar_file_id INTEGER, sample_index INTEGER, part_name TEXT, content_byte_offset INTEGER,
    content_byte_size INTEGER);
"""
_INDEXES = """
CREATE INDEX idx_samples_by_tar_and_idx ON samples(tar_file_id, sample_index);
CREATE INDEX idx_sample_parts_seq ON sample_parts(tar_file_id, sample_index, content_byte_offset);
CREATE INDEX idx_sample_parts_full
    ON sample_parts(tar_file_id, sample_index, part_name, content_byte_offset, content_byte_size);
"""
SampleRow = tuple[str, int, int, int]
"""sample_key, sample_index, byte_offset, byte_size"""
PartRow = tuple[int, str, int, int]
"""sample_index, part_name, content_byte_offset, content_byte_size"""


def encode_info(shards: Sequence[ListedShard]) -> bytes:
    """Return .info.json."""
    counts = {shard.file: shard.samples for shard in shards}
    return json.dumps({"energon_version": ENERGON_VERSION, "shard_counts": counts}, indent=2).encode()


def encode_splits(shards: Sequence[ListedShard]) -> bytes:
    """Return split.yaml, which lists each shard under its split."""
    lines = ["split_parts:"]
    for split, members in by_split(shards).items():
        lines += [f"  {json.dumps(split)}:", *(f"  - {shard.file}" for shard in members)]
    if not shards:
        lines[0] += " {}"
    return seal_yaml("\n".join([*lines, "exclude: []"]) + "\n")


def encode_uuid(records_sha256: str) -> bytes:
    """Return index.uuid, a function of the content: Energon rebuilds its joined data sets when it changes."""
    return str(uuid.uuid5(_NAMESPACE, records_sha256)).encode()


def sample_ends(index: TarIndex) -> NDArray[np.int64]:
    """Return the byte offsets [samples + 1] of the starts of the samples and of the end of the last."""
    if not index.keys:
        return np.zeros(1, np.int64)
    last = int(index.starts[-1, -1] + index.sizes[-1, -1])
    return np.append(index.starts[:, 0] - BLOCK, last + padding(last))


def encode_tar_index(index: TarIndex) -> bytes:
    """Return a .tar.idx file: `sample_ends` as little-endian uint64."""
    return sample_ends(index).astype("<u8").tobytes()


def sample_rows(index: TarIndex) -> Iterator[SampleRow]:
    """Yield the rows of table `samples` for one shard, without the shard's number."""
    ends = sample_ends(index).tolist()
    for number, key in enumerate(index.keys):
        yield key, number, ends[number], ends[number + 1] - ends[number]


def part_rows(index: TarIndex) -> Iterator[PartRow]:
    """Yield the rows of table `sample_parts` for one shard, without the shard's number."""
    for number, (starts, sizes) in enumerate(zip(index.starts.tolist(), index.sizes.tolist(), strict=True)):
        for name, start, size in zip(index.names, starts, sizes, strict=True):
            yield number, name, start, size


def parts_digest(samples: Iterable[Sequence[Any]], parts: Iterable[Sequence[Any]]) -> str:
    """Return the SHA-256 of one shard's rows of both tables, to compare the shard with an index.sqlite."""
    digest = hashlib.sha256()
    for rows in (samples, parts):
        for row in rows:
            # SQLite stores values of any type in any column: values of other types differ in their string form.
            values = [value if isinstance(value, int | str) else repr(value) for value in row]
            digest.update(encode_json(values) + b"\n")
        digest.update(b"\n")
    return digest.hexdigest()


class SqliteIndex:
    """Writes a new index.sqlite, which is committed and synced to disk by `finish`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._database = sqlite3.connect(path, isolation_level=None)
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "page_size=4096"):
            self._database.execute(f"PRAGMA {pragma}")
        self._database.executescript(_TABLES)
        self._database.execute("BEGIN")
        self._shards = 0

    def add(self, index: TarIndex) -> None:
        """Append a shard that holds samples.

        Raises:
            ShardError: A key of the shard is already in the index.
        """
        shard, self._shards = self._shards, self._shards + 1
        try:
            self._database.executemany(
                "INSERT INTO samples VALUES (?, ?, ?, ?, ?)", ((shard, *row) for row in sample_rows(index))
            )
        except sqlite3.IntegrityError:
            raise ShardError(
                f"shard {shard}: one of its keys is in another shard too, which cannot be indexed; "
                "`vilbert verify` reports it"
            ) from None
        self._database.executemany(
            "INSERT INTO sample_parts VALUES (?, ?, ?, ?, ?)", ((shard, *row) for row in part_rows(index))
        )

    def finish(self) -> None:
        """Build the indexes and sync the file to disk."""
        self._database.execute("COMMIT")
        self._database.executescript(_INDEXES)
        self._database.close()
        with self._path.open("rb") as file:
            os.fsync(file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._database.close()


def listed_samples(document: Any) -> dict[str, int] | None:
    """Return the samples per shard of a parsed .info.json, or None if it is not one."""
    counts = document.get("shard_counts") if isinstance(document, dict) else None
    return counts if isinstance(counts, dict) else None
