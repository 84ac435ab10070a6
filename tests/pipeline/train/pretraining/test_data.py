"""The data of a run: as many shards stay open as a window touches, so that none is opened twice in it."""

from __future__ import annotations

import resource
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vilbert.pipeline.train.data import shard_pool
from vilbert.pipeline.train.pretraining.data import open_data
from vilbert.pipeline.train.pretraining.settings import PretrainSettings

SHARDS = 90


@pytest.fixture(scope="module")
def tiny_shards(tmp_path_factory: pytest.TempPathFactory, make_dataset: Callable[..., Path]) -> Path:
    """Return a data set of shards of one sample each."""
    return make_dataset(tmp_path_factory.mktemp("data") / "a", samples=SHARDS, shard_size=1, feature_dim=2, regions=1)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Return how often each shard was opened."""
    counts: Counter[str] = Counter()
    open_shard: Callable[[Path], Any] = shard_pool.open_shard

    def counted(path: Path, *, verify: bool) -> Any:
        counts[path.name] += 1
        return open_shard(path, verify=verify)

    monkeypatch.setattr(shard_pool, "open_shard", counted)
    return counts


def read_two_epochs(folder: Path) -> None:
    settings = PretrainSettings(data=(str(folder),), output=folder / "run", eval_split="none", tokenizer="new")
    data = open_data(settings)
    for start in range(0, 2 * SHARDS, 30):
        data.corpus.read(data.order.at(np.arange(start, start + 30)))


def test_every_shard_of_a_window_stays_open(tiny_shards: Path, opened: Counter[str]) -> None:
    read_two_epochs(tiny_shards)
    assert set(opened.values()) == {1}
    assert len(opened) == SHARDS


def test_but_no_more_than_the_limit_on_files_leaves_room_for(
    tiny_shards: Path, opened: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (40, 40))
    assert shard_pool.most_open_shards() == 10
    read_two_epochs(tiny_shards)
    assert sum(opened.values()) > 2 * SHARDS - 20
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert shard_pool.most_open_shards() > 10**6
