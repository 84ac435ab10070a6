"""The arguments A and B: stored features, or a detector that runs during the comparison."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from vilbert.pipeline.rebuild.compare.detector import RunningDetector, detector_settings
from vilbert.pipeline.rebuild.compare.feature_set import FeatureSet, open_set
from vilbert.pipeline.rebuild.compare.settings import CompareSettings, names_detector

Side = FeatureSet | RunningDetector


def open_sides(settings: CompareSettings, stack: ExitStack) -> tuple[Side, Side]:
    """Open A and B; the defaults of a detector's settings are those that the other side records."""
    names = (settings.a, settings.b)
    stored: list[FeatureSet | None] = []
    for name in names:
        stored.append(None if names_detector(name) else open_set(name, settings))
        if (opened := stored[-1]) is not None:
            stack.callback(opened.close)
    recorded: Mapping[str, Any] = next((recorded_extractor(one) for one in stored if one is not None), {})
    a, b = (
        RunningDetector(detector_settings(name, recorded, settings.device), settings.batch_size) if one is None else one
        for name, one in zip(names, stored, strict=True)
    )
    return a, b


def recorded_extractor(side: FeatureSet) -> Mapping[str, Any]:
    """Return a set's record of its detector, empty if it has none."""
    found = side.facts.get("extractor")
    return found if isinstance(found, Mapping) else {}


def describe_side(name: str, side: Side, images: int | None) -> dict[str, Any]:
    """Return a description of a side, as JSON values."""
    if isinstance(side, RunningDetector):
        return {"name": name, "format": "detector", "images": None, "facts": {"extractor": side.facts}}
    return {"name": name, "format": side.format, "images": images, "facts": side.facts}


def class_names(side: Side) -> tuple[str, ...]:
    """Return a side's class names by id."""
    return side.extractor.class_names if isinstance(side, RunningDetector) else side.class_names
