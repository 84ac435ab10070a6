"""shardindex.json: the shard list that `wids.ShardListDataset` opens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from vilbert.pipeline.shards.index.listed_shards import ListedShard


def encode_wids(shards: Sequence[ListedShard], *, name: str) -> bytes:
    """Return shardindex.json. wids resolves the relative URLs against the location of the file."""
    document = {
        "__kind__": "wids-shard-index-v1",
        "wids_version": 1,
        "name": name,
        "shardlist": [{"url": shard.file, "nsamples": shard.samples, "filesize": shard.bytes} for shard in shards],
    }
    return json.dumps(document, indent=1).encode() + b"\n"


def listed_samples(document: Any) -> dict[str, int] | None:
    """Return the samples by the last two parts of each shard's URL, or None if the document is not a shard list."""
    shardlist = document.get("shardlist") if isinstance(document, dict) else None
    if not isinstance(shardlist, list):
        return None
    counts: dict[str, int] = {}
    for shard in shardlist:
        if not isinstance(shard, dict) or not isinstance(shard.get("url"), str):
            return None
        counts["/".join(shard["url"].split("/")[-2:])] = shard.get("nsamples", -1)
    return counts
