"""The layouts of published checkpoints: which names their parameters have, and what the shapes say.

A layout is a list of rules, each from a pattern to a name of `network.py`; a name that no rule matches is an error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from vilbert.extractors.detectors.visual_genome.conventions import Architecture, DetectorName
from vilbert.extractors.extractor import ExtractorError

Rules = tuple[tuple[str, str], ...]

_NORM = r"(weight|bias|running_mean|running_var)"
_BOTH = r"(weight|bias)"
_BLOCK = r"(\d+)\.(shortcut|conv[123])"

DETECTRON2: Rules = (
    (r"backbone\.stem\.conv1\.weight", "backbone.stem.conv1.weight"),
    (rf"backbone\.stem\.conv1\.norm\.{_NORM}", r"backbone.stem.conv1.norm.\1"),
    (rf"backbone\.res([234])\.{_BLOCK}\.weight", r"backbone.res\1.\2.\3.weight"),
    (rf"backbone\.res([234])\.{_BLOCK}\.norm\.{_NORM}", r"backbone.res\1.\2.\3.norm.\4"),
    (rf"roi_heads\.res5\.{_BLOCK}\.weight", r"head.res5.\1.\2.weight"),
    (rf"roi_heads\.res5\.{_BLOCK}\.norm\.{_NORM}", r"head.res5.\1.\2.norm.\3"),
    (rf"proposal_generator\.rpn_head\.conv\.{_BOTH}", r"rpn.conv.\1"),
    (rf"proposal_generator\.rpn_head\.objectness_logits\.{_BOTH}", r"rpn.objectness.\1"),
    (rf"proposal_generator\.rpn_head\.anchor_deltas\.{_BOTH}", r"rpn.deltas.\1"),
    (r"proposal_generator\.anchor_generator\.cell_anchors\.(\d+)", r"anchors.\1"),
    (rf"roi_heads\.box_predictor\.(cls_score|bbox_pred)\.{_BOTH}", r"predictor.\1.\2"),
)
_AIRSPLAY: Rules = (
    *DETECTRON2,
    (r"roi_heads\.box_predictor\.cls_embedding\.weight", "attributes.embedding.weight"),
    (rf"roi_heads\.box_predictor\.fc_attr\.{_BOTH}", r"attributes.hidden.\1"),
    (rf"roi_heads\.box_predictor\.attr_score\.{_BOTH}", r"attributes.score.\1"),
)
_MILVLG: Rules = (
    *DETECTRON2,
    (r"roi_heads\.box_predictor\.cls_embed\.weight", "attributes.embedding.weight"),
    (rf"roi_heads\.box_predictor\.attr_linear1\.{_BOTH}", r"attributes.hidden.\1"),
    (rf"roi_heads\.box_predictor\.attr_linear2\.{_BOTH}", r"attributes.score.\1"),
    # R152, whose norms come before the convolutions
    (rf"backbone\.stem\.norm\.{_NORM}", r"backbone.stem.norm.\1"),
    (rf"backbone\.res([234])\.(\d+)\.norm\.{_NORM}", r"backbone.res\1.\2.norm.\3"),
    (rf"roi_heads\.res5\.(\d+)\.norm\.{_NORM}", r"head.res5.\1.norm.\2"),
    (rf"roi_heads\.res5_bn\.{_NORM}", r"head.res5_norm.\1"),
)
_BODY = r"backbone\.body\."
_BOX = r"roi_heads\.box\."
_MASKRCNN: Rules = (
    (rf"{_BODY}stem\.conv1\.weight", "backbone.stem.conv1.weight"),
    (rf"{_BODY}stem\.bn1\.{_NORM}", r"backbone.stem.conv1.norm.\1"),
    (rf"{_BODY}layer([1-4])\.(\d+)\.(conv[123])\.weight", r"backbone.res{\1+1}.\2.\3.weight"),
    (rf"{_BODY}layer([1-4])\.(\d+)\.bn([123])\.{_NORM}", r"backbone.res{\1+1}.\2.conv\3.norm.\4"),
    (rf"{_BODY}layer([1-4])\.(\d+)\.downsample\.0\.weight", r"backbone.res{\1+1}.\2.shortcut.weight"),
    (rf"{_BODY}layer([1-4])\.(\d+)\.downsample\.1\.{_NORM}", r"backbone.res{\1+1}.\2.shortcut.norm.\3"),
    (rf"rpn\.head\.conv\.{_BOTH}", r"rpn.conv.\1"),
    (rf"rpn\.head\.cls_logits\.{_BOTH}", r"rpn.objectness.\1"),
    (rf"rpn\.head\.bbox_pred\.{_BOTH}", r"rpn.deltas.\1"),
    (r"rpn\.anchor_generator\.cell_anchors\.(\d+)", r"anchors.\1"),
    (rf"{_BOX}predictor\.(cls_score|bbox_pred)\.{_BOTH}", r"predictor.\1.\2"),
)
_VMB: Rules = (
    *_MASKRCNN,
    (rf"backbone\.fpn\.fpn_inner([1-4])\.{_BOTH}", r"pyramid.lateral.{\1-1}.\2"),
    (rf"backbone\.fpn\.fpn_layer([1-4])\.{_BOTH}", r"pyramid.output.{\1-1}.\2"),
    (rf"{_BOX}feature_extractor\.(fc6|fc7)\.{_BOTH}", r"head.\1.\2"),
)
# The attribute head of VinVL shares the box head's res5, and its checkpoints hold it twice.
_RES5 = rf"(?:{_BOX}|attribute\.)feature_extractor\.head\.layer4\.(\d+)\."
_VINVL: Rules = (
    *_MASKRCNN,
    (rf"{_RES5}(conv[123])\.weight", r"head.res5.\1.\2.weight"),
    (rf"{_RES5}bn([123])\.{_NORM}", r"head.res5.\1.conv\2.norm.\3"),
    (rf"{_RES5}downsample\.0\.weight", r"head.res5.\1.shortcut.weight"),
    (rf"{_RES5}downsample\.1\.{_NORM}", r"head.res5.\1.shortcut.norm.\2"),
    (r"attribute\.predictor\.cls_embedding\.weight", "attributes.embedding.weight"),
    (rf"attribute\.predictor\.fc_attr\.{_BOTH}", r"attributes.hidden.\1"),
    (rf"attribute\.predictor\.attr_score\.{_BOTH}", r"attributes.score.\1"),
)


@dataclass(frozen=True)
class Layout:
    """One family of checkpoints."""

    rules: Rules
    preset: str
    own: str
    """A name that only this layout has."""
    what: str
    unused: str = "(?!)"
    """Pattern of parameters that the published extraction does not use."""


LAYOUTS = {
    "airsplay": Layout(_AIRSPLAY, "airsplay", "", "airsplay/py-bottom-up-attention (.pkl)"),
    "hf": Layout(
        _AIRSPLAY, "hf", r"backbone\.stem\.conv1\.norm\.num_batches_tracked", "unc-nlp/frcnn-vg-finetuned (.bin)"
    ),
    "milvlg": Layout(
        _MILVLG,
        "milvlg",
        r"roi_heads\.box_predictor\.(cls_embed|attr_linear1)\..*",
        "MILVLG/bottom-up-attention.pytorch, caffe mode (.pth)",
    ),
    "vmb": Layout(
        _VMB,
        "vmb",
        r"backbone\.fpn\..*",
        "vilbert-multi-task, MMF and Pythia (.pth)",
        unused=rf"{_BOX}predictor\.(cls_embed|attr_linear[12])\.{_BOTH}",
    ),
    "vinvl": Layout(_VINVL, "vinvl", r"(roi_heads\.box|attribute)\.feature_extractor\.head\..*", "VinVL (.pth)"),
}


def detect_layout(names: set[str]) -> str:
    """Return the layout with these names; raise ExtractorError if no layout matches, with what the names look like."""
    has = {name: any(re.fullmatch(it.own, key) for key in names) for name, it in LAYOUTS.items() if it.own}
    if any(key.startswith("roi_heads.attribute_predictor.") or "attribute_predictor.obj_embed" in key for key in names):
        raise ExtractorError(
            "this is a checkpoint of MILVLG's detectron2 mode; its caffe mode is supported (bua-caffe-frcn-*.pth)"
        )
    if "predictor.cls_score.weight" in names:
        raise ExtractorError("this is a converted detector; give it to --weights of `vilbert extract`")
    if any(key.startswith("backbone.bottom_up.") for key in names):
        raise ExtractorError("this is a detectron2 model with a feature pyramid; give --detector detectron2")
    if any(key.startswith(("roi_heads.mask_head.", "rpn.head.0", "backbone.layer1.")) for key in names):
        raise ExtractorError("this is not one of the Visual Genome detectors")
    for name in ("milvlg", "vmb", "vinvl", "hf"):
        if has[name]:
            return name
    if any(key.startswith("proposal_generator.rpn_head.") for key in names):
        return "airsplay"
    raise ExtractorError("its tensor names match no known layout")


def rename(state: Mapping[str, Tensor], layout: str) -> dict[str, Tensor]:
    """Return the tensors under the names of `network.py`.

    Raises ExtractorError where a name is unknown, or two tensors that must be the same are not.
    """
    rules = [(re.compile(pattern), target) for pattern, target in LAYOUTS[layout].rules]
    renamed: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    unknown = []
    for name, tensor in state.items():
        if is_unused(name, layout):
            continue
        matches = ((pattern.fullmatch(name), target) for pattern, target in rules)
        found = next(((match, target) for match, target in matches if match), None)
        if found is None:
            unknown.append(name)
            continue
        ours = re.sub(r"\{(\d+)([+-])1\}", _add, found[0].expand(found[1]))
        if ours in renamed and not torch.equal(renamed[ours], tensor):
            raise ExtractorError(f"{origin[ours]} and {name} must be the same tensor and differ")
        renamed[ours], origin[ours] = tensor, name
    if unknown:
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        raise ExtractorError(
            f"{len(unknown)} tensors have no place in layout {layout} ({LAYOUTS[layout].what}): "
            f"{', '.join(sorted(unknown)[:5])}{more}"
        )
    return renamed


def is_unused(name: str, layout: str) -> bool:
    """Return whether a parameter takes no part in extraction: counters of training steps, heads that ports turn off."""
    return name.endswith(".num_batches_tracked") or re.fullmatch(LAYOUTS[layout].unused, name) is not None


def _add(match: re.Match[str]) -> str:
    return str(int(match[1]) + (1 if match[2] == "+" else -1))


def infer_architecture(state: Mapping[str, Tensor]) -> Architecture:
    """Return what the shapes of renamed tensors say; raise ExtractorError where a needed tensor is missing."""
    pyramid = "pyramid.lateral.0.weight" in state
    conv2 = _shape(state, "backbone.res2.0.conv2.weight", 4)
    stages = ["backbone.res2", "backbone.res3", "backbone.res4", "backbone.res5" if pyramid else "head.res5"]
    has_attributes = any(name.startswith("attributes.") for name in state)
    score = _shape(state, "attributes.score.weight", 2) if has_attributes else None
    if conv2[1] < 1 or conv2[0] % conv2[1]:
        raise ExtractorError(
            f"backbone.res2.0.conv2.weight has the shape {list(conv2)}, which does not match a grouped convolution"
        )
    return Architecture(
        blocks=tuple(_count(state, stage) for stage in stages),
        stem_channels=_shape(state, "backbone.stem.conv1.weight", 4)[0],
        width=conv2[0],
        groups=conv2[0] // conv2[1],
        res2_channels=_shape(state, "backbone.res2.0.conv3.weight", 4)[0],
        pyramid_channels=_shape(state, "pyramid.lateral.0.weight", 4)[0] if pyramid else None,
        rpn_channels=_shape(state, "rpn.conv.weight", 4)[0],
        hidden_channels=_shape(state, "head.fc6.weight", 2)[0] if pyramid else None,
        classes=_shape(state, "predictor.cls_score.weight", 2)[0] - 1,
        attributes=None if score is None else score[0],
        attribute_embedding=_shape(state, "attributes.embedding.weight", 2)[1] if has_attributes else None,
        attribute_hidden=None if score is None else score[1],
    )


def _shape(state: Mapping[str, Tensor], name: str, dimensions: int) -> tuple[int, ...]:
    if name not in state:
        raise ExtractorError(f"it has no {name}")
    if state[name].ndim != dimensions:
        raise ExtractorError(f"{name} has the shape {list(state[name].shape)}, expected {dimensions} dimensions")
    return tuple(state[name].shape)


def _count(state: Mapping[str, Tensor], stage: str) -> int:
    """Return the number of blocks of a stage; holes show later, as missing tensors."""
    numbers = [int(found[1]) for name in state if (found := re.match(rf"{re.escape(stage)}\.(\d{{1,3}})\.", name))]
    return 1 + max(numbers, default=-1)


def detector_name(layout: str, architecture: Architecture) -> DetectorName:
    """Return which detector this is."""
    if layout == "vinvl":
        return "vinvl-x152c4"
    if layout == "vmb":
        return "vmb-x101" if architecture.blocks[2] < 36 else "vmb-x152"
    return "butd-r101"
