"""The shards in side files: file, size, hash, and the split under which other tools find them.

Other tools split a data set by shard. A shard with samples of one split is listed under that split. A shard that mixes
splits is listed under their names joined with `_`, so that no tool uses validation samples for training.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from vilbert.pipeline.shards.location.layout import SHARDS_FOLDER
from vilbert.pipeline.shards.record import ShardRecord

NO_SPLIT = "train"
"""Name for samples without a split if no sample has one: the default split of loaders."""
UNASSIGNED = "unassigned"
"""Name for samples without a split if other samples have one."""
MOST_JOINED = 4
"""Maximum number of splits that are joined to one name; more are `mixed`."""


class ListedShard(NamedTuple):
    """A shard with at least one sample."""

    file: str
    """Path inside the data set's folder."""
    samples: int
    bytes: int
    sha256: str
    split: str
    """Name for other tools."""


def list_shards(records: Iterable[ShardRecord], splits: Mapping[str, int]) -> Iterator[ListedShard]:
    """Yield the shards that have samples, in order. Loaders of other tools fail on empty shards.

    splits: number of samples by split of the whole data set.
    """
    for record in records:
        if record.samples:
            yield list_shard(record, splits)


def list_shard(record: ShardRecord, splits: Mapping[str, int]) -> ListedShard:
    """Return the entry of a shard that has samples; splits as for `list_shards`."""
    split = NO_SPLIT if list(splits) == [""] else shown_split(record.splits)
    return ListedShard(f"{SHARDS_FOLDER}/{record.file}", record.samples, record.bytes, record.sha256, split)


def shown_split(splits: Mapping[str, int]) -> str:
    """Return the name for other tools of a shard with samples of these splits, `[A-Za-z0-9_]+`."""
    names = [name for name, count in sorted(splits.items()) if count]
    if len(names) > MOST_JOINED:
        return "mixed"
    joined = "_".join(re.sub(r"[^A-Za-z0-9_]+", "_", name) or UNASSIGNED for name in names)
    return "all_" if joined == "all" else joined  # `datasets` reserves the name


def by_split(shards: Sequence[ListedShard]) -> dict[str, list[ListedShard]]:
    """Return the shards by their split for other tools; splits in the order of their first shard."""
    groups: dict[str, list[ListedShard]] = {}
    for shard in shards:
        groups.setdefault(shard.split, []).append(shard)
    return groups
