"""A sample as one value: its arrays in the safetensors encoding, its KEY.json as the metadata entry `json`.

The safetensors package writes it, and any safetensors library reads it. The header is parsed here, because the package
returns the metadata of files only, not of bytes in memory, and copies every array although training reads three. The
checks are those of the package (every byte of the value belongs to the header or to one array) and those of a sample.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import save

from vilbert.pipeline.errors import CorruptShardError
from vilbert.pipeline.shards.canonical import decode_json
from vilbert.pipeline.shards.sample import FIELD_LAYOUTS, FIELDS, Sample, build_sample, encode_metadata
from vilbert.pipeline.shards.storage.npy import check_empty, read_only_view
from vilbert.pipeline.shards.storage.part import Part, build_part, parse_metadata, stored_names

_DTYPES: dict[str, np.dtype[Any]] = {
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "I8": np.dtype("i1"),
}
IMAGE_TENSOR = "image"
"""The image's own bytes, optional: uint8 [bytes]."""
_LENGTH_BYTES = 8


def encode_tensors(sample: Sample) -> bytes:
    """Return the sample as safetensors; the same bytes for the same sample."""
    arrays = {name: np.ascontiguousarray(array) for name, array in sample.arrays().items()}
    if sample.image is not None:
        arrays[IMAGE_TENSOR] = np.frombuffer(sample.image, np.uint8)
    return save(arrays, metadata={"json": encode_metadata(sample).decode("utf-8")})


def decode_tensors(key: str, value: bytes, *, path: Path) -> Sample:
    """Return the sample of `encode_tensors`' output; its arrays are read-only views of `value`.

    path: the shard, for the message of the CorruptShardError that anything unexpected raises.
    """
    try:
        entries, metadata = _parse_header(value)
    except ValueError as error:
        raise CorruptShardError(f"its value {error}", path=path, key=key) from error
    view = memoryview(value)
    arrays = {entry.name: read_only_view(view, entry.dtype, entry.shape, entry.start) for entry in entries}
    image = arrays.pop(IMAGE_TENSOR, None)
    if image is not None and (image.dtype != np.uint8 or image.ndim != 1):
        raise CorruptShardError(
            f"{IMAGE_TENSOR} is {image.dtype}{list(image.shape)}, expected uint8", path=path, key=key
        )
    arrays = {name: arrays.pop(name) for name in FIELDS if name in arrays} | arrays
    if tuple(arrays) not in FIELD_LAYOUTS:
        expected = ", ".join(FIELD_LAYOUTS[-1])
        raise CorruptShardError(f"has arrays {', '.join(sorted(arrays))}; expected {expected}", path=path, key=key)
    return build_sample(key, arrays, metadata, image=None if image is None else image.tobytes(), path=path)


def decode_part(key: str, value: memoryview, fields: Sequence[str], *, path: Path, stored: bool = False) -> Part:
    """Return the named arrays, copied out of `value`, and the metadata of `encode_tensors`' output.

    path: the shard, for the message of the CorruptShardError that anything unexpected raises. stored: see `build_part`.
    """
    try:
        entries, metadata = _parse_header(value)
    except ValueError as error:
        raise CorruptShardError(f"its value {error}", path=path, key=key) from error
    found = {entry.name: entry for entry in entries}
    if missing := [name for name in fields if name not in found]:
        raise CorruptShardError(f"has no array {missing[0]}", path=path, key=key)
    arrays = {}
    for name in stored_names(fields, found):
        entry = found[name]
        arrays[name] = read_only_view(value, entry.dtype, entry.shape, entry.start).copy()
        arrays[name].flags.writeable = False
    return build_part(key, arrays, metadata, path=path, stored=stored)


def decode_tensor_metadata(key: str, value: memoryview, *, path: Path) -> dict[str, Any]:
    """Return the metadata of `encode_tensors`' output without reading its arrays; CorruptShardError as above."""
    try:
        _, metadata = _parse_header(value)
    except ValueError as error:
        raise CorruptShardError(f"its value {error}", path=path, key=key) from error
    return parse_metadata(key, metadata, path=path)


def raw_metadata(key: str, value: bytes, *, path: Path) -> bytes:
    """Return the stored KEY.json of `encode_tensors`' output; CorruptShardError as above."""
    try:
        return _parse_header(value)[1]
    except ValueError as error:
        raise CorruptShardError(f"its value {error}", path=path, key=key) from error


class _Entry(NamedTuple):
    """One array of a value."""

    start: int  # byte of the value; first, so that entries sort by it
    size: int  # bytes
    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


def _parse_header(value: bytes | memoryview) -> tuple[list[_Entry], bytes]:
    """Return the positions of the arrays in order, and the metadata; ValueError if a byte belongs to neither."""
    start = _LENGTH_BYTES + int.from_bytes(value[:_LENGTH_BYTES], "little")
    if start > len(value):
        raise ValueError(f"of {len(value)} bytes is truncated inside its safetensors header")
    header = decode_json(bytes(value[_LENGTH_BYTES:start]))
    metadata = header.pop("__metadata__", None) if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or metadata.keys() != {"json"} or not isinstance(metadata["json"], str):
        raise ValueError("has no safetensors header with the one metadata entry `json`")
    entries = sorted((_entry(name, entry, start) for name, entry in header.items()), key=itemgetter(0, 1))
    offset = start
    for entry in entries:
        size = entry.dtype.itemsize * math.prod(entry.shape)
        if entry.start != offset or entry.size != size or offset + size > len(value):
            begin, end = entry.start - start, entry.start - start + entry.size
            raise ValueError(f"has array {entry.name} of {size} bytes at [{begin}, {end}) of {len(value) - start}")
        try:
            check_empty(entry.shape)
        except ValueError as error:
            raise ValueError(f"has array {entry.name}, which {error}") from None
        offset += size
    if offset != len(value):
        raise ValueError(f"has {len(value) - offset} bytes that do not belong to an array")
    return entries, metadata["json"].encode("utf-8")


def _entry(name: str, entry: Any, first: int) -> _Entry:
    """Return one array of the header; first: offset of the first array."""
    match entry:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [begin, end]} if (
            dtype in _DTYPES
            and len(shape) in (1, 2)
            and all(type(number) is int and number >= 0 for number in (*shape, begin, end))
        ):
            return _Entry(first + begin, end - begin, name, _DTYPES[dtype], tuple(shape))
    raise ValueError(f"describes array {name} as {entry!r:.200}")
