"""From what a data set or a model records of its detector back to the settings that build the detector again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args, get_type_hints

from vilbert.extractors.detectors.registry import DETECTORS, find_detector
from vilbert.extractors.settings import DetectorSettings, SelectionSettings

SAME = ("feature_layer", "precision", "top_classes")
"""Facts of a detector that are settings of the same names."""


def detector_values(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of `DetectorSettings` that are known from what regions depend on; weights are known by hash.

    Raises ValueError where one is not of its field's type: facts come from a file.
    """
    name = facts.get("extractor")
    if name is None:
        return {}
    # Not `package.module:function`: which module is imported is not for a file to say.
    if not isinstance(name, str) or not DETECTORS.is_known(name):
        raise ValueError(f"extractor is {name!r:.60}, which is not an installed detector")
    spec = find_detector(name)
    recorded = spec.recorded(facts)
    same = [key for key in SAME if key in facts and key not in recorded]
    known = {"detector": name, **{key: facts[key] for key in same}}
    known |= {key: value for key, value in recorded.items() if value is not None}
    values = _of_their_types(DetectorSettings, known)
    if "opts" not in facts:
        return values
    opts = facts["opts"]
    if (
        not isinstance(opts, list)
        or not all(isinstance(word, str) for word in opts)
        or any(word.startswith("-") for word in opts[::2])
    ):
        raise ValueError(f"opts is {opts!r:.60}")
    return {**values, "opts": tuple(opts)}


def selection_values(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of `SelectionSettings` in what regions depend on; ValueError where they are no such fields."""
    found = facts.get("selection", {})
    if not isinstance(found, Mapping):
        raise ValueError(f"selection is {found!r:.60}")
    return _of_their_types(SelectionSettings, found)


def _of_their_types(settings: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values that a file gives to fields of settings; ValueError where one is no field or of another type."""
    hints = get_type_hints(settings)
    for name, value in values.items():
        kind: Any = hints.get(name)
        choices = get_args(kind)
        right = value in choices if choices else isinstance(value, int | float if kind is float else kind or ())
        if not right or isinstance(value, bool):
            raise ValueError(f"{name} is {value!r:.60}")
    return dict(values)
