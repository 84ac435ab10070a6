"""The sample of one image: its regions and metadata, and their files in a tar.

Shapes: N regions of the image; D feature channels and K most probable classes, constant in a data set.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from vilbert.extractors.regions import PAIRS, Regions
from vilbert.pipeline.errors import CorruptShardError, ShardError
from vilbert.pipeline.shards.canonical import decode_json, encode_json
from vilbert.pipeline.shards.keys import is_key
from vilbert.pipeline.shards.small_features import (
    CODES,
    LEAST_COSINE,
    SmallFeatures,
    compress,
    expand,
    require_known_scales,
)
from vilbert.pipeline.shards.storage.npy import decode_npy, encode_npy

FORMATS = (1, 2, 3)
"""Format numbers of shards, records and dataset.json. FORMAT.md documents when a number is added."""


class Field(NamedTuple):
    """One stored array of a sample."""

    dtypes: tuple[str, ...]
    """NumPy names of the allowed dtypes, the default first."""
    axes: tuple[str, ...]
    """Letters of the legend above, or numbers."""


SCALES = "feature_scales"
"""The field that exists if features are stored with one byte per value, see `small_features`."""
FIELDS: dict[str, Field] = {
    "boxes": Field(("float32",), ("N", "4")),
    "features": Field(("float16", "float32", "int8", "uint8"), ("N", "D")),
    SCALES: Field(("float32",), ("N", "2")),
    "object_ids": Field(("uint16",), ("N",)),
    "object_scores": Field(("float32",), ("N",)),
    "object_boxes": Field(("float32",), ("N", "4")),
    "class_ids": Field(("uint16",), ("N", "K")),
    "class_probs": Field(("float16",), ("N", "K")),
    "attribute_ids": Field(("uint16",), ("N",)),
    "attribute_scores": Field(("float32",), ("N",)),
}
IMAGE_MEMBER = "jpg"
"""Member name of the optional image bytes, whatever the image's format, as in img2dataset."""
MAX_SIDE = 2**31 - 1
"""Maximum size of an image's side in pixels, and maximum number of boxes of an image."""
REGION_FIELDS = ("width", "height", "num_boxes")  # fields of KEY.json from Regions; the others come from Sample.meta


def field_names(
    *,
    objects: bool = True,
    object_boxes: bool = False,
    classes: bool = True,
    attributes: bool = False,
    scales: bool = False,
) -> tuple[str, ...]:
    """Return the names of a sample's arrays in storage order."""
    there = (objects, classes, attributes, object_boxes, scales)
    groups = dict(zip((*PAIRS, ("object_boxes",), (SCALES,)), there, strict=True))
    absent = {name for names, there in groups.items() if not there for name in names}
    return tuple(name for name in FIELDS if name not in absent)


def member_names(fields: Iterable[str], *, image: bool = False) -> tuple[str, ...]:
    """Return the suffixes after `KEY.` of a sample's members, in storage order."""
    return (*(f"{name}.npy" for name in fields), *([IMAGE_MEMBER] if image else []), "json")


FIELD_LAYOUTS = tuple(
    field_names(objects=objects, object_boxes=object_boxes, classes=classes, attributes=attributes, scales=scales)
    for scales, object_boxes, objects, classes, attributes in itertools.product((True, False), *[(False, True)] * 4)
)
"""The combinations of arrays that samples may have; the last has all arrays of format 2, for messages."""
MEMBER_LAYOUTS = tuple(member_names(fields, image=image) for fields in FIELD_LAYOUTS for image in (True, False))
"""The same as members of a tar."""


