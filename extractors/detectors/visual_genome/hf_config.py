"""`config.yaml` of Hugging Face's frcnn-vg-finetuned: its values replace those of the preset."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from vilbert.extractors.detectors.visual_genome.conventions import Conventions
from vilbert.extractors.extractor import ExtractorError
from vilbert.settings import SettingsError
from vilbert.untrusted.documents import DocumentError, read_yaml

Change = Callable[[Any], dict[str, Any]]


def _same(name: str) -> Change:
    return lambda value: {name: tuple(value) if isinstance(value, list) else value}


_CHANGES: dict[str, Change] = {
    "model.pixel_mean": _same("pixel_mean"),
    "model.pixel_std": _same("pixel_std"),
    "model.max_pool": lambda value: {"stem_pool": "ceil" if value else "padded"},
    "resnets.stride_in_1x1": _same("stride_in_1x1"),
    "input.min_size_test": _same("min_size"),
    "input.max_size_test": _same("max_size"),
    "anchor_generator.sizes": lambda value: {"anchor_sizes": tuple(map(tuple, value))},
    "anchor_generator.aspect_ratios": lambda value: {"anchor_ratios": tuple(value[0])},
    "proposal_generator.min_size": _same("rpn_min_size"),
    "rpn.nms_thresh": _same("rpn_nms"),
    "rpn.pre_nms_topk_test": _same("rpn_pre_nms"),
    "rpn.post_nms_topk_test": _same("rpn_post_nms"),
    "roi_box_head.bbox_reg_weights": _same("box_weights"),
    "roi_box_head.pooler_resolution": _same("pool_size"),
    "roi_box_head.res5halve": lambda value: {"res5_stride": 2 if value else 1, "res5_dilation": 1 if value else 2},
}
# What this detector has no setting for must be as in the published file.
_FIXED: dict[str, Any] = {
    "anchor_generator.offset": 0,
    "roi_box_head.cls_agnostic_bbox_reg": False,
    "size_divisibility": 0,
    "rpn.bbox_reg_weights": [1, 1, 1, 1],
}


def with_hf_config(conventions: Conventions, path: Path) -> Conventions:
    """Return the conventions as the file says; raise ExtractorError where it is damaged or not supported."""
    try:
        content = read_yaml(path)
    except DocumentError as error:
        raise ExtractorError(f"{path}: {error}") from error
    except OSError as error:
        raise ExtractorError(f"{path}: cannot read the configuration: {error.strerror}") from error
    values = _flat(content) if isinstance(content, dict) else {}
    if not values.keys() & _CHANGES.keys():
        raise ExtractorError(f"{path}: has none of the keys of frcnn-vg-finetuned's config.yaml")
    for key, expected in _FIXED.items():
        if key in values and values[key] != expected:
            raise ExtractorError(f"{path}: {key} is {str(values[key])[:60]}; only {expected} is supported")
    changes: dict[str, Any] = {}
    for key in values.keys() & _CHANGES.keys():
        try:
            changes |= _CHANGES[key](values[key])
        except (TypeError, LookupError) as error:
            raise ExtractorError(f"{path}: {key} is {str(values[key])[:60]}, which is not allowed") from error
    try:
        changed = replace(conventions, **changes)
    except SettingsError as error:
        raise ExtractorError(f"{path}: {error}") from error
    # The preset's proposals are all of one level.
    if len(changed.anchor_sizes) != len(conventions.anchor_sizes):
        raise ExtractorError(f"{path}: anchor_generator.sizes has {len(changed.anchor_sizes)} levels, expected 1")
    return changed


def _flat(content: dict[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Return values by dotted key in lower case: both cases are about."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        name = f"{prefix}{key}".lower()
        flat |= _flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat
