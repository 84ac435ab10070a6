"""Where the files of a data set lie.

DIR/dataset.json, and for shard 3 of a tar data set: DIR/shards/000003.tar, DIR/shards/000003.json (its record) and
DIR/failures/000003.jsonl.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

StorageFormat = Literal["tar", "lmdb"]

SHARDS_FOLDER = "shards"
FAILURES_FOLDER = "failures"
DATASET_FILE = "dataset.json"


def shard_name(shard: int) -> str:
    """Return the shard's number in at least six digits."""
    return f"{shard:06d}"


def data_path(directory: Path, shard: int, storage: StorageFormat) -> Path:
    """Return the path of the shard's samples."""
    return directory / SHARDS_FOLDER / f"{shard_name(shard)}.{storage}"


def record_path(directory: Path, shard: int) -> Path:
    """Return the path of the shard's record."""
    return directory / SHARDS_FOLDER / f"{shard_name(shard)}.json"


def failures_path(directory: Path, shard: int) -> Path:
    """Return the path of the shard's failed rows."""
    return directory / FAILURES_FOLDER / f"{shard_name(shard)}.jsonl"


def record_paths(directory: Path) -> dict[int, Path]:
    """Return the records there are, by shard number, in order."""
    named = ((re.fullmatch(r"(\d{6,})\.json", path.name), path) for path in (directory / SHARDS_FOLDER).glob("*.json"))
    return dict(sorted((int(match[1]), path) for match, path in named if match))
