"""Join annotations with region features: find the place of each item's image in the data sets.

An annotation is left out and counted if its image has no features, or no regions at given boxes if the task uses them.
A few are normal, because images disappear from the web; many indicate the wrong data sets and stop the run. With
`--selection`, any number may be left out.

Items are sorted by the place of their image, so that the order of training, which shuffles shards and then samples
within a window of shards, reads annotations of the same shards together.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.train.data.corpus import Corpus
from vilbert.pipeline.train.data.order import Order
from vilbert.pipeline.train.examples.draws import Stream, below, bits, keys

logger = logging.getLogger(__name__)

AT_A_TIME = 4096
IDS_IN_A_MESSAGE = 5


class Images:
    """Index of the images of a corpus by id."""

    def __init__(self, corpus: Corpus, *, also_in: Images | None = None) -> None:
        """Read the ids of all samples, but not their features.

        Args:
            corpus: The data sets.
            also_in: The images at given boxes; a blind model only sees images that are in both.
        """
        self.corpus = corpus
        self._order = Order(corpus.shard_sizes, seed=0, shuffle=False)
        self.number: dict[str, int] = {}
        """Sample index over all data sets, by image id."""
        for start in range(0, self._order.epoch_size, AT_A_TIME):
            numbers = np.arange(start, min(start + AT_A_TIME, self._order.epoch_size))
            for number, image_id in zip(numbers.tolist(), corpus.image_ids(self._order.at(numbers)), strict=True):
                if image_id is None:
                    continue
                if image_id in self.number:
                    raise RefusedError(
                        f"image {image_id} is in the data sets twice, and annotations refer to it by this id only: "
                        "leave one of them out"
                    )
                self.number[image_id] = number
        self._others = [image_id for image_id in self.number if also_in is None or image_id in also_in.number]
        self._at = {image_id: at for at, image_id in enumerate(self._others)}

    def other(self, image_id: str, seed: int) -> str:
        """Return another image, always the same one, which a blind model sees instead."""
        number = np.array([self.number[image_id]], dtype=np.int64)
        drawn = bits(keys(seed, np.zeros(1, dtype=np.int64), number), Stream.IMAGE, 1)[:, 0]
        step = 1 + below(drawn, max(len(self._others) - 1, 1))
        return self._others[(self._at.get(image_id, 0) + int(step[0])) % len(self._others)]

    def region_counts(self, image_ids: Sequence[str]) -> list[int]:
        """Return the numbers of regions of images; 0 for an unreadable image."""
        return [0 if example is None else len(example.boxes) for example in self.read(image_ids)]

    def describe(self, image_ids: Sequence[str]) -> dict[str, str]:
        """Return file and key of images by id, for messages."""
        known = [image_id for image_id in image_ids if image_id in self.number]
        numbers = np.array([self.number[image_id] for image_id in known], dtype=np.int64)
        return dict(zip(known, self.corpus.describe(self._order.at(numbers)), strict=True))

    def read(self, image_ids: Sequence[str]) -> list[Any]:
        """Read images; None for one that does not exist or cannot be read."""
        numbers = np.array([self.number.get(image_id, -1) for image_id in image_ids], dtype=np.int64)
        there = np.flatnonzero(numbers >= 0)
        found: list[Any] = [None] * len(image_ids)
        for row, example in zip(there.tolist(), self.corpus.read(self._order.at(numbers[there])), strict=True):
            found[row] = example
        return found


@dataclass(frozen=True, kw_only=True)
class Joined:
    """The items with features, and their places."""

    kept: NDArray[np.int64]
    """[I] indices of items in the files, sorted by the place of their first image."""
    shard_sizes: list[NDArray[np.int64]]
    """Number of items per shard for each data set, as `Order` expects them: its sample s is item kept[s]."""
    missing: int
    """Number of items that are left out."""
    missing_images: tuple[str, ...]
    """The first few images without features."""


def join(
    items: Sequence[Any],
    images_of: Callable[[Any], tuple[str, ...]],
    images: Images,
    *,
    what: str,
    most_missing: float,
    given: Images | None = None,
) -> Joined:
    """Find the images of items.

    Args:
        items: The items.
        images_of: Returns the image ids of an item.
        images: The images with features.
        what: Name of the items, for messages.
        most_missing: Maximum fraction of items without features.
        given: The same images with regions at given boxes, if the task uses them.

    Raises:
        RefusedError: More items are missing, or there are no items.
    """
    if not items:
        raise RefusedError(f"{what}: this split is empty")
    places = np.full(len(items), -1, dtype=np.int64)
    absent: dict[str, None] = {}
    no_given: dict[str, None] = {}
    without_given = 0
    for number, item in enumerate(items):
        wanted = images_of(item)
        lost = [image_id for image_id in wanted if image_id not in images.number]
        absent.update(dict.fromkeys(lost))
        if lost:
            continue
        unboxed = [image_id for image_id in wanted if given is not None and image_id not in given.number]
        no_given.update(dict.fromkeys(unboxed))
        without_given += bool(unboxed)
        if not unboxed:
            places[number] = images.number[wanted[0]]
    missing = int((places < 0).sum())
    if missing:
        selected = any(source.selection is not None for source in images.corpus.sources)
        found = [
            f"{count:,} of {len(items):,} are about images without {without} ({_some(names)})"
            for count, without, names in (
                (missing - without_given, "features in the --selection" if selected else "features", absent),
                (without_given, "regions in --given-data", no_given),
            )
            if count
        ]
        message = f"{what}: {', and '.join(found)}"
        if selected and missing == len(items):
            raise RefusedError(f"{message}; select images of these annotations too")
        if missing > most_missing * len(items) and not selected:
            raise RefusedError(
                f"{message}, more than --max-missing-fraction {most_missing:g} allows; give the data sets of these "
                f"images{_in_folders(absent, images)}"
            )
        logger.warning("%s; they are left out", message)
    kept = np.argsort(places, kind="stable")[missing:]
    return Joined(
        kept=kept,
        shard_sizes=_by_shard(places[kept], images.corpus.shard_sizes),
        missing=missing,
        missing_images=tuple([*absent, *no_given][:IDS_IN_A_MESSAGE]),
    )


def _some(names: Iterable[str]) -> str:
    """Return the first few names for a message."""
    return f"{', '.join(list(names)[:IDS_IN_A_MESSAGE])}, ..."


def _in_folders(absent: Mapping[str, None], images: Images) -> str:
    """Return advice if missing images are in the data sets under names with additional folders, or an empty string."""
    for image_id in images.number:
        _, _, name = image_id.partition("/")
        while name:
            if name in absent:
                return (
                    f". {name} is {image_id} there: the manifest was made from a folder further out. Make it from the "
                    f"folders that hold {name.partition('/')[0]} and its like themselves (several may be named, as in "
                    "`vilbert manifest images/train/*/ images/dev`), and extract again"
                )
            _, _, name = name.partition("/")
    return ""


def _by_shard(places: NDArray[np.int64], sizes: Sequence[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
    """Count sorted sample indices per shard of each data set."""
    ends = np.cumsum(np.concatenate(sizes))
    counts = np.diff(np.searchsorted(places, ends), prepend=0)
    return np.split(counts, np.cumsum([len(part) for part in sizes])[:-1])
