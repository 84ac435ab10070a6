"""A detectron2 model's weights: loaded to the last tensor, or drawn at random so that there is something to see.

detectron2's own checkpointer only warns if names or shapes differ, and drops the anchors that older files
carry without a word: a model trained with other anchors than its config's then runs, and is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

from vilbert.extractors.extractor import ExtractorError
from vilbert.extractors.weights import load_weights, require_finite

_ANCHORS = "proposal_generator.anchor_generator.cell_anchors."
_PIXEL_STATISTICS = {"pixel_mean": "MODEL.PIXEL_MEAN", "pixel_std": "MODEL.PIXEL_STD"}
# Heads that `detectron2_config` turns off.
_UNUSED_HEADS = ("roi_heads.mask_head.", "roi_heads.keypoint_head.")
_NAMED_AT_MOST = 5


def load_into(model: nn.Module, path: str) -> str:
    """Load a weights file into a model and return the file's sha256.

    Every tensor of the model must be in the file in its shape, and every tensor of the file in the model, but for mask
    and keypoint heads. Anchors and pixel statistics in the file must equal the config's. Raises ExtractorError
    otherwise, naming the difference.
    """
    state, sha256 = load_weights(path)
    require_finite(state, path)
    _check_anchors(path, state, model)
    _check_pixel_statistics(path, state, model)
    compared = {name: tensor for name, tensor in state.items() if not _beside_the_weights(name)}
    expected = {name: tensor for name, tensor in model.state_dict().items() if not _beside_the_weights(name)}
    differences = _differences(compared, expected)
    if differences:
        raise ExtractorError(f"{path}: the weights do not match this config: " + "; ".join(differences))
    model.load_state_dict(compared, strict=False)
    return sha256


def damp(model: nn.Module) -> None:
    """Scale a freshly drawn model so that its activations stay finite and its proposals within the image.

    The norms of a random ResNet are identities, and every residual block then adds its branch in full: after a hundred
    layers all boxes are infinite and no proposal is left.
    """
    from detectron2.modeling.backbone.resnet import BasicBlock, BottleneckBlock

    for module in model.modules():
        last = {BottleneckBlock: "conv3", BasicBlock: "conv2"}.get(type(module))
        norm = module.get_submodule(last).norm if last else None
        if isinstance(norm, nn.Module):
            cast(Tensor, norm.weight).data.mul_(0.1)
    model.get_parameter("proposal_generator.rpn_head.anchor_deltas.weight").data.mul_(0.1)


def _beside_the_weights(name: str) -> bool:
    """Whether a tensor is checked on its own, counts training steps, or belongs to a head that is off."""
    return (
        name.startswith((_ANCHORS, *_UNUSED_HEADS))
        or name in _PIXEL_STATISTICS
        or name.endswith(".num_batches_tracked")
    )


def _differences(state: dict[str, Tensor], expected: dict[str, Tensor]) -> list[str]:
    shared = state.keys() & expected.keys()
    shapes = [
        f"{name} {list(state[name].shape)}, not {list(expected[name].shape)}"
        for name in sorted(shared)
        if state[name].shape != expected[name].shape
    ]
    kinds = {
        "missing": sorted(expected.keys() - shared),
        "unexpected": sorted(state.keys() - shared),
        "of another shape": shapes,
    }
    return [f"{len(names)} {kind} ({_some(names)})" for kind, names in kinds.items() if names]


def _some(names: list[str]) -> str:
    return ", ".join(names[:_NAMED_AT_MOST]) + (", ..." if len(names) > _NAMED_AT_MOST else "")


def _check_anchors(path: str, state: dict[str, Tensor], model: Any) -> None:
    """Refuse anchors that are not the config's: current detectron2 neither saves nor loads them."""
    found = {name: tensor.float() for name, tensor in state.items() if name.startswith(_ANCHORS)}
    if not found:
        return
    anchors = {
        f"{_ANCHORS}{level}": a for level, a in enumerate(model.proposal_generator.anchor_generator.cell_anchors)
    }
    if found.keys() != anchors.keys():
        raise ExtractorError(f"{path}: has anchors of {len(found)} levels, the config of {len(anchors)}: {_REMEDY}")
    for name, own in anchors.items():
        theirs = found[name]
        # Half a thousandth of a pixel: the same sizes and ratios, computed in another order.
        if theirs.shape != own.shape or not torch.allclose(theirs, own, rtol=0, atol=5e-4):
            raise ExtractorError(
                f"{path}: was trained with other anchors than the config's: {name} has {_describe(theirs)}, "
                f"the config {_describe(own)}: {_REMEDY}"
            )


_REMEDY = (
    "give the config that the model was trained with, or set MODEL.ANCHOR_GENERATOR.SIZES, .ASPECT_RATIOS with --opts"
)


def _describe(anchors_xyxy: Tensor) -> str:
    """Say an anchor set in words: count, sizes (square root of the area) and the first box."""
    if anchors_xyxy.ndim != 2 or anchors_xyxy.shape[1] != 4 or not len(anchors_xyxy):
        return f"a tensor of {list(anchors_xyxy.shape)}"
    boxes: Iterable[list[float]] = anchors_xyxy.tolist()
    sizes = sorted({round(math.sqrt(max(0.0, (x2 - x1) * (y2 - y1))), 1) for x1, y1, x2, y2 in boxes})
    first = ", ".join(f"{value:.1f}" for value in anchors_xyxy[0].tolist())
    return f"{len(anchors_xyxy)} of sizes {', '.join(f'{size:g}' for size in sizes)}, the first ({first})"


def _check_pixel_statistics(path: str, state: dict[str, Tensor], model: nn.Module) -> None:
    for name, key in _PIXEL_STATISTICS.items():
        if name not in state:
            continue
        theirs, own = state[name].float().flatten(), model.get_buffer(name).float().flatten()
        if theirs.shape != own.shape or not torch.allclose(theirs, own, rtol=1e-6, atol=1e-4):
            raise ExtractorError(
                f"{path}: its {name} is {theirs.tolist()}, the config's {own.tolist()}: set {key} with --opts"
            )
