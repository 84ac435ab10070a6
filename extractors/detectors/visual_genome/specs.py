"""The Visual Genome detectors by name: facts that are known without importing torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from annotated_types import Ge, Interval

from vilbert.extractors.detectors.registry import DetectorSpec
from vilbert.extractors.detectors.visual_genome.conventions import Side
from vilbert.settings import validated


@validated
class RunSettings:
    """`--opts`: values that replace those of the converted file. Published features were made without them."""

    min_size: Side | None = None
    """Pixels of the shorter side of the resized image."""
    max_size: Side | None = None
    """Upper bound in pixels of the longer side of the resized image."""
    proposals: Annotated[int, Interval(ge=1, le=10_000)] | None = None
    """Number of proposals per image, before selection."""
    rois_at_once: Annotated[int, Ge(1)] | None = None
    """Number of regions in one pass of the box head; bounds its memory. Default: 256, on a GPU 1024."""


def recorded(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a fingerprint says of settings; a C4 head has no layer to choose."""
    return {"feature_layer": None} if facts.get("feature_layer") == "res5" else {}


def _spec(summary: str) -> DetectorSpec:
    return DetectorSpec(
        build="vilbert.extractors.detectors.visual_genome.extractor:build",
        summary=summary,
        settings=RunSettings,
        needs_files=True,
        recorded=recorded,
    )


BUTD_R101 = _spec("Bottom-Up Attention, 1600 objects and 400 attributes; --weights from `convert-detector`.")
VMB_X152 = _spec("ResNeXt-152 FPN of vilbert-multi-task and MMF; --weights from `convert-detector`.")
VMB_X101 = _spec("ResNeXt-101 FPN of Pythia; --weights from `convert-detector`.")
VINVL_X152C4 = _spec("VinVL, 1594 objects and 524 attributes; --weights from `convert-detector`.")
