"""Files with which Megatron-Energon reads a column together with its data set, through `aux:` of a metadataset."""

from __future__ import annotations

import os
from pathlib import Path

from vilbert.pipeline.shards.columns.info import ColumnInfo
from vilbert.pipeline.shards.columns.shard import open_column_shard
from vilbert.pipeline.shards.index.energon import (
    DATASET_YAML,
    SqliteIndex,
    encode_info,
    encode_splits,
    encode_tar_index,
    encode_uuid,
)
from vilbert.pipeline.shards.index.listed_shards import list_shard
from vilbert.pipeline.shards.index.names import (
    ENERGON_DATASET,
    ENERGON_FOLDER,
    ENERGON_INFO,
    ENERGON_SPLITS,
    ENERGON_SQLITE,
    ENERGON_UUID,
    TAR_INDEX_SUFFIX,
)
from vilbert.pipeline.shards.location.folder import Folder
from vilbert.pipeline.shards.location.layout import SHARDS_FOLDER
from vilbert.pipeline.shards.record import ShardRecord, read_each_record
from vilbert.pipeline.shards.storage.atomic import temporary_path


def write_energon_files(column: Folder, info: ColumnInfo) -> None:
    """Write `.nv-meta/` and `shards/*.tar.idx` of a column whose shards are complete.

    Raises:
        CorruptShardError: A shard of the column is damaged.
    """
    shards = []
    with column.building() as built:
        (built / ENERGON_FOLDER).mkdir(parents=True, exist_ok=True)
        temporary = temporary_path(built / ENERGON_SQLITE)
        sqlite = SqliteIndex(temporary)
        try:
            for record in read_each_record(column, range(info.shards)):
                if record.samples:
                    _index_shard(column, info, record, sqlite)
                    shards.append(list_shard(record, record.splits))
            sqlite.finish()
            if column.remote:
                column.delete(ENERGON_SQLITE)
            os.replace(temporary, built / ENERGON_SQLITE)
        finally:
            sqlite.close()
            temporary.unlink(missing_ok=True)
        column.publish(built, [ENERGON_SQLITE])
    documents = {
        ENERGON_INFO: encode_info(shards),
        ENERGON_SPLITS: encode_splits(shards),
        ENERGON_DATASET: DATASET_YAML,
        ENERGON_UUID: encode_uuid(info.records_sha256),
    }
    for name, data in documents.items():
        column.write(name, data)


def _index_shard(column: Folder, info: ColumnInfo, record: ShardRecord, sqlite: SqliteIndex) -> None:
    with open_column_shard(column, info, record.shard) as opened:
        sqlite.add(opened.index)
        file = Path(SHARDS_FOLDER, record.file).with_suffix(TAR_INDEX_SUFFIX)
        column.write(file.as_posix(), encode_tar_index(opened.index))
