"""Where a loss or a gradient that is no finite number came from: the inputs of the step, or the model."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.train.data.corpus import Corpus
from vilbert.pipeline.train.data.order import Order
from vilbert.pipeline.train.engine.objective import MicroBatch

NAMED = 4
"""Images that the message names with their places."""
Locate = Callable[[int, Sequence[str]], Mapping[str, str]]
"""Return by image id the file and key of samples, given the step and the images: those that it knows of."""


def not_finite_images(part: MicroBatch) -> list[str]:
    """Return the images of a micro-batch whose features, boxes or class probabilities hold NaN or infinities."""
    images = len(part.image_ids)
    bad = torch.zeros(len(part.features), dtype=torch.bool)
    for value in vars(part).values():
        if isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 1 and len(value) == len(bad):
            bad |= ~torch.isfinite(value).flatten(1).all(1).cpu()
    return [part.image_ids[row] for row in bad.nonzero().flatten().tolist() if row < images]


def locate_samples(corpus: Corpus, order: Order, batch_size: int) -> Locate:
    """Return what finds the samples of a global batch of `order`."""

    def locate(step: int, wanted: Sequence[str]) -> dict[str, str]:
        places = order.at(np.arange(step * batch_size, (step + 1) * batch_size))
        found = zip(corpus.image_ids(places), corpus.describe(places), strict=True)
        return {image_id: place for image_id, place in found if image_id is not None and image_id in wanted}

    return locate


def explain_inputs(bad: Iterable[str], step: int, locate: Locate | None, data: Sequence[str]) -> str:
    """Return what is to be said of the inputs of a step, and what to do.

    bad: images whose inputs are not finite. data: all data sets that training reads, as they were given.
    """
    verify = "; ".join(f"`vilbert verify {name} --deep`" for name in data)
    names = list(dict.fromkeys(bad))
    if not names:
        return f"All features and boxes of the step are finite. Check the data with {verify}"
    places: Mapping[str, str] = {}
    if locate is not None:
        with contextlib.suppress(ShardError):  # the step is explained without the places
            places = locate(step, names)
    shown = "; ".join(f"{name} ({places[name]})" if name in places else name for name in names[:NAMED])
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"The features or boxes of {len(names)} of them hold NaN or infinities: {shown}{more}. Run {verify}"


def gathered(by_rank: Sequence[Any]) -> list[str]:
    """Return the names of all ranks in one list."""
    return [name for names in by_rank for name in names]
