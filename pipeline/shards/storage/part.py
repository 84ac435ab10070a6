"""Part of a sample: the requested arrays and the metadata, which is all that training reads."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vilbert.pipeline.errors import CorruptShardError
from vilbert.pipeline.shards.canonical import decode_json
from vilbert.pipeline.shards.sample import FIELDS, REGION_FIELDS, SCALES, check_region_field, small_features
from vilbert.pipeline.shards.small_features import expand
from vilbert.pipeline.shards.storage.npy import USUAL_HEADER_BYTES, NpyLayout, usual_layout

_USUAL_COUNT = 1 << 16
"""Numbers of pixels and boxes from 1 to this value are valid without further checks."""
_DTYPES = {name: tuple(map(np.dtype, field.dtypes)) for name, field in FIELDS.items()}


class Part(NamedTuple):
    """Some arrays of a sample and its metadata."""

    arrays: dict[str, NDArray[Any]]
    """Read-only arrays by field name; features in float16 or float32, or as stored if requested."""
    metadata: dict[str, Any]
    """The object of KEY.json, including width, height and num_boxes."""


def build_part(
    key: str, arrays: Mapping[str, NDArray[Any]], metadata: bytes, *, path: Path, stored: bool = False
) -> Part:
    """Return a part of a sample; raise CorruptShardError if its arrays or its KEY.json violate the format.

    stored: return features of one byte per value as they are, with their scales.
    """
    document = parse_metadata(key, metadata, path=path)
    boxes = document["num_boxes"]
    if (name := _first_unfit(arrays, boxes)) is not None:
        array, field = arrays[name], FIELDS[name]
        problem = f"{name} is {array.dtype}{list(array.shape)}, expected {field.dtypes[0]}[{', '.join(field.axes)}]"
        raise CorruptShardError(f"{problem} of {boxes} boxes", path=path, key=key)
    return finish_part(key, arrays, document, path=path, stored=stored)


def finish_part(
    key: str, arrays: Mapping[str, NDArray[Any]], document: dict[str, Any], *, path: Path, stored: bool
) -> Part:
    """Return a part whose arrays match; check features of one byte per value against their scales."""
    try:
        small = small_features(arrays)
    except ValueError as error:
        raise CorruptShardError(str(error), path=path, key=key) from error
    if small is None or stored:
        return Part(dict(arrays), document)
    found = {name: array for name, array in arrays.items() if name != SCALES}
    return Part({**found, "features": expand(small)}, document)


def stored_names(fields: Sequence[str], there: Container[str]) -> Sequence[str]:
    """Return the stored arrays needed for the requested ones: features of one byte per value need their scales."""
    return [*fields, SCALES] if "features" in fields and SCALES in there else fields


class PartLayout(NamedTuple):
    """The layout of a sample's arrays, from their headers, if they match each other."""

    arrays: tuple[tuple[str, NpyLayout], ...]
    """By field name, in the requested order."""
    sizes: tuple[int, ...]
    """Bytes of each .npy file."""
    boxes: int | None
    """Length of the arrays; None if none was requested."""


@lru_cache(maxsize=4096)  # most samples of a data set have the same headers, or those of a few numbers of regions
def part_layout(names: tuple[str, ...], headers: bytes) -> PartLayout | None:
    """Return the layout from the .npy headers of some arrays; None if `build_part` has to check them.

    names: fields. headers: their first `USUAL_HEADER_BYTES`, concatenated.
    """
    starts = range(0, len(names) * USUAL_HEADER_BYTES, USUAL_HEADER_BYTES)
    found = {name: usual_layout(headers[at : at + USUAL_HEADER_BYTES]) for name, at in zip(names, starts, strict=True)}
    layouts = {name: layout for name, layout in found.items() if layout is not None}
    boxes = next(iter(layouts.values())).shape[0] if layouts else None
    if len(layouts) < len(names) or (boxes is not None and _first_unfit(layouts, boxes) is not None):
        return None
    return PartLayout(tuple(layouts.items()), tuple(layout.size for layout in layouts.values()), boxes)


def _first_unfit(arrays: Mapping[str, NDArray[Any] | NpyLayout], boxes: int) -> str | None:
    """Return the name of the first array that does not match its field, the number of boxes, or earlier arrays."""
    columns: dict[str, int] = {"2": 2, "4": 4}
    for name, array in arrays.items():
        axes = FIELDS[name].axes
        # Axes of one letter have one length: K of class_ids is that of class_probs.
        fits = fits_field(name, array) and array.shape[0] == boxes
        if not fits or (len(axes) == 2 and columns.setdefault(axes[1], array.shape[1]) != array.shape[1]):
            return name
    return None


def fits_field(name: str, array: NDArray[Any] | NpyLayout) -> bool:
    """Return whether an array has an allowed dtype and the number of axes of a field."""
    return array.dtype in _DTYPES[name] and len(array.shape) == len(FIELDS[name].axes)


def parse_metadata(key: str, metadata: bytes, *, path: Path) -> dict[str, Any]:
    """Return the object of a sample's KEY.json; raise CorruptShardError if a required field is missing."""
    try:
        document = decode_json(metadata)
        if not isinstance(document, dict):
            raise ValueError("is not an object")
        if not isinstance(document.get("image_id"), str):
            raise ValueError(f"image_id is {document.get('image_id')!r}, expected a string")
        for name in REGION_FIELDS:
            if type(value := document.get(name)) is not int or not 0 < value < _USUAL_COUNT:
                check_region_field(name, value)
    except ValueError as error:
        raise CorruptShardError(f"its metadata: {error}", path=path, key=key) from error
    return document
