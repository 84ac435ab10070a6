"""Operations of a conversion on a sample's regions and on the description of its arrays: pure functions.

Legend: N regions, D feature channels, K most probable classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vilbert.extractors.regions import PAIRS, Regions
from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.shards.sample import Sample, describe_fields
from vilbert.pipeline.shards.small_features import LEAST_COSINE, STORED_AS, PrecisionError

GROUPS: dict[str, tuple[str, ...]] = {
    **dict(zip(("objects", "classes", "attributes"), PAIRS, strict=True)),
    "object_boxes": ("object_boxes",),
}
"""The arrays of each group of `settings.Group`."""


class DroppedError(Exception):
    """A sample that is dropped because nothing usable remains; `reason` is counted in the record."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


@dataclass(frozen=True, kw_only=True)
class RegionOperations:
    """Changes of regions, in the order of the fields."""

    min_score: float | None = None
    """Minimum score of a box."""
    max_boxes: int | None = None
    """Maximum number of boxes; those with the highest scores are kept."""
    max_classes: int | None = None
    """Maximum K."""
    drop_fields: tuple[str, ...] = ()
    """Groups to drop, possibly including `images`."""
    feature_dtype: str | None = None
    """See `ConvertSettings.feature_dtype`."""

    def change_arrays(self, fields: Mapping[str, Mapping[str, Any]]) -> bool:
        """Return whether samples of these arrays are changed."""
        return self.min_score is not None or self.max_boxes is not None or self.describe(fields) != dict(fields)

    def describe(self, fields: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        """Return the `fields` of dataset.json after the operations.

        Raises:
            RefusedError: An operation needs a field that does not exist.
        """
        if (self.min_score is not None or self.max_boxes is not None) and "object_scores" not in fields:
            option = "--min-score" if self.min_score is not None else "--max-boxes"
            raise RefusedError(f"{option}: the source has no object_scores to select boxes by")
        if self.max_classes is not None and "class_probs" not in fields:
            raise RefusedError("--max-classes: the source has no class_probs")
        top_classes = int(fields["class_ids"]["shape"][1]) if "class_ids" in fields else 0
        return describe_fields(
            feature_dim=int(fields["features"]["shape"][1]),
            top_classes=0 if "classes" in self.drop_fields else min(top_classes, self.max_classes or top_classes),
            attributes="attribute_ids" in fields and "attributes" not in self.drop_fields,
            objects="object_ids" in fields and "objects" not in self.drop_fields,
            object_boxes="object_boxes" in fields and "object_boxes" not in self.drop_fields,
            feature_dtype=STORED_AS[self.feature_dtype] if self.feature_dtype else fields["features"]["dtype"],
        )

    def apply(self, sample: Sample) -> Sample:
        """Return the changed sample.

        Raises:
            DroppedError: No box is left (`no_boxes`), a feature is too large for float16 (`float16_overflow`), or int8
                or float8 cannot represent it precisely enough (`feature_precision`).
        """
        regions, small = sample.regions, sample.small
        arrays = dict(regions.arrays())
        kept = self._kept_boxes(arrays)
        if kept is not None:
            if not len(kept):
                raise DroppedError("no_boxes")
            arrays = {name: array[kept] for name, array in arrays.items()}
            small = None if small is None else small.rows(kept)
        for name in ("class_ids", "class_probs"):
            if name in arrays and self.max_classes is not None:
                arrays[name] = arrays[name][:, : self.max_classes]
        for group in self.drop_fields:
            for name in GROUPS.get(group, ()):
                arrays.pop(name, None)
        stored = STORED_AS[self.feature_dtype] if self.feature_dtype is not None else None
        if stored is not None and (small is None or small.codes.dtype != stored):
            small = None
            arrays["features"] = cast_features(arrays["features"], "float16" if stored in LEAST_COSINE else stored)
        changed = Regions(**arrays, width=regions.width, height=regions.height)
        image = None if "images" in self.drop_fields else sample.image
        made = dataclasses.replace(sample, regions=changed, image=image, small=small)
        if small is not None or stored not in LEAST_COSINE:
            return made
        try:
            return made.with_features(stored)
        except PrecisionError as error:
            raise DroppedError("feature_precision") from error

    def _kept_boxes(self, arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.intp] | None:
        """Return the indices of the boxes to keep, in order; None for all. For equal scores, the first are kept."""
        scores = arrays.get("object_scores")
        if scores is None or (self.min_score is None and self.max_boxes is None):
            return None
        best = np.argsort(-scores, kind="stable")
        if self.min_score is not None:
            best = best[scores[best] >= np.float32(self.min_score)]
        return np.sort(best[: self.max_boxes])


def cast_features(features: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Return features in another dtype; DroppedError if a finite value becomes infinite."""
    if features.dtype == dtype:
        return features
    with np.errstate(over="ignore"):
        cast = features.astype(dtype)
    if np.isinf(cast).sum() > np.isinf(features).sum():
        raise DroppedError("float16_overflow")
    return cast


def missing_groups(fields: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return the groups that `other` has and `fields` does not have."""
    return [group for group, names in GROUPS.items() if names[0] in other and names[0] not in fields]


def add_fields(sample: Sample, other: Sample, groups: list[str]) -> Sample:
    """Return the sample with arrays of another sample of the same image and boxes.

    Raises:
        DroppedError: The other sample has other boxes (`other_boxes`).
    """
    if not np.array_equal(sample.regions.boxes, other.regions.boxes):
        raise DroppedError("other_boxes")
    arrays = other.regions.arrays()
    added = {name: arrays[name] for group in groups for name in GROUPS[group]}
    regions = sample.regions
    together = {**regions.arrays(), **added}
    return dataclasses.replace(sample, regions=Regions(**together, width=regions.width, height=regions.height))


def add_descriptions(
    fields: Mapping[str, dict[str, Any]], other: Mapping[str, dict[str, Any]], groups: list[str]
) -> dict[str, dict[str, Any]]:
    """Return the description of a sample with arrays of another."""
    return {**fields, **{name: other[name] for group in groups for name in GROUPS[group]}}
