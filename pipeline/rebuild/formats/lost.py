"""Which fields of a data set a format cannot store, reported only if the data set has them."""

from __future__ import annotations

from collections.abc import Iterable

from vilbert.pipeline.shards.sample import Sample

PARTS = {
    "captions": "captions",
    "split": "splits",
    "metadata": "other metadata",
    "object_ids": "object ids",
    "object_scores": "object scores",
    "object_boxes": "boxes of the objects refined from the regions (object_boxes)",
    "class_probs": "class probabilities",
    "attribute_ids": "attribute ids",
    "attribute_scores": "attribute scores",
    "image": "the images themselves",
}
"""Optional parts of a sample by their name in `FormatSpec.lost`, with their text for users."""
_OWN = ("image_id", "captions", "split")


def parts_of(sample: Sample) -> set[str]:
    """Return the names in `PARTS` of the parts that a sample has."""
    found = PARTS.keys() & sample.regions.arrays().keys()
    found |= {name for name in ("captions", "split") if sample.meta.get(name)}
    if sample.meta.keys() - set(_OWN):
        found.add("metadata")
    if sample.image is not None:
        found.add("image")
    return found


def lost_lines(lost: Iterable[str], found: set[str]) -> list[str]:
    """Return what an export cannot store: parts that samples have, and the other texts of the format.

    Args:
        lost: `FormatSpec.lost`: names in `PARTS`, and texts that apply to every data set.
        found: Names of the parts that at least one sample has.
    """
    parts = [PARTS[name] for name in PARTS if name in (*lost, "image") and name in found]
    return [*parts, *(text for text in lost if text not in PARTS)]
