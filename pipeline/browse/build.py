"""Build the index of a data set: read its shards, store rows and captions in SQLite, sort its columns.

Shards are stored in transactions of about BATCH samples, so a build that was killed is resumed at the first shard that
is missing. `complete` in the table `meta` is written last.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sqlite3
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from vilbert.pipeline.browse.columns import (
    ABOVE_ALL,
    FILTER_ORDERS,
    SCORE_STEPS,
    SHOWN_BOXES,
    write_column,
)
from vilbert.pipeline.browse.entries import MAX_WORDS, NO_HASH, ShardEntries, part_path, read_entries
from vilbert.pipeline.browse.schema import DATABASE, INDEXES, VERSION, open_for_building
from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.shards.canonical import decode_json, encode_json
from vilbert.pipeline.shards.dataset import DatasetInfo
from vilbert.pipeline.shards.failures import read_failures
from vilbert.pipeline.shards.location.layout import BROWSE_FOLDER, DATASET_FILE, failures_path
from vilbert.pipeline.shards.location.lock import exclusive_writer
from vilbert.pipeline.shards.parallel import map_shards, worker_count
from vilbert.pipeline.shards.record import ShardRecord, records_digest

PARTS = "parts"
BATCH = 20_000
"""Samples of a transaction. FTS5 writes a segment for each, and merging many small ones takes longer than all else."""
SHUFFLE_KEY = 0x62726F777365


def index_folder(directory: Path) -> Path:
    """Return where a data set's index lies: in the data set, or in the user's cache folder where that is read-only."""
    inside = directory / BROWSE_FOLDER
    if not inside.is_symlink():
        with contextlib.suppress(OSError):
            inside.mkdir(exist_ok=True)
            if os.access(inside, os.W_OK | os.X_OK) and inside.stat().st_uid == os.geteuid():
                return inside
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "vilbert" / "browse" / hashlib.sha256(os.fsencode(directory.resolve())).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def content_digest(directory: Path, records: Mapping[int, ShardRecord]) -> str:
    """Return what the index depends on: dataset.json, the records, and the version of the index."""
    whole = hashlib.sha256(f"{VERSION}\n".encode())
    whole.update((directory / DATASET_FILE).read_bytes())
    whole.update(records_digest(records.values()).encode())
    return whole.hexdigest()


def ensure_index(
    directory: Path, info: DatasetInfo, records: Mapping[int, ShardRecord], *, num_workers: int = 0
) -> Path:
    """Return the folder of the data set's index, which is built, or its building resumed, where it is not there."""
    folder = index_folder(directory)
    digest = content_digest(directory, records)
    if read_meta(folder).get("complete") == digest:
        return folder
    with exclusive_writer(folder):
        meta = read_meta(folder)
        if meta.get("complete") == digest:
            return folder  # another process has built it meanwhile
        if meta.get("digest") != digest:
            _empty(folder)
        with contextlib.closing(open_for_building(folder)) as database:
            try:
                database.execute("INSERT OR REPLACE INTO meta VALUES ('digest', ?)", (digest,))
                _Build(directory, folder, info, records, database).run(num_workers)
                database.execute("INSERT INTO meta VALUES ('complete', ?)", (digest,))
                database.execute("PRAGMA journal_mode = DELETE")
            except (sqlite3.Error, SafetensorError) as error:
                raise ShardError(f"{folder}: cannot be written ({error}); delete it and run again") from error
        shutil.rmtree(folder / PARTS, ignore_errors=True)
    return folder


def read_meta(folder: Path) -> dict[str, str]:
    """Return the description of an index; {} if it is missing or unreadable."""
    path = folder / DATABASE
    if not path.is_file() or path.is_symlink():
        return {}
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            return dict(database.execute("SELECT name, value FROM meta"))
    except sqlite3.Error:
        return {}


def _empty(folder: Path) -> None:
    """Delete an index except its lock file."""
    shutil.rmtree(folder / PARTS, ignore_errors=True)
    for path in [*folder.glob("*.bin"), *folder.glob(f"{DATABASE}*")]:
        path.unlink()