def describe_fields(
    *,
    feature_dim: int,
    top_classes: int,
    attributes: bool,
    objects: bool = True,
    object_boxes: bool = False,
    feature_dtype: str = "float16",
) -> dict[str, dict[str, Any]]:
    """Return the `fields` of dataset.json: dtype and shape by name, "N" standing for the number of regions.

    Args:
        feature_dim: D.
        top_classes: K; 0 for samples without class probabilities.
        attributes: Whether samples have attributes.
        objects: Whether samples have objects.
        object_boxes: Whether samples have refined boxes of the objects in addition to the proposals.
        feature_dtype: dtype of the stored array: float16, float32, int8 or uint8.
    """
    sizes: dict[str, int | str] = {"N": "N", "2": 2, "4": 4, "D": feature_dim, "K": top_classes}
    return {
        name: {
            "dtype": feature_dtype if name == "features" else FIELDS[name].dtypes[0],
            "shape": [sizes[axis] for axis in FIELDS[name].axes],
        }
        for name in field_names(
            objects=objects,
            object_boxes=object_boxes,
            classes=top_classes > 0,
            attributes=attributes,
            scales=feature_dtype in LEAST_COSINE,
        )
    }


def read_fields(fields: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the arrays of `Sample.regions` in the form of `fields`; one-byte features become float16."""
    found = {name: dict(field) for name, field in fields.items() if name != SCALES}
    if SCALES in fields:
        found["features"]["dtype"] = "float16"
    return found


def format_of(fields: Mapping[str, Mapping[str, Any]]) -> int:
    """Return the lowest format number that supports the `fields` of a dataset.json; older software reads format 1."""
    if SCALES in fields:
        return 3
    usual = field_names(attributes="attribute_ids" in fields)
    return 1 if tuple(fields) == usual and fields["features"]["dtype"] == "float16" else 2


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """One image of a data set. The constructor raises ShardError if it cannot be stored."""

    key: str
    """See `keys.sample_key`."""
    regions: Regions
    """Detected regions."""
    meta: dict[str, Any]
    """JSON values: image_id (a required string), captions, split, uri, sha256 of the image's bytes, …"""
    image: bytes | None = None
    """Bytes of the image, if the data set stores them."""
    small: SmallFeatures | None = None
    """The stored features if they have one byte per value; `regions` has them in float16."""

    def __post_init__(self) -> None:
        if not is_key(self.key):
            raise ShardError(f"key {self.key!r} is not a valid tar member name: create keys with sample_key(image_id)")
        if not isinstance(self.meta.get("image_id"), str):
            raise ShardError(f"sample {self.key}: meta['image_id'] is {self.meta.get('image_id')!r}, expected a string")
        taken = [name for name in REGION_FIELDS if name in self.meta]
        if taken:
            raise ShardError(
                f"sample {self.key}: meta names {', '.join(taken)}, which are fields of its regions: leave them out"
            )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the stored arrays by name, in order."""
        arrays = self.regions.arrays()
        if self.small is None:
            return arrays
        arrays |= {"features": self.small.codes, SCALES: self.small.scales}
        return {name: arrays[name] for name in FIELDS if name in arrays}

    def with_features(self, dtype: str) -> Sample:
        """Return the sample with features as int8 or uint8 (float8). Raise PrecisionError if they are too imprecise."""
        small = compress(self.regions.features, dtype)
        return replace(self, regions=replace(self.regions, features=expand(small)), small=small)


def encode_metadata(sample: Sample) -> bytes:
    """Return the sample's KEY.json: its meta with width, height and num_boxes, as canonical JSON."""
    regions = sample.regions
    document = {**sample.meta, "width": regions.width, "height": regions.height, "num_boxes": len(regions)}
    try:
        return encode_json(document)
    except (ValueError, TypeError) as error:
        raise ShardError(f"sample {sample.key}: its meta cannot be written as JSON ({error})") from error


def encode_members(sample: Sample) -> list[tuple[str, bytes]]:
    """Return the sample's members, (suffix after `KEY.`, content), in the order of `member_names`."""
    members = [(f"{name}.npy", encode_npy(array)) for name, array in sample.arrays().items()]
    image = [] if sample.image is None else [(IMAGE_MEMBER, sample.image)]
    return [*members, *image, ("json", encode_metadata(sample))]


def decode_members(key: str, members: Sequence[tuple[str, memoryview]], *, path: Path) -> Sample:
    """Decode the output of `encode_members`. Arrays are read-only views of the members.

    Raises:
        CorruptShardError: A member is invalid. The message names `path`, the shard.
    """
    names = tuple(name for name, _ in members)
    if names not in MEMBER_LAYOUTS:
        expected = ", ".join(MEMBER_LAYOUTS[-1])
        raise CorruptShardError(f"has members {', '.join(names)}; expected {expected}", path=path, key=key)
    arrays: dict[str, NDArray[Any]] = {}
    image = None
    for name, content in members[:-1]:
        if name == IMAGE_MEMBER:
            image = bytes(content)
            continue
        try:
            arrays[name.removesuffix(".npy")] = decode_npy(content)
        except ValueError as error:
            raise CorruptShardError(f"{name} {error}", path=path, key=key) from error
    return build_sample(key, arrays, bytes(members[-1][1]), image=image, path=path)


def build_sample(
    key: str, arrays: Mapping[str, NDArray[Any]], metadata: bytes, *, path: Path, image: bytes | None = None
) -> Sample:
    """Return a sample from its arrays and its KEY.json. Raise CorruptShardError if they violate the format."""
    for name, array in arrays.items():
        expected = FIELDS[name]
        if array.dtype not in expected.dtypes or array.ndim != len(expected.axes):
            axes = ", ".join(expected.axes)
            problem = f"{name} is {array.dtype}{list(array.shape)}, expected {expected.dtypes[0]}[{axes}]"
            raise CorruptShardError(problem, path=path, key=key)
    try:
        document = decode_json(metadata)
        if not isinstance(document, dict):
            raise TypeError("is not an object")
        width, height, num_boxes = (_take_count(document, name) for name in REGION_FIELDS)
        arrays, small = expand_features(arrays)
        regions = Regions(**arrays, width=width, height=height)
        if len(regions) != num_boxes:
            raise ValueError(f"has num_boxes {num_boxes} for {len(regions)} regions")
        return Sample(key=key, regions=regions, meta=document, image=image, small=small)
    except (ValueError, TypeError, ShardError) as error:
        raise CorruptShardError(f"metadata and arrays do not match: {error}", path=path, key=key) from error


def expand_features(arrays: Mapping[str, NDArray[Any]]) -> tuple[dict[str, NDArray[Any]], SmallFeatures | None]:
    """Return stored arrays with features as floating-point numbers, and the stored features if they differ.

    Raises the errors of `small_features`.
    """
    found, small = dict(arrays), small_features(arrays)
    if small is not None:
        del found[SCALES]
        found["features"] = expand(small)
    return found, small


def small_features(arrays: Mapping[str, NDArray[Any]]) -> SmallFeatures | None:
    """Return the features of stored arrays if they have one byte per value, else None.

    Raises:
        ValueError: Scales are missing or do not match the features.
    """
    features, scales = arrays.get("features"), arrays.get(SCALES)
    if features is None:
        return None
    if (features.dtype in CODES) != (scales is not None):
        raise ValueError(f"features are {features.dtype} {'with' if scales is not None else 'without'} {SCALES}")
    if scales is None:
        return None
    if scales.shape != (len(features), 2):
        raise ValueError(f"{SCALES} is {list(scales.shape)} for features of {len(features)} regions")
    small = SmallFeatures(features, scales)
    require_known_scales(small)
    return small


def captions_of(sample: Sample, path: Path) -> list[str]:
    """Return the captions of a sample.

    Raises:
        CorruptShardError: The captions are not a list of strings. The message names `path`, the shard.
    """
    captions = sample.meta.get("captions", [])
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        raise CorruptShardError(f"captions is {captions!r:.100}, expected a list of strings", path=path, key=sample.key)
    return captions


def _take_count(document: dict[str, Any], name: str) -> int:
    value = document.pop(name, None)
    check_region_field(name, value)
    return int(value)


def check_region_field(name: str, value: object) -> None:
    """Raise ValueError if a field of `REGION_FIELDS` is not a number of pixels or boxes."""
    least = 0 if name == "num_boxes" else 1
    if type(value) is not int or not least <= value <= MAX_SIDE:
        raise ValueError(f"{name} is {value!r:.60}, expected an integer from {least} to {MAX_SIDE:,}")
