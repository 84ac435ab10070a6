"""The detector of the shapes data set: facts that are known without importing torch."""

from __future__ import annotations

from vilbert.extractors.detectors.registry import DetectorSpec

SPEC = DetectorSpec(
    build="vilbert.extractors.detectors.shapes_frcnn:build",
    summary="the small detector of the shapes data set, weights included.",
)
