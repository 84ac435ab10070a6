"""Errors say what, where and what to do, also after a journey between processes."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from vilbert.pipeline.errors import CorruptShardError, ShardError


@pytest.mark.parametrize("remedy", [None, "restore it from a copy"])
def test_a_corrupt_shard_is_named_here_and_in_another_process(remedy: str | None) -> None:
    error = CorruptShardError("is cut", path=Path("d/shards/000003.tar"), offset=512, key="k", remedy=remedy)
    expected = remedy or (
        "delete 000003.tar and 000003.json and run the same `vilbert extract` or `vilbert convert` again: "
        "it rewrites this shard"
    )
    for arrived in (error, pickle.loads(pickle.dumps(error))):
        assert isinstance(arrived, ShardError)
        assert str(arrived) == f"d/shards/000003.tar, byte 512, key 'k': is cut; {expected}"
        assert (arrived.path, arrived.offset, arrived.key, arrived.problem) == (error.path, 512, "k", "is cut")
