"""From one image's proposals, class probabilities and features to its `Regions`: what every detector does last.

Shapes: P proposals, C foreground classes (the softmax has C + 1 columns, background first), D feature channels,
A attributes, N regions kept. Everything here is float32, whatever the precision of the network before it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from vilbert.extractors.boxes import clip_boxes
from vilbert.extractors.regions import DTYPES, Regions
from vilbert.extractors.selection import SelectionSettings, select, select_by_max_nms
from vilbert.extractors.soft_labels import top_classes as most_probable_classes


def assemble_regions(
    *,
    proposals_xyxy: Tensor,  # [P, 4] pixels of the stored image
    probs: Tensor,  # [P, C + 1] softmax, background first
    features: Tensor,  # [P, D]
    regressed_xyxy: Tensor | None,  # [P, C, 4] each foreground class's refined box, pixels of the stored image
    height: int,
    width: int,
    selection: SelectionSettings,
    given: bool = False,
    top_classes: int,
    attribute_probs: Tensor | None = None,  # [P, A] no column for "no attribute"
    compared_xyxy: Tensor | None = None,  # [P, 4] boxes whose overlaps decide on suppression; default: the proposals
    labels: Tensor | None = None,  # [P] object class, from 0, that names a region; default: its most probable one
) -> Regions:
    """Select the regions of one image and return them on the CPU, in the dtypes of `Regions`.

    given: whether the boxes were given: all are kept, in their order, and saved as they are.
    top_classes: how many of the most probable classes to keep of each region; all where there are fewer.

    Boxes are clipped to the image, [0, width] x [0, height]. An object is named by its most probable foreground class,
    also where that class's box was suppressed by a neighbour (as the published features have it; MILVLG
    bottom-up-attention.pytorch issue 24).

    A proposal with a value that is not finite, or a feature beyond the range of float16, is dropped before selection.
    Given boxes are all or none, so that the i-th region stays the i-th box: one such value and no region is returned.
    An empty result is the caller's to report.
    """
    proposals_xyxy, probs = proposals_xyxy.float(), probs.float()
    boxes_xyxy = clip_boxes(proposals_xyxy, height, width)
    features = features.to(torch.float16)
    usable = torch.stack([values.isfinite().all(dim=1) for values in (proposals_xyxy, probs, features)]).all(dim=0)
    if not given:
        candidates = usable.nonzero()[:, 0]
        if selection.selection == "maxnms":
            keep = candidates[_max_nms(regressed_xyxy, probs, candidates, height, width, selection)]
        else:
            compared_xyxy = boxes_xyxy if compared_xyxy is None else compared_xyxy
            keep = candidates[select(compared_xyxy[candidates], probs[candidates], selection)]
    else:
        keep = torch.arange(len(probs) if bool(usable.all()) else 0, device=probs.device)

    probs = probs[keep]
    best_class = probs[:, 1:].argmax(dim=1) if labels is None else labels[keep]
    object_scores = probs[:, 1:].gather(1, best_class[:, None])[:, 0]
    boxes_xyxy = boxes_xyxy[keep]
    object_boxes = None
    if selection.saved_box == "both" or (selection.saved_box == "regressed" and not given):
        if regressed_xyxy is None:
            raise ValueError(
                f"--saved-box {selection.saved_box}: this detector has no refined boxes; give --saved-box proposal"
            )
        refined_xyxy = regressed_xyxy[keep, best_class].float()
        # A refinement that overflowed says nothing of the object; the proposal is where the feature was pooled.
        refined = refined_xyxy.isfinite().all(dim=1, keepdim=True)
        object_boxes = torch.where(refined, clip_boxes(refined_xyxy, height, width), boxes_xyxy)
    if object_boxes is not None and selection.saved_box == "regressed":
        boxes_xyxy, object_boxes = object_boxes, None
    class_ids, class_probs = most_probable_classes(probs, top_classes)
    fields = {
        "boxes": boxes_xyxy,
        "features": features[keep],
        "object_ids": best_class + 1,
        "object_scores": object_scores,
        "class_ids": class_ids,
        "class_probs": class_probs,
    }
    if object_boxes is not None:
        fields["object_boxes"] = object_boxes
    if attribute_probs is not None:
        fields["attribute_scores"], fields["attribute_ids"] = attribute_probs[keep].float().max(dim=1)
    arrays = {name: values.numpy().astype(DTYPES[name][0], copy=False) for name, values in to_host(fields).items()}
    return Regions(**arrays, width=width, height=height)


def to_host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors on the CPU. From a GPU they are copied to page-locked memory, with one wait for all of them."""
    devices = {values.device for values in tensors.values()} - {torch.device("cpu")}
    if not devices:
        return dict(tensors)
    copies = {name: torch.empty_like(values, device="cpu", pin_memory=True) for name, values in tensors.items()}
    for name, values in tensors.items():
        copies[name].copy_(values, non_blocking=True)
    for device in devices:
        torch.cuda.current_stream(device).synchronize()
    return copies


def _max_nms(
    regressed_xyxy: Tensor | None,  # [P, C, 4]
    probs: Tensor,  # [P, C + 1]
    candidates: Tensor,  # [M] indices of the usable proposals
    height: int,
    width: int,
    selection: SelectionSettings,
) -> Tensor:
    """Return indices into `candidates`."""
    if regressed_xyxy is None:
        raise ValueError("--selection maxnms: this detector has no refined boxes; give --selection butd")
    scores, best_class = probs[candidates, 1:].max(dim=1)
    refined = clip_boxes(regressed_xyxy[candidates, best_class].float().nan_to_num(), height, width)
    return select_by_max_nms(refined, scores, selection)
