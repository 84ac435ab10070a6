"""Which proposals of an image to keep: pure functions of boxes and class probabilities.

The rule of the published bottom-up attention features (Anderson et al. 2018, `generate_tsv.py` of
peteanderson80/bottom-up-attention): non-maximum suppression over the same proposals for every class, and of each
proposal the best probability among the classes in which it survived, its confidence. Boxes are real-valued: a box from
x1 to x2 is x2 - x1 wide, without the + 1 of the Caffe code.

The work is many small steps, which numpy takes one after the other. torch would share each out among threads, and
wait for the slowest of them hundreds of times an image where other workers want the same cores. The one big step, which
boxes overlap, is the GPU's where the boxes are there.

Shapes: P proposals, C foreground classes (the softmax has C + 1 columns, background first), A classes being looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vilbert.extractors.settings import SelectionSettings as SelectionSettings

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

    on_cpu = boxes_xyxy.device.type == "cpu"
    overlaps = overlapping(boxes_xyxy.numpy(), settings.nms) if on_cpu else overlapping_torch(boxes_xyxy, settings.nms)
    keep = _select(overlaps, probs.cpu().numpy(), settings)
    return torch.from_numpy(keep).to(probs.device)


def _select(overlaps: NDArray[np.bool_], probs: NDArray[np.float32], settings: SelectionSettings) -> NDArray[np.intp]:
    least, most = settings.min_boxes, settings.max_boxes
    if settings.selection == "topk":
        return _most_confident(overlaps, probs, most, first_floor=settings.confidence)
    confidence = confidence_above(overlaps, probs, settings.confidence)
    keep = np.flatnonzero(confidence >= np.float32(settings.confidence))
    if len(keep) < least:
        return _most_confident(overlaps, probs, least, first_floor=settings.confidence / 2)
    if len(keep) > most or settings.selection == "vinvl":
        return _descending(confidence)[: min(most, len(keep))]
    return keep


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

    overlaps, numbers = overlapping(compared_xyxy.cpu().numpy(), settings.nms), probs.cpu().numpy()
    confidence = confidence_above(overlaps, numbers, settings.confidence)
    if np.count_nonzero(confidence >= np.float32(settings.confidence)) < settings.min_boxes:
        confidence = confidence_above(overlaps, numbers, 0)
    survived = (numbers[:, 1:] == confidence[:, None]) & (confidence[:, None] > 0)
    classes = np.where(survived.any(axis=1), survived.argmax(axis=1), numbers[:, 1:].argmax(axis=1))
    return torch.from_numpy(classes).to(probs.device)


def overlapping(boxes_xyxy: NDArray[np.float32], threshold: float) -> NDArray[np.bool_]:
    """Return the matrix [P, P] of pairs whose intersection over union is above `threshold`, the diagonal left out."""
    x1, y1, x2, y2 = boxes_xyxy.T
    width = np.minimum(x2[:, None], x2) - np.maximum(x1[:, None], x1)
    height = np.minimum(y2[:, None], y2) - np.maximum(y1[:, None], y1)
    intersection = width.clip(min=0) * height.clip(min=0)
    area = (x2 - x1) * (y2 - y1)
    with np.errstate(invalid="ignore"):  # a pair of empty boxes: 0 / 0, and nan is above nothing
        iou = intersection / (area[:, None] + area - intersection)
    above: NDArray[np.bool_] = iou > np.float64(threshold)  # in double, as torchvision's nms compares
    np.fill_diagonal(above, False)
    return above


def overlapping_torch(boxes_xyxy: Tensor, threshold: float) -> NDArray[np.bool_]:
    """Return what `overlapping` does, bit for bit, of boxes on a GPU."""
    import torch

    x1, y1, x2, y2 = boxes_xyxy.T
    width = torch.minimum(x2[:, None], x2) - torch.maximum(x1[:, None], x1)
    height = torch.minimum(y2[:, None], y2) - torch.maximum(y1[:, None], y1)
    intersection = width.clip(min=0) * height.clip(min=0)
    area = (x2 - x1) * (y2 - y1)
    iou = intersection / (area[:, None] + area - intersection)
    above: NDArray[np.bool_] = (iou.double() > threshold).fill_diagonal_(False).cpu().numpy()
    return above


def confidence_above(overlaps: NDArray[np.bool_], probs: NDArray[np.float32], floor: float) -> NDArray[np.float32]:
    """Return each proposal's confidence [P], exact where it is at least `floor`, and 0 where it is less.

    overlaps: [P, P] from `overlapping`. probs: [P, C + 1], background first. With floor 0 every value is exact.

    A proposal is only ever suppressed by a more probable one, so what is less probable than `floor` need not be looked
    at: of 1600 classes a few dozen remain, and of each a few proposals. All these classes go through suppression in
    lock-step, one rank of proposals at a time.
    """
    candidates = probs[:, 1:] >= np.float32(floor)  # [P, C]
    classes = np.flatnonzero(candidates.any(axis=0))
    if not len(classes):
        return np.zeros(len(probs), np.float32)
    candidates = candidates.T[classes]  # [A, P]
    scores = probs.T[1 + classes]
    by_rank = _descending(scores)[:, : candidates.sum(axis=1).max()].T  # [ranks, A]
    suppressed = np.zeros(scores.shape, bool)
    rows = np.arange(len(classes))
    for proposals in by_rank:
        # A survivor overlaps no earlier survivor (it would not be one), so only later proposals can be hit here.
        survives = ~suppressed[rows, proposals]
        suppressed |= overlaps[proposals] & survives[:, None]
    confidence: NDArray[np.float32] = np.where(candidates & ~suppressed, scores, np.float32(0)).max(axis=0)
    return confidence


def _descending(values: NDArray[np.float32]) -> NDArray[np.intp]:
    """Return the order of the last axis from the greatest to the least, of equals the earlier first."""
    return np.argsort(-values, axis=-1, kind="stable")


def _most_confident(
    overlaps: NDArray[np.bool_], probs: NDArray[np.float32], count: int, first_floor: float
) -> NDArray[np.intp]:
    """Return the `count` most confident proposals, most confident first, looking no deeper than that takes."""
    count = min(count, len(probs))
    floor = first_floor
    while True:
        # below this nearly all pairs are candidates, and one look at everything is cheaper than two
        floor = floor if floor * probs.shape[1] > 1 else 0
        confidence = confidence_above(overlaps, probs, floor)
        if floor == 0 or np.count_nonzero(confidence >= np.float32(floor)) >= count:
            return _descending(confidence)[:count]
        floor /= 4
