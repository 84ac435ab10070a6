"""Write all side files of a complete data set in one pass over its shards, which do not change."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.shards.canonical import decode_json
from vilbert.pipeline.shards.dataset import DatasetInfo, read_info
from vilbert.pipeline.shards.index.card import encode_card
from vilbert.pipeline.shards.index.croissant import encode_croissant, is_sealed_croissant
from vilbert.pipeline.shards.index.energon import (
    DATASET_YAML,
    SqliteIndex,
    encode_info,
    encode_splits,
    encode_tar_index,
    encode_uuid,
)
from vilbert.pipeline.shards.index.listed_shards import ListedShard, list_shard
from vilbert.pipeline.shards.index.names import (
    CARD_FILE,
    CROISSANT_FILE,
    ENERGON_DATASET,
    ENERGON_FOLDER,
    ENERGON_INFO,
    ENERGON_SPLITS,
    ENERGON_SQLITE,
    ENERGON_UUID,
    INDEX_FILE,
    TAR_INDEX_SUFFIX,
    WIDS_FILE,
)
from vilbert.pipeline.shards.index.sample_rows import IndexWriter, index_rows
from vilbert.pipeline.shards.index.seal import is_sealed
from vilbert.pipeline.shards.index.wids import encode_wids
from vilbert.pipeline.shards.location.folder import Folder
from vilbert.pipeline.shards.location.layout import SHARDS_FOLDER
from vilbert.pipeline.shards.record import ShardRecord, read_each_record
from vilbert.pipeline.shards.storage.atomic import fsync_dir, temporary_path
from vilbert.pipeline.shards.storage.store import open_shard
from vilbert.pipeline.shards.storage.tar_store import TarReader
from vilbert.pipeline.shards.storage.verified import file_sha256

logger = logging.getLogger(__name__)

PEOPLE_EDIT = (CARD_FILE, ENERGON_SPLITS, ENERGON_DATASET, CROISSANT_FILE)
"""Files that are overwritten only if `vilbert index` wrote them."""


class Written(NamedTuple):
    """The result of `index_dataset`."""

    files: int
    """Number of files written, including one per shard."""
    kept: tuple[str, ...]
    """Files that a user or another program wrote or changed, and that were not overwritten."""


def write_side_files(folder: Folder) -> None:
    """Write the side files of a data set that a job completed, unless they exist. The caller holds the writer lock.

    Problems are logged as warnings, because the data set is complete without side files. For a data set behind a URL,
    the side files are written by `vilbert index`, which downloads every shard again.
    """
    if any(name == INDEX_FILE for name, _ in folder.entries("")):
        return
    if folder.remote:
        logger.info("to write side files for other tools, run: vilbert index %s", folder.name)
        return
    try:
        index_dataset(folder)
    except ShardError as error:
        logger.warning("side files for other tools are missing: %s", error)


def index_dataset(folder: Folder) -> Written:
    """Write the files with which other tools open a data set, from its records and shards.

    The caller holds the folder's writer lock. The same shards give the same bytes with the same versions of pyarrow and
    SQLite. Memory is proportional to the number of shards (a few hundred bytes each), not of samples.

    Args:
        folder: A complete data set. Shards behind a URL are downloaded once.

    Raises:
        ShardError: The data set is not complete, a shard is damaged, or a file cannot be written.
    """
    info = read_info(folder)
    if not info.complete or info.records_sha256 is None:
        raise ShardError(f"{folder.name}: is not complete; run the command that writes it again until it is")
    folder.delete(INDEX_FILE)
    tar = info.storage == "tar"
    with folder.building() as built:
        for inner in (SHARDS_FOLDER, *([ENERGON_FOLDER] if tar else [])):
            (built / inner).mkdir(parents=True, exist_ok=True)
        shards, index_path = [], temporary_path(built / INDEX_FILE)
        sqlite_path = temporary_path(built / ENERGON_SQLITE)
        files = 0
        with _temporary(index_path), _temporary(sqlite_path), _disk_errors(folder):
            with ExitStack() as stack:
                index = IndexWriter(index_path, info.records_sha256)
                stack.callback(index.close)
                sqlite = SqliteIndex(sqlite_path) if tar else None
                if sqlite is not None:
                    stack.callback(sqlite.close)
                for record in read_each_record(folder, range(info.shards)):
                    if not record.samples:
                        continue
                    shards.append(list_shard(record, info.splits))
                    files += _index_shard(folder, built, record, index, sqlite)
                index.finish()
                if sqlite is not None:
                    sqlite.finish()
            documents = encode_documents(info, shards, str(file_sha256(index_path)))
            kept = _write_documents(folder, documents)
            if sqlite is not None:
                _publish(folder, built, sqlite_path, ENERGON_SQLITE)
            _publish(folder, built, index_path, INDEX_FILE)
    return Written(files + len(documents) - len(kept) + (2 if tar else 1), kept)


def encode_documents(info: DatasetInfo, shards: list[ListedShard], index_sha256: str) -> dict[str, bytes]:
    """Return the small side files of a complete data set by name; `index_sha256` is the hex digest of index.parquet."""
    documents = {
        CARD_FILE: encode_card(info, shards),
        CROISSANT_FILE: encode_croissant(info, shards, index_sha256),
    }
    if info.storage == "tar":
        records = str(info.records_sha256)
        documents |= {
            WIDS_FILE: encode_wids(shards, name=f"region-features-{records[:16]}"),
            ENERGON_INFO: encode_info(shards),
            ENERGON_SPLITS: encode_splits(shards),
            ENERGON_DATASET: DATASET_YAML,
            ENERGON_UUID: encode_uuid(records),
        }
    return documents


def is_ours(name: str, data: bytes) -> bool:
    """Return whether a side file that users may edit is unchanged since `vilbert index` wrote it."""
    if name != CROISSANT_FILE:
        return is_sealed(data)
    with suppress(ValueError):
        return is_sealed_croissant(decode_json(data))
    return False


def _index_shard(
    folder: Folder, built: Path, record: ShardRecord, index: IndexWriter, sqlite: SqliteIndex | None
) -> int:
    """Add a shard to the indexes, and return the number of files written for it."""
    file = f"{SHARDS_FOLDER}/{record.file}"
    with folder.local([file]) as directory, open_shard(directory / file, verify=False) as reader:
        if len(reader) != record.samples:
            raise ShardError(
                f"{folder.name}: {file} holds {len(reader)} samples, its record says {record.samples}; "
                f"see: vilbert verify {folder.name}"
            )
        for row in index_rows(reader, file):
            index.add(row)
        if sqlite is None or not isinstance(reader, TarReader):
            return 0
        sqlite.add(reader.index)
        name = file.removesuffix(".tar") + TAR_INDEX_SUFFIX
        data = encode_tar_index(reader.index)
        if folder.read(name) != data:
            folder.write(name, data)
        return 1


def _write_documents(folder: Folder, documents: dict[str, bytes]) -> tuple[str, ...]:
    """Write the small files, except those that a user or another program changed; return the names of these."""
    kept = []
    for name, data in documents.items():
        found = folder.read(name)
        if found is not None and name in PEOPLE_EDIT and not is_ours(name, found):
            kept.append(name)
        elif found != data:
            folder.write(name, data)
    return tuple(kept)


def _publish(folder: Folder, built: Path, temporary: Path, name: str) -> None:
    """Rename a large file to its final name, or upload it to a URL."""
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    if folder.remote:
        folder.delete(name)  # otherwise the old file would be downloaded for comparison
    os.replace(temporary, built / name)
    fsync_dir((built / name).parent)
    folder.publish(built, [name])


@contextmanager
def _temporary(path: Path) -> Iterator[None]:
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def _disk_errors(folder: Folder) -> Iterator[None]:
    import sqlite3

    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:
        raise ShardError(
            f"{folder.name}: side files cannot be written ({getattr(error, 'strerror', None) or error}); free space or "
            f"check its permissions, then run: vilbert index {folder.name}"
        ) from error
