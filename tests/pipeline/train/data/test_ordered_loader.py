"""`vilbert.order`: the same global batches for every number of processes and workers, and from every state."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import vilbert
from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.train.data.corpus import Corpus
from vilbert.pipeline.train.data.example import Example
from vilbert.pipeline.train.data.order import Order
from vilbert.pipeline.train.data.ordered_loader import collate

BATCH, SEED = 6, 3


def names(examples: Sequence[Example]) -> list[str]:
    """Return the image ids of a batch: a collate function that worker processes can import."""
    return [example.image_id for example in examples]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, make_dataset: Callable[..., Path]) -> Path:
    return make_dataset(
        tmp_path_factory.mktemp("order") / "data", samples=20, shard_size=4, regions=lambda row: row % 3 + 1
    )


def take(data: Path, batches: int, *, state: dict[str, Any] | None = None, **options: Any) -> list[list[str]]:
    loader = vilbert.order(data, batch_size=BATCH, seed=SEED, collate_fn=names, **options)
    if state is not None:
        loader.load_state_dict(state)
    return list(itertools.islice(loader, batches))


def test_it_is_the_order_of_training(data: Path) -> None:
    corpus = Corpus.open(data, split="auto")
    stream = Order(corpus.shard_sizes, seed=SEED, window=8192)
    expected = corpus.image_ids(stream.at(torch.arange(4 * BATCH).numpy()))
    assert [name for batch in take(data, 4) for name in batch] == expected
    assert len(set(expected[:20])) == 20


@pytest.mark.parametrize("world_size", [2, 4])
def test_the_parts_of_all_processes_are_the_global_batches(data: Path, world_size: int) -> None:
    parts = [take(data, 5, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert [list(itertools.chain(*of_batch)) for of_batch in zip(*parts, strict=True)] == take(data, 5)


def test_a_state_continues_on_other_processes_and_workers(data: Path) -> None:
    loader = vilbert.order(data, batch_size=BATCH, seed=SEED, rank=1, world_size=2, collate_fn=names)
    for _ in itertools.islice(loader, 3):
        pass
    state = json.loads(json.dumps(loader.state_dict()))
    assert state["position"] == 3 * BATCH
    with_workers = vilbert.order(data, batch_size=BATCH, seed=SEED, num_workers=2, collate_fn=names)
    with_workers.load_state_dict(state)
    taken = []
    for number, batch in zip(range(4, 8), with_workers, strict=False):
        taken.append(batch)
        assert with_workers.state_dict()["position"] == number * BATCH  # not what workers have read ahead
    assert taken == take(data, 7)[3:]
    second = [batch for _, batch in zip(range(2), loader, strict=False)]  # a second loop goes on, too
    assert second == [batch[BATCH // 2 :] for batch in take(data, 5)[3:]]


def test_batches_are_padded(data: Path) -> None:
    examples = [example for example in Corpus.open(data, split="auto").read(
        Order([torch.tensor([4] * 5).numpy()], seed=0, shuffle=False).at(torch.arange(3).numpy())
    ) if example]  # fmt: skip
    batch = collate(examples)
    assert batch["region_mask"].tolist() == [[True, False, False], [True, True, False], [True, True, True]]
    assert batch["features"].shape == (3, 3, 8)
    assert not batch["features"][~batch["region_mask"]].any()
    assert torch.equal(batch["features"][2], torch.from_numpy(examples[2].features.astype("float32")))
    assert batch["sizes"].tolist() == [[120, 90]] * 3
    assert batch["captions"][0] == list(examples[0].captions)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 4}, "seed is 4"),
        ({"split": "val"}, "split is 'val'"),
        ({"position": 7}, "position is 7"),
        ({"data": []}, r"data is \[\]"),
        ({"position": None}, "position is None"),
    ],
)
def test_a_state_of_another_stream_is_refused(data: Path, change: dict[str, Any], named: str) -> None:
    loader = vilbert.order(data, batch_size=BATCH, seed=SEED)
    with pytest.raises(RefusedError, match=named):
        loader.load_state_dict({**loader.state_dict(), **change})


@pytest.mark.parametrize("options", [{"rank": 2, "world_size": 2}, {"world_size": 7}, {"rank": -1}])
def test_a_process_without_samples_is_refused(data: Path, options: dict[str, int]) -> None:
    with pytest.raises(RefusedError, match="rank must be below world_size"):
        vilbert.order(data, batch_size=BATCH, **options)
