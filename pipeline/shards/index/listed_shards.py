"""The shards as side files list them: file, size, hash, and the split under which other tools find them.

Other tools split a data set by shard. A shard whose samples are all of one split goes by that split's name; one that
mixes splits goes by their names joined with `_`, so that no tool takes validation samples for training samples.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from vilbert.pipeline.shards.location.layout import SHARDS_FOLDER
from vilbert.pipeline.shards.record import ShardRecord

NO_SPLIT = "train"
"""Name for samples without a split where no sample has one: what loaders ask for when nothing is said."""
UNASSIGNED = "unassigned"
"""Name for samples without a split beside samples with one."""
MOST_JOINED = 4
"""Splits that are joined to one name; more are `mixed`."""


class ListedShard(NamedTuple):
    """A shard with at least one sample."""

    file: str
    """Inside the data set's folder."""
    samples: int
    bytes: int
    sha256: str
    split: str
    """As other tools know it."""


def list_shards(records: Iterable[ShardRecord], splits: Mapping[str, int]) -> Iterator[ListedShard]:
    """Yield the shards that hold samples, in order. Loaders of other tools fail on empty ones.

    splits: samples by split of the whole data set.
    """
    for record in records:
        if record.samples:
            yield list_shard(record, splits)


def list_shard(record: ShardRecord, splits: Mapping[str, int]) -> ListedShard:
    """Return the entry of a shard that holds samples; splits as for `list_shards`."""
    split = NO_SPLIT if list(splits) == [""] else shown_split(record.splits)
    return ListedShard(f"{SHARDS_FOLDER}/{record.file}", record.samples, record.bytes, record.sha256, split)


def shown_split(splits: Mapping[str, int]) -> str:
    """Return the name that other tools get for samples of these splits, `[A-Za-z0-9_]+`."""
    names = [name for name, count in sorted(splits.items()) if count]
    if len(names) > MOST_JOINED:
        return "mixed"
    joined = "_".join(re.sub(r"[^A-Za-z0-9_]+", "_", name) or UNASSIGNED for name in names)
    return "all_" if joined == "all" else joined  # `datasets` reserves the name


def by_split(shards: Sequence[ListedShard]) -> dict[str, list[ListedShard]]:
    """Return the shards by the split that other tools know them by; splits in the order of their first shard."""
    groups: dict[str, list[ListedShard]] = {}
    for shard in shards:
        groups.setdefault(shard.split, []).append(shard)
    return groups
