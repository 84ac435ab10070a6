"""Build the tensors of a task's batch from positions in the training stream.

As in pre-training, a global batch is a slice of the stream, divided among the ranks and then into micro-batches, and
all random draws of an item depend on (seed, epoch, item) only. An image that appears in several rows is read,
transferred and stored once.

Shapes: I items, O options per item, N = I x O rows, C distinct images, T tokens, R regions without the global one,
D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from vilbert.pipeline.tasks.images import RegionRows, lay_out, read_images
from vilbert.pipeline.tasks.join import Images, Joined
from vilbert.pipeline.tasks.task import Rows, Shown, Task
from vilbert.pipeline.tasks.texts import Encoded, encode
from vilbert.pipeline.train.data.order import Order
from vilbert.pipeline.train.engine.share import Share
from vilbert.pipeline.train.examples.draws import keys

PAST_THE_END = -1


@dataclass(kw_only=True)
class ItemBatch:
    """One micro-batch of a task, on the CPU."""

    input_ids: Tensor
    """int64 [N, T]."""
    segments: Tensor
    """int64 [N, T], 1 in the last of several sentences, else 0."""
    attention_mask: Tensor
    """int64 [N, T], 1 for tokens, 0 for padding."""
    features: Tensor
    """float16 [C, R, D], without the global region; padding is 0. Codes if `feature_scales` is given."""
    weights: Tensor
    """float32 [C, R], weight of each region in the feature of the whole image."""
    locations: Tensor
    """float32 [C, R, 5]."""
    region_mask: Tensor
    """int64 [C, R], 1 for regions, 0 for padding."""
    image_of: Tensor
    """int64 [N], index of each row's image."""
    targets: dict[str, Tensor]
    """Inputs of the task's loss, with first dimension I."""
    count: int
    """Divisor of the summed loss."""
    numbers: tuple[int, ...]
    """[I] index of each item; `PAST_THE_END` if it is past the end or unreadable, so it is not trained on."""
    image_ids: tuple[str, ...]
    """[C] ids of the images."""
    unread: int
    """Number of items that could not be read."""
    feature_scales: Tensor | None = None
    """float32 [C, R, 2], scales of 8-bit features, see `FeatureRows`."""

    def pin_memory(self) -> Self:
        """Return the batch in pinned memory, from which a GPU can copy asynchronously."""
        held = {field.name: getattr(self, field.name) for field in fields(self)}
        pinned: dict[str, Any] = {name: it.pin_memory() for name, it in held.items() if isinstance(it, Tensor)}
        return replace(self, **pinned, targets={name: it.pin_memory() for name, it in self.targets.items()})


NO_IMAGE = ""
"""Shown by items of which an image could not be read."""


@dataclass(frozen=True, kw_only=True)
class ItemSource:
    """The inputs of a task's batches; the same in every worker process."""

    task: Task
    joined: Joined
    order: Order
    """Order of the joined items."""
    images: Images
    given: Images | None
    """The same images with regions at given boxes, if the task uses them."""
    tokenizer: PreTrainedTokenizerBase
    max_words: int
    """Maximum number of tokens of a text, including special tokens."""
    max_regions: int
    """Maximum number of regions of an image, without the global one."""
    blind: bool
    """Show the regions of another image, to measure what the text alone predicts."""
    seed: int


def make_item_batches(source: ItemSource, share: Share, step: int, *, limit: int | None = None) -> list[ItemBatch]:
    """Build a rank's micro-batches of global batch `step`.

    Args:
        source: The inputs of the task's batches.
        share: The rank's share of a global batch.
        step: Index of the global batch.
        limit: In an evaluation, positions from here on are past the end. A rank without items gets one such row.
    """
    positions, there = share.rows(step, limit)
    places = source.order.at(positions)
    numbers = source.joined.kept[places.sample]
    item_keys = keys(source.seed, places.epoch, numbers)
    rows = [source.task.rows(number, key) for number, key in zip(numbers.tolist(), item_keys, strict=True)]
    words = np.array([max(sum(map(len, text)) for text in row.texts) for row in rows])
    parts = np.array_split(np.argsort(words, kind="stable"), min(share.accumulation, len(positions)))
    return [
        make_item_batch(
            source,
            np.where(there, numbers, PAST_THE_END)[part].tolist(),
            [rows[row] for row in part.tolist()],
        )
        for part in parts
    ]


