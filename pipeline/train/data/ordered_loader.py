"""The order of training for other people's loops: batches of samples whose position is one integer.

The stream of global batches depends on the data, the seed and the batch size alone. Any number of processes and of
loader workers sees the same global batches, and a loop that is resumed on more or fewer of them continues where it
stopped.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.shards.storage.verified import VerifiedFiles
from vilbert.pipeline.train.data.corpus import Corpus
from vilbert.pipeline.train.data.example import Example
from vilbert.pipeline.train.data.order import Order

if TYPE_CHECKING:
    Collate = Callable[[Sequence[Example]], Any]


def collate(examples: Sequence[Example]) -> dict[str, Any]:
    """Make a batch of samples, with regions padded to the largest number of regions.

    Returns:
        `features` float32 [B, R, D], `boxes` float32 [B, R, 4] in xyxy pixels, `sizes` int64 [B, 2] width and height in
        pixels, `region_mask` bool [B, R] with True for regions and False for padding, and the lists `image_ids` and
        `captions` of length B. Padding is 0.
    """
    regions = max([len(example.boxes) for example in examples], default=0)
    channels = examples[0].features.shape[1] if examples else 0
    features = torch.zeros((len(examples), regions, channels))
    boxes = torch.zeros((len(examples), regions, 4))
    region_mask = torch.zeros((len(examples), regions), dtype=torch.bool)
    for row, example in enumerate(examples):
        count = len(example.boxes)
        features[row, :count] = torch.from_numpy(example.features.astype(np.float32))
        boxes[row, :count] = torch.tensor(example.boxes)
        region_mask[row, :count] = True
    return {
        "features": features,
        "boxes": boxes,
        "sizes": torch.tensor([(example.width, example.height) for example in examples]).reshape(-1, 2),
        "region_mask": region_mask,
        "image_ids": [example.image_id for example in examples],
        "captions": [list(example.captions) for example in examples],
    }


class OrderedLoader(Iterable[Any]):
    """An endless iterable of one process's part of each global batch; see `order`.

    Iterating continues from the current position: after a `break`, the next `for` begins with the next batch.
    """

    def __init__(
        self,
        load: Callable[..., Iterable[Any]],
        *,
        batch_size: int,
        epoch_size: int,
        rank: int,
        world_size: int,
        identity: Mapping[str, Any],
    ) -> None:
        """Store a function that makes an iterable of batches from a `batch_sampler`, and what the stream depends on.

        Raises:
            RefusedError: There are fewer samples in a batch than processes.
        """
        if not 0 <= rank < world_size <= batch_size:
            raise RefusedError(
                f"rank {rank}, world_size {world_size}, batch_size {batch_size}: rank must be below world_size, and "
                "each process needs a sample of each batch"
            )
        self.batch_size = batch_size
        """Samples of a global batch, over all processes."""
        self.epoch_size = epoch_size
        """Samples of an epoch."""
        self.position = 0
        """Samples of the stream that all processes took together; a multiple of `batch_size`."""
        self._rank, self._world_size = rank, world_size
        self._identity = dict(identity)
        self._load = load

    def __iter__(self) -> Iterator[Any]:
        for batch in self._load(batch_sampler=self._parts(self.position)):
            self.position += self.batch_size
            yield batch

    def _parts(self, position: int) -> Iterator[list[int]]:
        """Yield this process's positions of each global batch from `position` on."""
        start, stop = (number * self.batch_size // self._world_size for number in (self._rank, self._rank + 1))
        while True:
            yield list(range(position + start, position + stop))
            position += self.batch_size

    def state_dict(self) -> dict[str, Any]:
        """Return the position and what the stream depends on, as JSON values. All processes have the same state."""
        return {"position": self.position, **self._identity}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state; the number of processes and of workers may be another.

        Raises:
            RefusedError: The state is that of another stream; the message names what differs.
        """
        position = state.get("position")
        if type(position) is not int or position < 0 or position % self.batch_size:
            raise RefusedError(f"state: position is {position!r}, expected a multiple of {self.batch_size}")
        for name, value in self._identity.items():
            if state.get(name) != value:
                found, here = f"{state.get(name)!r:.200}", f"{value!r:.200}"
                raise RefusedError(
                    f"state: {name} is {found}, here {here}: resume a stream with the data, seed and batch size "
                    "that it started with"
                )
        self.position = position


class _Positions(Dataset[Example]):
    """Samples by their position in the stream."""

    def __init__(self, corpus: Corpus, stream: Order) -> None:
        self._corpus, self._stream = corpus, stream

    def __getitem__(self, position: int) -> Example:
        return self.__getitems__([position])[0]

    def __getitems__(self, positions: list[int]) -> list[Example]:
        wanted: NDArray[np.int64] = np.array(positions, dtype=np.int64)
        return [example for example in self._corpus.read(self._stream.at(wanted)) if example is not None]


def order(
    data: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    batch_size: int,
    seed: int = 0,
    split: str | None = "auto",
    weights: Sequence[float] = (),
    window: int = 8192,
    selection: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
    rank: int = 0,
    world_size: int = 1,
    num_workers: int = 0,
    collate_fn: Collate = collate,
    cache_dir: Path | None = None,
) -> OrderedLoader:
    """Return the samples of data sets in the order of `vilbert pretrain`, for a training loop of your own.

    Args:
        data: Data sets of `vilbert extract` or `vilbert convert`: folders, or URLs with `cache_dir`.
        batch_size: Size of a global batch, over all processes. Process `rank` gets the samples from
            `rank * batch_size // world_size` on.
        seed: Seed of the order.
        split: The split to use; None for all, `auto` for train.
        weights: Passes over each data set per epoch, 1 each by default.
        window: Number of samples within which samples are shuffled.
        selection: Files of `vilbert select`, at most one per data set; a data set without one is used completely.
        rank: Index of this process, from 0.
        world_size: Number of processes.
        num_workers: Number of loader processes; 0 reads in this process. A script that uses them must have its main
            code under `if __name__ == "__main__":`.
        collate_fn: Makes a batch of a list of `Example`; by default `collate`. With workers it must be importable.
        cache_dir: Folder for the shards of data sets behind URLs.

    Returns:
        An endless iterable with `state_dict` and `load_state_dict`; stop after as many batches as you need.

    Raises:
        RefusedError: The data sets are not complete or not compatible, a selection belongs to another data set, or a
            batch has fewer samples than there are processes.
        ShardError: A data set does not exist or is damaged.
        ValueError: A weight or the window is not positive.
    """
    corpus = Corpus.open(
        data,
        split=split,
        cache_dir=cache_dir,
        verified=VerifiedFiles(),
        weighted=bool(weights),
        selections=[Path(file) for file in ([selection] if isinstance(selection, str | os.PathLike) else selection)],
    )
    settings: dict[str, Any] = {"seed": seed, "window": window, "weights": [float(weight) for weight in weights]}
    stream = Order(corpus.shard_sizes, **settings)
    corpus.keep_open(stream.most_shards())
    named = ("records_sha256", "samples", "selection")
    facts = [{name: its[name] for name in named if name in its} for its in corpus.fingerprints]
    loader = partial(DataLoader, _Positions(corpus, stream), num_workers=num_workers, collate_fn=collate_fn)
    return OrderedLoader(
        partial(loader, multiprocessing_context="forkserver" if num_workers else None),
        batch_size=batch_size,
        epoch_size=stream.epoch_size,
        rank=rank,
        world_size=world_size,
        identity={"batch_size": batch_size, "split": split, "data": facts, **settings},
    )
