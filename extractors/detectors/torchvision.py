"""torchvision's Faster R-CNN models: facts that are known without importing torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vilbert.extractors.detectors.registry import DetectorSpec


def recorded(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a fingerprint says of settings; a box head with one layer has no layer to choose."""
    model = {"torchvision_model": str(facts["model"]).removeprefix("fasterrcnn_")} if "model" in facts else {}
    return {**model, "feature_layer": None} if facts.get("feature_layer") == "output" else model


SPEC = DetectorSpec(
    build="vilbert.extractors.detectors.torchvision_frcnn:build",
    summary="COCO classes, comes with the install.",
    options=("torchvision_model",),
    recorded=recorded,
)
