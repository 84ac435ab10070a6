"""Paths of the files of a data set.

DIR/dataset.json, and for shard 3 of a tar data set: DIR/shards/000003.tar, DIR/shards/000003.json (its record) and
DIR/failures/000003.jsonl.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

StorageFormat = Literal["tar", "lmdb"]

SHARDS_FOLDER = "shards"
FAILURES_FOLDER = "failures"
JOURNALS_FOLDER = ".journals"
PLAN_FOLDER = ".plan"
"""Folder of the plan of an unfinished conversion, see `rebuild/convert/plan.py`."""
BROWSE_FOLDER = ".browse"
"""Folder of the index of `vilbert browse`, which is not part of the data set and is rebuilt if it is missing."""
DATASET_FILE = "dataset.json"


def shard_name(shard: int) -> str:
    """Return the shard's number in at least six digits."""
    return f"{shard:06d}"


def data_path(directory: Path, shard: int, storage: StorageFormat) -> Path:
    """Return the path of the shard's file of samples."""
    return directory / SHARDS_FOLDER / f"{shard_name(shard)}.{storage}"


def record_path(directory: Path, shard: int) -> Path:
    """Return the path of the shard's record."""
    return directory / SHARDS_FOLDER / f"{shard_name(shard)}.json"


def failures_path(directory: Path, shard: int) -> Path:
    """Return the path of the shard's failed rows."""
    return directory / FAILURES_FOLDER / f"{shard_name(shard)}.jsonl"


def shard_files(shard: int, storage: StorageFormat) -> tuple[str, str, str]:
    """Return the names of a shard's files inside the data set, in writing order."""
    home = Path()
    paths = failures_path(home, shard), data_path(home, shard, storage), record_path(home, shard)
    failures, samples, record = (path.as_posix() for path in paths)
    return failures, samples, record


def record_paths(directory: Path) -> dict[int, Path]:
    """Return the existing records by shard number, in order."""
    numbers = record_numbers(path.name for path in (directory / SHARDS_FOLDER).glob("*.json"))
    return {shard: record_path(directory, shard) for shard in numbers}


def record_numbers(names: Iterable[str]) -> list[int]:
    """Return, in order, the shards whose records are among these file names in `shards/`."""
    return sorted(int(match[1]) for name in names if (match := re.fullmatch(r"([0-9]{6,})\.json", name)))