def make_item_batch(source: ItemSource, numbers: Sequence[int], rows: Sequence[Rows]) -> ItemBatch:
    """Make a micro-batch of items and read their images.

    An item that is past the end of an evaluation, or of which an image cannot be read, keeps its row, so that all ranks
    have as many. It shows `NO_IMAGE`, an image of one zero region, and has no target.

    Args:
        source: What batches of the task are made from.
        numbers: Of the items; `PAST_THE_END` for rows past the end.
        rows: Texts and images of each item.
    """
    task = source.task
    found = _read_shown(source, [row for number, row in zip(numbers, rows, strict=True) if number >= 0])
    is_readable = [
        number >= 0 and all(found[image] is not None for image in row.images)
        for number, row in zip(numbers, rows, strict=True)
    ]
    shown: dict[str, Shown | None] = {image: regions for image, regions in found.items() if regions is not None}
    if not shown or not all(is_readable):
        shown[NO_IMAGE] = None
    place_of = {image: place for place, image in enumerate(shown)}
    text = encode(source.tokenizer, [text for row in rows for text in row.texts], max_words=source.max_words)
    regions = lay_out(
        list(shown.values()), feature_dim=source.images.corpus.feature_dim, max_regions=source.max_regions
    )

    read_numbers, first_images, image_of = [], [], []
    for number, row, is_read in zip(numbers, rows, is_readable, strict=True):
        read_numbers.append(number if is_read else PAST_THE_END)
        first_images.append(found[row.images[0]] if is_read else None)
        image_of += [place_of[image if is_read else NO_IMAGE] for image in row.images]
    targets = task.targets(read_numbers, first_images)
    if task.causal:
        targets = {**targets, "next_words": _next_words(text.ids, text.lengths, is_readable)}
    return ItemBatch(
        **row_tensors(text, regions, image_of),
        feature_scales=regions.features.scales,
        targets=targets,
        count=task.count(targets),
        numbers=tuple(read_numbers),
        image_ids=tuple(image for image in shown if image != NO_IMAGE),
        unread=sum(number >= 0 and not is_read for number, is_read in zip(numbers, is_readable, strict=True)),
    )


def _read_shown(source: ItemSource, rows: Sequence[Rows]) -> dict[str, Shown | None]:
    """Read each image of the rows once; None where it cannot be read. A blind task is shown other images."""
    wanted = list(dict.fromkeys(image for row in rows for image in row.images))
    images = [source.images.other(image, source.seed) for image in wanted] if source.blind else wanted
    averaged = source.task.given_boxes == "averaged"
    read = read_images(source.images, source.given, images, max_regions=source.max_regions, averaged=averaged)
    return dict(zip(wanted, read, strict=True))


def row_tensors(text: Encoded, regions: RegionRows, image_of: Sequence[int]) -> dict[str, Tensor]:
    """Return the tensors of an `ItemBatch` that depend on its texts, images and `image_of`, by field name."""
    attention_mask = np.arange(text.ids.shape[1]) < text.lengths[:, None]
    return {
        "input_ids": torch.from_numpy(text.ids),
        "segments": torch.from_numpy(text.segments),
        "attention_mask": torch.from_numpy(attention_mask.astype(np.int64)),
        "features": regions.features.features,
        "weights": torch.from_numpy(regions.weights),
        "locations": torch.from_numpy(regions.locations),
        "region_mask": torch.from_numpy(regions.mask),
        "image_of": torch.tensor(image_of),
    }


def _next_words(ids: NDArray[np.int64], lengths: NDArray[np.int64], readable: Sequence[bool]) -> Tensor:
    """Return int64 [N, T], the token after each position, -1 where none is predicted."""
    labels = np.full(ids.shape, -1, dtype=np.int64)
    labels[:, :-1] = ids[:, 1:]
    labels[np.arange(ids.shape[1]) >= lengths[:, None] - 1] = -1
    labels[~np.array(readable)] = -1
    return torch.from_numpy(labels)
