"""The shards as listed in side files: file, size, hash, and the split shown to other tools.

Other tools split a data set by shard. A shard with samples of one split gets the name of that split; a shard with
several splits gets their names joined with `_`, so that no tool uses validation samples for training.
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
"""Maximum number of splits in a joined name; more are named `mixed`."""


class ListedShard(NamedTuple):
    """A shard with at least one sample."""

    file: str
    """Path inside the data set's folder."""
    samples: int
    bytes: int
    sha256: str
    split: str
    """Split shown to other tools."""


def list_shards(records: Iterable[ShardRecord], splits: Mapping[str, int]) -> Iterator[ListedShard]:
    """Yield the shards that contain samples, in order, because loaders of other tools fail on empty ones.

    `splits` are the samples by split of the whole data set.
    """
    for record in records:
        if record.samples:
            yield list_shard(record, splits)


def list_shard(record: ShardRecord, splits: Mapping[str, int]) -> ListedShard:
    """Return the entry of a shard that contains samples; `splits` as for `list_shards`."""
    split = NO_SPLIT if list(splits) == [""] else shown_split(record.splits)
    return ListedShard(f"{SHARDS_FOLDER}/{record.file}", record.samples, record.bytes, record.sha256, split)


def shown_split(splits: Mapping[str, int]) -> str:
    """Return the split name for other tools for samples of these splits, `[A-Za-z0-9_]+`."""
    names = [name for name, count in sorted(splits.items()) if count]
    if len(names) > MOST_JOINED:
        return "mixed"
    joined = "_".join(re.sub(r"[^A-Za-z0-9_]+", "_", name) or UNASSIGNED for name in names)
    return "all_" if joined == "all" else joined  # `datasets` reserves the name


def by_split(shards: Sequence[ListedShard]) -> dict[str, list[ListedShard]]:
    """Return the shards by the split shown to other tools, in the order of the splits' first shards."""
    groups: dict[str, list[ListedShard]] = {}
    for shard in shards:
        groups.setdefault(shard.split, []).append(shard)
    return groups
