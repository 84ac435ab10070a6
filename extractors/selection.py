"""Which proposals of an image to keep: pure functions of boxes and class probabilities.

The rule of the published bottom-up attention features (Anderson et al. 2018, `generate_tsv.py` of
peteanderson80/bottom-up-attention): non-maximum suppression over the same proposals for every class, and of each
proposal the best probability among the classes in which it survived, its confidence. Boxes are real-valued: a box from
x1 to x2 is x2 - x1 wide, without the + 1 of the Caffe code. `suppression.py` computes the confidences.

Shapes: P proposals, C foreground classes (the softmax has C + 1 columns, background first).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vilbert.extractors.settings import SelectionSettings as SelectionSettings
from vilbert.extractors.suppression import (
    confidence_above,
    confidence_above_torch,
    descending,
    neighbours_of,
    overlapping,
    overlapping_torch,
)

Confidence = Callable[[float], NDArray[np.float32]]
"""The confidences [P] of an image's proposals, exact where they reach a floor, else 0."""

if TYPE_CHECKING:  # the settings are read where torch would take seconds to import
    from torch import Tensor


def select(boxes_xyxy: Tensor, probs: Tensor, settings: SelectionSettings) -> Tensor:
    """Return the indices [N] of the proposals to keep, in the order in which to keep them.

    boxes_xyxy: [P, 4] float32. probs: [P, C + 1] float32 softmax, background first; all finite, on one device.

    `butd` keeps the proposals whose confidence reaches the threshold, in the order of the proposals; where those are
    fewer than MIN or more than MAX it keeps the MIN or MAX most confident, most confident first. `topk` always keeps
    the MAX most confident, most confident first. Of equally confident proposals the earlier one comes first. Fewer
    proposals than asked for are all kept.
    """
    import torch

    keep = _select(_confidence(boxes_xyxy, probs, settings), len(probs), probs.shape[1], settings)
    return torch.from_numpy(keep).to(probs.device)


def _confidence(boxes_xyxy: Tensor, probs: Tensor, settings: SelectionSettings) -> Confidence:
    """Return the function that computes confidences where the boxes are: with NumPy on a CPU, else on the device."""
    if boxes_xyxy.device.type == "cpu":
        return partial(confidence_above, overlapping(boxes_xyxy.numpy(), settings.nms), probs.numpy())
    return partial(confidence_above_torch, neighbours_of(overlapping_torch(boxes_xyxy, settings.nms)), probs)


def _select(
    confidence_above: Confidence, proposals: int, columns: int, settings: SelectionSettings
) -> NDArray[np.intp]:
    least, most = settings.min_boxes, settings.max_boxes
    if settings.selection == "topk":
        return _most_confident(confidence_above, proposals, columns, most, first_floor=settings.confidence)
    confidence = confidence_above(settings.confidence)
    keep = np.flatnonzero(confidence >= np.float32(settings.confidence))
    if len(keep) < least:
        return _most_confident(confidence_above, proposals, columns, least, first_floor=settings.confidence / 2)
    if len(keep) > most or settings.selection == "vinvl":
        return descending(confidence)[: min(most, len(keep))]
    return keep


def _most_confident(
    confidence_above: Confidence, proposals: int, columns: int, count: int, first_floor: float
) -> NDArray[np.intp]:
    """Return the `count` most confident proposals, most confident first, looking no deeper than that takes."""
    count = min(count, proposals)
    floor = first_floor
    while True:
        # below this nearly all pairs are candidates, and one look at everything is cheaper than two
        floor = floor if floor * columns > 1 else 0
        confidence = confidence_above(floor)
        if floor == 0 or np.count_nonzero(confidence >= np.float32(floor)) >= count:
            return descending(confidence)[:count]
        floor /= 4


def select_by_max_nms(refined_xyxy: Tensor, scores: Tensor, settings: SelectionSettings) -> Tensor:
    """Return the indices [N] of the regions that `maxnms` keeps, most probable first.

    refined_xyxy: [P, 4] float32, each proposal's box refined for its most probable class, of probability scores [P].
    Where no threshold leaves MIN regions, those of the last one are kept.
    """
    import torch
    from torchvision.ops import nms

    keep = torch.arange(0, device=scores.device)
    for step in range(10):
        threshold = settings.nms + 0.1 * step
        if step and threshold > 0.95:
            break
        keep = nms(refined_xyxy, scores, threshold)[: settings.max_boxes]
        if len(keep) >= settings.min_boxes:
            break
    return keep


def surviving_classes(compared_xyxy: Tensor, probs: Tensor, settings: SelectionSettings) -> Tensor:
    """Return of each proposal the most probable object class [P], from 0, in which it survives suppression.

    compared_xyxy, probs: as for `select`. Where it survives in none, its most probable class.
    """
    import torch

    confidence_above = _confidence(compared_xyxy, probs, settings)
    confidence = confidence_above(settings.confidence)
    if np.count_nonzero(confidence >= np.float32(settings.confidence)) < settings.min_boxes:
        confidence = confidence_above(0)
    reached = torch.from_numpy(confidence).to(probs.device)[:, None]
    survived = (probs[:, 1:] == reached) & (reached > 0)
    # of equal values argmax takes the first
    return torch.where(survived.any(dim=1), survived.to(torch.uint8).argmax(dim=1), probs[:, 1:].argmax(dim=1))
