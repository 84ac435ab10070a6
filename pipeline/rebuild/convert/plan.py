"""The rows that a conversion writes, planned once and read by every worker.

    DIR/.plan/rows.bin        int64 [rows]: the source row of each position of the output, with the reason if dropped
    DIR/.plan/joined.sqlite   values that are joined by image id, see `joined.py`
    DIR/.plan/plan.json       written last: the request of the plan, and the first position of each shard

Source rows are numbered consecutively through all sources. The plan is a function of the sources and the settings, so
it may be deleted: the next run makes the same one. It is deleted when the data set is complete.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vilbert.documents import Count, Counts, Digest, List, document, from_json
from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.rebuild.convert.joined import Joined
from vilbert.pipeline.shards.canonical import decode_json, encode_json
from vilbert.pipeline.shards.location.folder import Folder, LocalFolder
from vilbert.pipeline.shards.location.layout import PLAN_FOLDER
from vilbert.pipeline.shards.storage.atomic import write_atomic

SOURCES_FOLDER = "sources"
"""Folder in `.plan/` with indexes of published features."""
PLAN_FILE, ROWS_FILE, JOINED_FILE = "plan.json", "rows.bin", "joined.sqlite"
FILES = tuple(f"{PLAN_FOLDER}/{name}" for name in (ROWS_FILE, JOINED_FILE, PLAN_FILE))
"""Files of the plan in the order in which they are written."""
_CHUNK = 1 << 20
REASONS = (
    *("", "failed", "ids", "split", "where", "not_joined", "no_fields", "duplicate_image", "duplicate_id"),
    "selection",
)
"""Reasons why rows are dropped, by the low byte of their entry in rows.bin; the first one means kept."""


@document
class Plan:
    """plan.json."""

    request: Digest
    """Digest of the sources and settings of the plan."""
    rows: Count
    """Number of rows of all sources."""
    kept: Count
    """Number of rows that are not dropped."""
    dropped: Counts
    """Number of dropped rows by reason."""
    starts: List[Count]
    """First position of each shard."""
    base_rows: Count = 0
    """Number of rows of the data set that is appended to."""


class Part(NamedTuple):
    """The positions of a shard."""

    places: NDArray[np.int64]
    """[kept] positions in the plan, ascending."""
    rows: NDArray[np.int64]
    """[kept] source rows."""
    dropped: dict[str, int]
    """Number of dropped positions by reason."""


class PlannedRows:
    """An opened plan. Rows are mapped, not read: memory does not depend on their number."""

    def __init__(self, directory: Path) -> None:
        """Open the plan in a folder with `.plan/`; ShardError if it is damaged."""
        self.plan = read_plan(directory)
        path = directory / PLAN_FOLDER / ROWS_FILE
        try:
            if path.stat().st_size != self.plan.rows * np.dtype(np.int64).itemsize:
                raise ValueError(f"does not have the rows of {PLAN_FILE}")
            self._rows: NDArray[np.int64] = np.memmap(path, dtype="<i8", mode="r")
            self.joined = Joined(directory / PLAN_FOLDER / JOINED_FILE)
        except (OSError, ValueError) as error:
            raise ShardError(
                f"{path}: cannot be read ({error}); delete {path.parent} and run the command again"
            ) from error

    def part(self, start: int, stop: int) -> Part:
        """Return the positions [start, stop)."""
        entries = np.array(self._rows[start:stop])
        codes = entries & 0xFF
        kept = codes == 0
        counts = np.bincount(codes, minlength=len(REASONS))
        dropped = {reason: int(count) for reason, count in zip(REASONS[1:], counts[1:], strict=False) if count}
        return Part(start + np.flatnonzero(kept), entries[kept] >> 8, dropped)

    def kept_rows(self) -> Iterator[NDArray[np.int64]]:
        """Yield the kept source rows in pieces, in the order of their positions."""
        for start in range(0, self.plan.rows, _CHUNK):
            yield self.part(start, start + _CHUNK).rows

    def spread(self, count: int) -> list[int]:
        """Return at most `count` kept positions, spread evenly."""
        places = set()
        for start in np.linspace(0, self.plan.rows, count, endpoint=False).astype(int).tolist():
            for begin in range(start, self.plan.rows, _CHUNK):
                kept = np.flatnonzero(self._rows[begin : begin + _CHUNK] & 0xFF == 0)
                if len(kept):
                    places.add(begin + int(kept[0]))
                    break
        return sorted(places)

    def close(self) -> None:
        """Release the files."""
        self.joined.close()


def read_plan(directory: Path) -> Plan:
    """Return the plan.json of a folder with `.plan/`; ShardError if it is missing or damaged."""
    path = directory / PLAN_FOLDER / PLAN_FILE
    try:
        return from_json(Plan, decode_json(path.read_bytes()))
    except (OSError, ValueError) as error:
        raise ShardError(
            f"{path}: is damaged ({error}); delete {path.parent} and run the same command again"
        ) from error


def find_plan(folder: Folder, request: str) -> Plan | None:
    """Return the folder's plan for this request; None if it does not exist."""
    with folder.local([FILES[-1]]) as directory:
        try:
            plan = read_plan(directory)
        except ShardError:
            return None
    return plan if plan.request == request else None