class _Build:
    """Builds one index."""

    def __init__(
        self,
        directory: Path,
        folder: Path,
        info: DatasetInfo,
        records: Mapping[int, ShardRecord],
        database: sqlite3.Connection,
    ) -> None:
        self.directory = directory
        self.folder = folder
        self.info = info
        self.records = records
        self.database = database
        counts = [record.samples for record in records.values()]
        starts = np.cumsum([0, *counts])
        self.samples = int(starts[-1])
        self._pending = 0
        """Samples stored since the last transaction ended."""
        self._whole = True
        """Whether all of the shards that the transaction has begun are in it."""
        self.starts = dict(zip(records, starts[:-1].tolist(), strict=True))
        """Number of each shard's first sample."""

    def run(self, num_workers: int) -> None:
        """Read the shards that are not yet in the database, then sort."""
        parts = self.folder / PARTS
        parts.mkdir(exist_ok=True)
        done = {shard for (shard,) in self.database.execute("SELECT shard FROM shards")}
        todo = [shard for shard in self.records if shard not in done]
        if todo:
            print(f"{self.directory}: indexing {self.samples:,} samples into {self.folder}", file=sys.stderr)
        workers = worker_count(num_workers, sum(self.records[shard].bytes for shard in todo))
        fields = tuple(self.info.fields)
        samples = {shard: self.records[shard].samples for shard in todo}
        function = partial(read_entries, self.directory, parts, self.info.storage, fields, samples)
        try:
            for entries in map_shards(function, todo, workers=workers, label="index"):
                self._store(entries)
        finally:  # after Ctrl-C, too
            self._commit()
        self._sort()

    def _commit(self) -> None:
        if self.database.in_transaction and self._whole:
            self.database.execute("COMMIT")
            self._pending = 0

    def _store(self, entries: ShardEntries) -> None:
        start = self.starts[entries.shard]
        failures = failures_path(self.directory, entries.shard)
        problem = entries.problem
        rows: list[tuple[Any, ...]] = []
        try:
            rows = [(it.row, it.reason, it.image_id, it.uri, it.detail) for it in read_failures(failures)]
        except ShardError as error:
            problem = problem or str(error)
        database = self.database
        if not database.in_transaction:
            database.execute("BEGIN")
        self._whole = False
        database.executemany(
            "INSERT INTO samples VALUES (?, ?, ?, ?, ?, ?)",
            ((start + it.place, entries.shard, it.place, it.key, it.image_id, it.caption) for it in entries.rows),
        )
        database.executemany(
            "INSERT INTO captions (rowid, text) VALUES (?, ?)",
            ((start + it.place, it.searched) for it in entries.rows if it.searched),
        )
        database.executemany("INSERT OR REPLACE INTO failures VALUES (?, ?, ?, ?, ?)", rows)
        database.execute(
            "INSERT INTO shards VALUES (?, ?, ?)", (entries.shard, encode_json(entries.splits).decode(), problem)
        )
        self._whole = True
        self._pending += len(entries.rows)
        if self._pending >= BATCH:
            self._commit()

    def _sort(self) -> None:
        for statement in INDEXES.values():
            self.database.execute(statement.replace("INDEX", "INDEX IF NOT EXISTS", 1))
        columns, sizes, splits = self._gather()
        for name, array in {**columns, **derive(columns)}.items():
            write_column(self.folder, name, array)
        meta = {"sizes": encode_json(sizes).decode(), "splits": encode_json(splits).decode()}
        self.database.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", meta.items())

    def _gather(self) -> tuple[dict[str, NDArray[Any]], dict[str, int], list[str]]:
        """Return the columns over samples, those over regions sorted by object and by attribute, and their sizes."""
        found: dict[str, list[NDArray[Any]]] = {}
        splits: dict[str, int] = {}
        for part in self._parts(splits):
            for name, array in part.items():
                found.setdefault(name, []).append(array)
        whole = {name: np.concatenate(arrays) for name, arrays in found.items()}
        for name, empty in _EMPTY.items():
            whole.setdefault(name, empty)
        objects = "object_ids" in self.info.fields and "object_scores" in self.info.fields
        attributes = objects and "attribute_ids" in self.info.fields
        sample = np.repeat(np.arange(self.samples, dtype=np.uint32), whole["boxes"].astype(np.int64))
        sizes = {"N": self.samples, "P": self.samples + 1, "R": len(sample), "C": len(whole["caption_words"]), "S": 0}
        columns = {name: whole[name] for name in _EMPTY if not name.startswith("object") and name != "attribute_ids"}
        columns |= word_columns(whole["captions"].astype(np.int64), whole["caption_words"])
        if not objects:
            del columns["shown_objects"]
            return columns, {**sizes, "O": 0, "A": 0}, list(splits)
        scores = whole["object_scores"]
        columns |= score_columns(sample, scores, self.samples)
        sizes["S"] = len(columns["score_samples"])
        for kind, names in (("object", self.info.class_names), ("attribute", self.info.attribute_names)):
            if kind == "attribute" and not attributes:
                continue
            ids = np.minimum(whole[f"{kind}_ids"], len(names))  # ids without a name are counted together
            order = np.argsort(ids, kind="stable")
            counts = np.bincount(ids, minlength=len(names) + 1)
            columns[f"{kind}_starts"] = np.concatenate([[0], np.cumsum(counts)]).astype(np.uint64)
            columns[f"{kind}_samples"] = sample[order]
            columns[f"{kind}_scores"] = scores[order]
            if kind == "object" and attributes:
                columns["object_attributes"] = whole["attribute_ids"][order]
            sizes[kind[0].upper()] = len(names) + 2
        return columns, {"A": 0, **sizes}, list(splits)

    def _parts(self, splits: dict[str, int]) -> Iterator[dict[str, NDArray[Any]]]:
        """Yield the columns of each shard in order; those of a damaged one are zeros.

        splits: takes in the number of each split.
        """
        stored = {shard: (decode_json(names.encode()), problem) for shard, names, problem in self._shard_rows()}
        for shard, record in self.records.items():
            names, _ = stored[shard]
            path = part_path(self.folder / PARTS, shard)
            if not path.exists():
                yield {
                    name: np.zeros((record.samples, *empty.shape[1:]), empty.dtype)
                    for name, empty in _EMPTY.items()
                    if name in _OF_SAMPLES
                }
                continue
            part = load(path.read_bytes())
            numbers = np.array([splits.setdefault(name, len(splits)) for name in names], np.uint16)
            part["split"] = numbers[part["split"]] if len(numbers) else part["split"].astype(np.uint16)
            part["present"] = np.ones(record.samples, np.uint8)
            yield part

    def _shard_rows(self) -> Iterator[tuple[int, str, str | None]]:
        return iter(self.database.execute("SELECT shard, splits, problem FROM shards").fetchall())


