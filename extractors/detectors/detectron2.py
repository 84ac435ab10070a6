"""detectron2's Faster R-CNN models: facts that are known without importing detectron2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vilbert.extractors.detectors.registry import DetectorSpec


def recorded(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a fingerprint says of settings; a C4 head has no layer to choose."""
    return {"feature_layer": None} if facts.get("feature_layer") == "res5" else {}


SPEC = DetectorSpec(
    build="vilbert.extractors.detectors.detectron2_frcnn:build",
    summary="any stock Faster R-CNN config file of detectron2, which you install.",
    options=("config_file", "opts"),
    required=("config_file",),
    needs_files=True,
    recorded=recorded,
    package="detectron2",
    install=(
        "only --detector detectron2 needs it: pip install --no-build-isolation "
        "'git+https://github.com/facebookresearch/detectron2.git', see docs/extractors.md"
    ),
)