def make_plan(folder: Folder, build: Callable[[Path], Plan]) -> Plan:
    """Write a plan into a folder, plan.json last.

    Args:
        folder: The output folder.
        build: Writes rows.bin and joined.sqlite into its argument, a folder.
    """
    with folder.building() as directory:
        home = directory / PLAN_FOLDER
        home.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            (directory / name).unlink(missing_ok=True)
        try:
            plan = build(home)
        except BaseException:
            shutil.rmtree(home)
            raise
        write_atomic(home / PLAN_FILE, encode_json(dataclasses.asdict(plan)) + b"\n")
        folder.publish(directory, FILES)
    return plan


def remove_plan(folder: Folder) -> None:
    """Delete a folder's plan."""
    for name in reversed(FILES):
        folder.delete(name)
    if isinstance(folder, LocalFolder) and (home := folder.path / PLAN_FOLDER).is_dir():
        shutil.rmtree(home)


def order_rows(
    path: Path,
    codes: NDArray[np.uint8],
    *,
    shard_size: int,
    shuffle_seed: int | None = None,
    splits: NDArray[np.uint16] | None = None,
    split_names: Sequence[str] = (),
) -> tuple[int, ...]:
    """Write rows.bin and return the first place of each shard.

    In the order of the sources, a dropped row keeps its position. Shuffled rows, and rows by split, are followed by the
    dropped rows, which are counted in the last shard.

    Args:
        path: The file to write.
        codes: [rows] index in `REASONS` of each source row.
        shard_size: Kept rows per shard.
        shuffle_seed: Seed of the order; None for the order of the sources.
        splits: [rows] number of each row's split, for shards of one split each.
        split_names: Names of the splits by number.
    """
    entries = np.memmap(path, mode="w+", dtype="<i8", shape=(len(codes),))
    if shuffle_seed is None and splits is None:
        starts = _in_order(entries, codes, shard_size)
        entries.flush()
        return starts
    kept = np.flatnonzero(codes == 0)
    if shuffle_seed is not None:
        # Raw output of PCG64: the same order with every NumPy, which is not promised for shuffle().
        kept = kept[np.argsort(np.random.PCG64(shuffle_seed).random_raw(len(kept)), kind="stable")]
    if splits is None:
        starts = tuple(range(0, len(kept), shard_size))
    else:
        by_name = np.argsort(np.argsort(np.array(split_names, dtype=object)))  # rank of each split's name
        ranks = by_name[splits[kept]]
        kept = kept[np.argsort(ranks, kind="stable")]
        starts = _by_split(np.bincount(ranks, minlength=len(split_names)), shard_size)
    entries[: len(kept)] = kept << 8
    dropped = np.flatnonzero(codes)
    entries[len(kept) :] = dropped << 8 | codes[dropped]
    entries.flush()
    return starts


def _in_order(entries: NDArray[np.int64], codes: NDArray[np.uint8], shard_size: int) -> tuple[int, ...]:
    starts: list[int] = [0]
    kept = 0
    for begin in range(0, len(codes), _CHUNK):
        some = codes[begin : begin + _CHUNK]
        entries[begin : begin + len(some)] = np.arange(begin, begin + len(some)) << 8 | some
        places = np.flatnonzero(some == 0)
        full = begin + places[-kept % shard_size :: shard_size]  # kept rows behind a multiple of shard_size
        starts += full[int(kept == 0) :].tolist()
        kept += len(places)
    return tuple(starts)


def _by_split(counts: NDArray[np.intp], shard_size: int) -> tuple[int, ...]:
    """Return the first position of each shard if rows are grouped by split."""
    starts: list[int] = []
    begin = 0
    for count in counts.tolist():
        starts += range(begin, begin + count, shard_size)
        begin += count
    return tuple(starts)