_EMPTY: dict[str, NDArray[Any]] = {
    "boxes": np.empty(0, np.uint32),
    "width": np.empty(0, np.uint32),
    "height": np.empty(0, np.uint32),
    "split": np.empty(0, np.uint16),
    "captions": np.empty(0, np.uint32),
    "image_hash": np.empty(0, np.uint64),
    "present": np.empty(0, np.uint8),
    "shown_boxes": np.empty((0, SHOWN_BOXES, 4), np.uint16),
    "shown_objects": np.empty((0, SHOWN_BOXES), np.uint16),
    "caption_words": np.empty(0, np.uint16),
    "object_ids": np.empty(0, np.uint16),
    "object_scores": np.empty(0, np.uint8),
    "attribute_ids": np.empty(0, np.uint16),
}
_OF_SAMPLES = set(_EMPTY) - {"caption_words", "object_ids", "object_scores", "attribute_ids"}


def word_columns(counts: NDArray[np.int64], words: NDArray[np.uint16]) -> dict[str, NDArray[Any]]:
    """Return the columns over captions, and the words of the longest and the shortest caption of each sample.

    counts: [N] captions of each sample. words: [C] words of each caption.
    """
    starts = np.concatenate([[0], np.cumsum(counts)])
    longest = np.zeros(len(counts), np.uint16)
    shortest = np.full(len(counts), MAX_WORDS + 1, np.uint16)
    some = np.flatnonzero(counts)
    if len(some):
        longest[some] = np.maximum.reduceat(words, starts[some]) + 1
        shortest[some] = np.minimum.reduceat(words, starts[some])
    order = np.argsort(words, kind="stable")
    sample = np.repeat(np.arange(len(counts), dtype=np.uint32), counts)
    return {
        "caption_starts": starts.astype(np.uint64),
        "longest": longest,
        "shortest": shortest,
        "word_counts": words[order],
        "word_samples": sample[order],
    }


