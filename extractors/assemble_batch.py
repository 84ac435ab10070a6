"""A batch's proposals to the regions of its images on a GPU: one wait for all of them.

`assemble.assemble_regions` does the same with one image, and says what each value means. It waits for the GPU wherever
the size of an array depends on its values, and launches everything once per image. Here an image's proposals are padded
to the same number and selected by `select_batch`.

Shapes: B images, P proposals, N regions at most, C foreground classes, D feature channels, A attributes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vilbert.extractors.assemble import to_host
from vilbert.extractors.batch_selection import select_batch
from vilbert.extractors.device import to_device
from vilbert.extractors.regions import DTYPES, Regions
from vilbert.extractors.selection import SelectionSettings
from vilbert.extractors.soft_labels import top_classes as most_probable_classes


@dataclass(frozen=True, kw_only=True)
class BatchOutputs:
    """What a detector says of the proposals of a batch; rows of proposals that are not there may have any value."""

    proposals_xyxy: Tensor  # [B, P, 4] pixels of the stored image
    is_there: Tensor  # [B, P] bool
    probs: Tensor  # [B, P, C + 1] softmax, background first
    features: Tensor  # [B, P, D]
    shapes: Sequence[tuple[int, int]]
    """(height, width) of each stored image."""
    refine: Callable[[Tensor, Tensor], Tensor] | None = None
    """Proposals [B, N] and classes [B, N], from 0, to the refined boxes [B, N, 4] in pixels of the stored image."""
    attributes: Callable[[Tensor, Tensor], Tensor] | None = None
    """Proposals [B, N] and classes [B, N], from 0, to the probabilities [B, N, A] of attributes."""
    comparable: Callable[[Tensor], Tensor] | None = None
    """Clipped proposals to boxes whose overlaps decide on suppression; default: the clipped proposals."""
    is_named_by_surviving_class: bool = False
    """Whether a region is named by its most probable class in which it survives; default: by the most probable one."""


def assemble_batch(outputs: BatchOutputs, selection: SelectionSettings, top_classes: int) -> list[Regions | None]:
    """Select the regions of each image and return them on the CPU.

    selection: `selection` is not `maxnms`. top_classes: how many classes to keep of each region.

    None stands for an image whose regions cannot be selected with the bounds of `select_batch`.
    """
    limits = size_factors([(height, width) for height, width in outputs.shapes], outputs.probs.device)  # [B, 1, 4]
    clipped_xyxy = torch.minimum(outputs.proposals_xyxy.float().clamp(min=0), limits)
    probs, features = outputs.probs.float(), outputs.features.to(torch.float16)
    values = (outputs.proposals_xyxy, probs, features)
    usable = torch.stack([outputs.is_there, *(it.isfinite().all(dim=2) for it in values)]).all(dim=0)
    compared_xyxy = clipped_xyxy if outputs.comparable is None else outputs.comparable(clipped_xyxy)
    found = select_batch(compared_xyxy, probs, usable, selection)

    keep = found.keep
    boxes_xyxy, probs = rows_of(clipped_xyxy, keep), rows_of(probs, keep)
    best_class = probs[..., 1:].argmax(dim=2)
    if outputs.is_named_by_surviving_class:
        is_above = found.confidence >= selection.confidence
        ignored = ~is_above & (is_above.sum(dim=1, keepdim=True) >= selection.min_boxes)  # as `surviving_classes`
        reached = found.confidence.masked_fill(ignored, 0).gather(1, keep)[..., None]
        survived = (probs[..., 1:] == reached) & (reached > 0)
        best_class = torch.where(survived.any(dim=2), survived.to(torch.uint8).argmax(dim=2), best_class)
    fields = {
        "boxes": boxes_xyxy,
        "features": rows_of(features, keep),
        "object_ids": best_class + 1,
        "object_scores": probs[..., 1:].gather(2, best_class[..., None])[..., 0],
    }
    fields["class_ids"], fields["class_probs"] = (
        it.view(*keep.shape, it.shape[1]) for it in most_probable_classes(probs.flatten(0, 1), top_classes)
    )
    if selection.needs_regressed:
        if outputs.refine is None:
            raise ValueError(
                f"--saved-box {selection.saved_box}: this detector has no refined boxes; give --saved-box proposal"
            )
        refined_xyxy = outputs.refine(keep, best_class).float()
        is_refined = refined_xyxy.isfinite().all(dim=2, keepdim=True)
        object_boxes = torch.where(is_refined, torch.minimum(refined_xyxy.clamp(min=0), limits), boxes_xyxy)
        fields["object_boxes" if selection.saved_box == "both" else "boxes"] = object_boxes
    if outputs.attributes is not None:
        attribute_probs = outputs.attributes(keep, best_class).float()
        fields["attribute_scores"], fields["attribute_ids"] = attribute_probs.max(dim=2)
    host = to_host({**fields, "counts": found.counts, "is_exact": found.is_exact})
    counts, is_exact = host.pop("counts").tolist(), host.pop("is_exact").tolist()
    arrays = {name: values.numpy().astype(DTYPES[name][0], copy=False) for name, values in host.items()}
    return [
        # copies: the batch's memory is page-locked, and returned for the next one
        Regions(**{name: values[row, :count].copy() for name, values in arrays.items()}, width=width, height=height)
        if exact
        else None
        for row, (count, exact, (height, width)) in enumerate(zip(counts, is_exact, outputs.shapes, strict=True))
    ]


def can_select_batch(
    device: torch.device, given_boxes: Sequence[NDArray[np.float32] | None], selection: SelectionSettings
) -> bool:
    """Say whether a batch goes through `assemble_batch`: on a GPU, without given boxes."""
    return device.type == "cuda" and selection.selection != "maxnms" and all(boxes is None for boxes in given_boxes)


def rows_of(values: Tensor, *rows: Tensor) -> Tensor:
    """Return rows [B, N, ...] of values [B, P, ...]; rows: [B, N] each, one for each dimension after the images."""
    image = torch.arange(len(values), device=values.device)[:, None]
    return values[(image, *rows)]


def size_factors(sides: Sequence[tuple[float, float]], device: torch.device) -> Tensor:
    """Return (height, width) of each image as float32 [B, 1, 4], what boxes are limited or multiplied by."""
    factors = torch.tensor([[[width, height] * 2] for height, width in sides], dtype=torch.float32)
    return to_device(factors, device)
