"""Compare the side files of other tools with the records and shards: a stale file makes a tool read wrong bytes.

Files that a user wrote or edited (a card, Energon's YAML files) are not checked. Files that `energon prepare` or
`widsindex` wrote are checked by content, like ours.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

from vilbert.pipeline.shards.canonical import decode_json
from vilbert.pipeline.shards.checks.findings import Finding, reindex
from vilbert.pipeline.shards.checks.shard import ShardReport
from vilbert.pipeline.shards.dataset import DatasetInfo
from vilbert.pipeline.shards.index import energon, wids
from vilbert.pipeline.shards.index.listed_shards import ListedShard, list_shards
from vilbert.pipeline.shards.index.names import (
    CROISSANT_FILE,
    ENERGON_FOLDER,
    ENERGON_INFO,
    ENERGON_SQLITE,
    INDEX_FILE,
    WIDS_FILE,
)
from vilbert.pipeline.shards.index.sample_rows import RECORDS_KEY, index_schema, rows_digest
from vilbert.pipeline.shards.index.write import PEOPLE_EDIT, encode_documents, is_ours
from vilbert.pipeline.shards.location.folder import Folder
from vilbert.pipeline.shards.storage.verified import file_sha256

LISTINGS = {WIDS_FILE: wids.listed_samples, ENERGON_INFO: energon.listed_samples}
"""Files that list the samples of each shard, and the functions that read the counts."""


def side_files_there(folder: Folder) -> set[str]:
    """Return the names of the side files of other tools, in the folder itself and in Energon's."""
    names = {name for name, size in folder.entries("") if size is not None}
    return names | {f"{ENERGON_FOLDER}/{name}" for name, size in folder.entries(ENERGON_FOLDER) if size is not None}


def check_side_files(
    folder: Folder, info: DatasetInfo, reports: Sequence[ShardReport], names: set[str], *, deep: bool
) -> Iterator[Finding]:
    """Find side files that do not belong to the shards of a complete data set.

    Args:
        reports: Reports of all shards, in order. Nothing is checked if a record is missing.
        names: The result of `side_files_there`.
        deep: Compare every row of the indexes with the shards. Large files behind a URL are read only then.
    """
    records = [report.record for report in reports if report.record is not None]
    if len(records) < info.shards:
        return
    shards = list(list_shards(records, info.splits))
    large = [name for name in (INDEX_FILE, ENERGON_SQLITE) if name in names and (deep or not folder.remote)]
    with folder.local(large) as directory:
        if INDEX_FILE in large:
            yield from _stale(folder, INDEX_FILE, _index_problems(directory / INDEX_FILE, info, reports, deep=deep))
        if ENERGON_SQLITE in large:
            problems = _sqlite_problems(directory / ENERGON_SQLITE, shards, reports, deep=deep)
            yield from _stale(folder, ENERGON_SQLITE, problems)
        digest = str(file_sha256(directory / INDEX_FILE)) if INDEX_FILE in large else ""
    expected = encode_documents(info, shards, digest)
    if CROISSANT_FILE in names and INDEX_FILE in names and not digest:
        del expected[CROISSANT_FILE]  # the hash of the index is unknown without reading the index
    for name in (name for name in PEOPLE_EDIT if name in names and name in expected):
        found = folder.read(name)
        if found is not None and found != expected[name] and is_ours(name, found):
            yield from _stale(folder, name, ["is not what `vilbert index` writes for these shards"])
    for name in (name for name in LISTINGS if name in names):
        yield from _stale(folder, name, _listing_problems(name, folder.read(name) or b"", shards))


def _stale(folder: Folder, name: str, problems: Iterable[str]) -> Iterator[Finding]:
    for what in problems:
        yield Finding(code="stale-side-file", where=name, what=what, remedy=reindex(folder.name))


def _listing_problems(name: str, data: bytes, shards: Sequence[ListedShard]) -> Iterator[str]:
    try:
        counts = LISTINGS[name](decode_json(data))
    except ValueError as error:
        yield f"is not JSON ({error})"
        return
    expected = {shard.file: shard.samples for shard in shards}
    if counts is None:
        yield "does not list shards"
    elif odd := sorted(file for file in {*counts, *expected} if counts.get(file) != expected.get(file)):
        said, right = counts.get(odd[0], "no"), expected.get(odd[0], "no")
        yield f"lists {odd[0]:.100} with {said!r:.20} samples, the records have {right} ({len(odd)} such shards)"


def _index_problems(path: Path, info: DatasetInfo, reports: Sequence[ShardReport], *, deep: bool) -> Iterator[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with path.open("rb") as opened, pq.ParquetFile(opened) as file:
            schema = index_schema(str(info.records_sha256))
            if not file.schema_arrow.equals(schema):
                yield "does not have the columns that `vilbert index` writes"
            elif (file.schema_arrow.metadata or {}).get(RECORDS_KEY) != str(info.records_sha256).encode():
                yield "was made from other records than these"
            elif file.metadata.num_rows != info.totals.samples:
                yield f"has {file.metadata.num_rows:,} rows for {info.totals.samples:,} samples"
            elif deep:
                yield from _row_problems(_rows(file), reports)
    except (pa.ArrowException, OSError, ValueError) as error:
        yield f"cannot be read ({str(error).splitlines()[0]:.200})"


def _rows(file: Any) -> Iterator[Mapping[str, Any]]:
    for batch in file.iter_batches(batch_size=4096):
        yield from batch.to_pylist()


def _row_problems(rows: Iterator[Mapping[str, Any]], reports: Sequence[ShardReport]) -> Iterator[str]:
    """Compare rows with those of the shards, in order. Damaged shards are skipped."""
    for report in reports:
        samples = 0 if report.record is None else report.record.samples
        digest = rows_digest(islice(rows, samples))
        if report.rows_digest not in (None, digest):
            yield f"its rows of shard {report.shard} are not those of the shard's samples"


def _sqlite_problems(
    path: Path, shards: Sequence[ListedShard], reports: Sequence[ShardReport], *, deep: bool
) -> Iterator[str]:
    try:
        with closing(sqlite3.connect(f"file:{quote(os.fsencode(path))}?mode=ro&immutable=1", uri=True)) as database:
            database.execute("PRAGMA trusted_schema=OFF")
            kinds = dict(database.execute("SELECT name, type FROM sqlite_master").fetchall())
            if kinds.get("samples") != "table" or kinds.get("sample_parts") != "table":
                yield "does not have the tables samples and sample_parts"
                return
            (count,) = database.execute("SELECT count(*) FROM samples").fetchone()
            if count != sum(shard.samples for shard in shards):
                yield f"lists {count:,} samples, the records have {sum(shard.samples for shard in shards):,}"
                return
            filled = [report for report in reports if report.record is not None and report.record.samples]
            for number, report in enumerate(filled if deep else ()):
                if report.parts_digest not in (None, _stored_parts_digest(database, number)):
                    yield f"its offsets in shard {report.shard} are not those of the shard's members"
    except (sqlite3.Error, OverflowError) as error:
        yield f"cannot be read ({error})"


def _stored_parts_digest(database: sqlite3.Connection, number: int) -> str:
    samples = database.execute(
        "SELECT sample_key, sample_index, byte_offset, byte_size FROM samples WHERE tar_file_id = ? "
        "ORDER BY sample_index",
        (number,),
    )
    parts = database.execute(
        "SELECT sample_index, part_name, content_byte_offset, content_byte_size FROM sample_parts "
        "WHERE tar_file_id = ? ORDER BY sample_index, content_byte_offset",
        (number,),
    )
    return energon.parts_digest(samples, parts)