def score_columns(sample: NDArray[np.uint32], scores: NDArray[np.uint8], samples: int) -> dict[str, NDArray[Any]]:
    """Return the best and the worst score of each sample, a bit for each step in which it has one, and the postings.

    sample, scores: [R], ordered by sample.
    """
    best = np.zeros(samples, np.uint8)
    worst = np.full(samples, ABOVE_ALL, np.uint8)
    steps = np.zeros((samples, 2), np.uint64)
    if len(sample):
        starts = np.flatnonzero(np.diff(sample, prepend=sample[0] + 1))
        best[sample[starts]] = np.maximum.reduceat(scores, starts) + 1
        worst[sample[starts]] = np.minimum.reduceat(scores, starts) + 1
        bits = np.left_shift(np.uint64(1), (scores % 64).astype(np.uint64))
        for word in (0, 1):
            of_word = np.where(scores // 64 == word, bits, np.uint64(0))
            steps[sample[starts], word] = np.bitwise_or.reduceat(of_word, starts)
    assert SCORE_STEPS <= 2 * 64
    order = np.argsort(scores, kind="stable")
    by_step, of_step = scores[order], sample[order]
    first = np.ones(len(order), np.bool_)  # a sample is listed once for a step, however many regions have it
    first[1:] = (by_step[1:] != by_step[:-1]) | (of_step[1:] != of_step[:-1])
    counts = np.bincount(by_step[first], minlength=SCORE_STEPS)
    return {
        "best_score": best,
        "worst_score": worst,
        "score_steps": steps,
        "score_starts": np.concatenate([[0], np.cumsum(counts)]).astype(np.uint64),
        "score_samples": of_step[first],
        **sort_columns({"score": np.argsort(best, kind="stable")}),
        "order_worst_score": np.argsort(worst, kind="stable").astype(np.uint32),
    }


def derive(columns: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return what follows from the columns over samples: copies of the same image, and orders to sort and filter by."""
    hashes, samples = columns["image_hash"], len(columns["image_hash"])
    by_hash = np.argsort(hashes, kind="stable")
    counts = np.unique(hashes, return_counts=True)[1]
    copies = np.ones(samples, np.uint32)
    copies[by_hash] = np.repeat(counts, counts)
    copies[hashes == NO_HASH] = 1
    size = columns["width"].astype(np.uint64) * columns["height"]
    draws = np.random.Generator(np.random.Philox(key=SHUFFLE_KEY))
    orders = {
        "boxes": np.argsort(columns["boxes"], kind="stable"),
        "size": np.argsort(size, kind="stable"),
        "copies": by_hash[np.argsort(-copies[by_hash].astype(np.int64), kind="stable")],
        "shuffled": draws.permutation(samples),
    }
    filtered = {**columns, "side": np.minimum(columns["width"], columns["height"])}
    by_value = {name: np.argsort(filtered[name], kind="stable").astype(np.uint32) for name in FILTER_ORDERS}
    return {
        "copies": copies,
        **sort_columns(orders),
        **{f"order_{name}": order for name, order in by_value.items()},
    }


def sort_columns(orders: Mapping[str, NDArray[np.int64]]) -> dict[str, NDArray[Any]]:
    """Return the columns of some orders, numbers of samples [N] each: the order itself, and the rank of each sample."""
    columns: dict[str, NDArray[Any]] = {}
    for name, order in orders.items():
        rank = np.empty(len(order), np.uint32)
        rank[order] = np.arange(len(order), dtype=np.uint32)
        columns |= {f"order_{name}": order.astype(np.uint32), f"rank_{name}": rank}
    return columns
