"""A sample as one value: its arrays in the safetensors encoding, its KEY.json as the metadata entry `json`.

Any safetensors library reads it. Ours reads without a copy, and strictly: every byte of the value belongs to the
header or to one array.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from pipeline.shards.canonical import decode_json
from pipeline.shards.errors import CorruptShardError
from pipeline.shards.npy import read_only_view
from pipeline.shards.sample import Sample, build_sample, encode_metadata, field_names

_DTYPES: dict[str, np.dtype[Any]] = {"F16": np.dtype("<f2"), "F32": np.dtype("<f4"), "U16": np.dtype("<u2")}
_LENGTH_BYTES = 8


def encode_tensors(sample: Sample) -> bytes:
    """Return the sample as safetensors; the same bytes for the same sample."""
    arrays = {name: np.ascontiguousarray(array) for name, array in sample.regions.arrays().items()}
    return save(arrays, metadata={"json": encode_metadata(sample).decode("utf-8")})


def decode_tensors(key: str, value: bytes, *, path: Path) -> Sample:
    """Return the sample of `encode_tensors`' output; its arrays are read-only views of `value`.

    path: the shard, for the message of the CorruptShardError that anything unexpected raises.
    """
    try:
        arrays, metadata = _parse(value)
    except ValueError as error:
        raise CorruptShardError(f"its value {error}", path=path, key=key) from error
    if set(arrays) not in (set(field_names(attributes=False)), set(field_names(attributes=True))):
        expected = ", ".join(field_names(attributes=True))
        raise CorruptShardError(f"has arrays {', '.join(sorted(arrays))}; expected {expected}", path=path, key=key)
    return build_sample(key, arrays, metadata, path=path)


def _parse(value: bytes) -> tuple[dict[str, NDArray[Any]], bytes]:
    start = _LENGTH_BYTES + int.from_bytes(value[:_LENGTH_BYTES], "little")
    if start > len(value):
        raise ValueError(f"of {len(value)} bytes is cut inside its safetensors header")
    header = decode_json(value[_LENGTH_BYTES:start])
    metadata = header.pop("__metadata__", None) if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or metadata.keys() != {"json"} or not isinstance(metadata["json"], str):
        raise ValueError("has no safetensors header with the one metadata entry `json`")
    view = memoryview(value)
    arrays = {}
    offset = start
    for name, entry in sorted(header.items(), key=_begin):
        dtype, shape, begin, end = _entry(name, entry)
        size = dtype.itemsize * math.prod(shape)
        if start + begin != offset or end - begin != size or start + end > len(value):
            raise ValueError(f"has array {name} of {size} bytes at [{begin}, {end}) of {len(value) - start}")
        arrays[name] = read_only_view(view, dtype, shape, offset)
        offset += size
    if offset != len(value):
        raise ValueError(f"has {len(value) - offset} bytes that belong to no array")
    return arrays, metadata["json"].encode("utf-8")


def _begin(item: tuple[str, Any]) -> tuple[int, int]:
    _, _, begin, end = _entry(*item)
    return begin, end


def _entry(name: str, entry: Any) -> tuple[np.dtype[Any], tuple[int, ...], int, int]:
    """Return the dtype, shape, begin and end of one array of the header."""
    match entry:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [begin, end]} if dtype in _DTYPES and all(
            type(number) is int and number >= 0 for number in (*shape, begin, end)
        ):
            return _DTYPES[dtype], tuple(shape), begin, end
    raise ValueError(f"describes array {name} as {entry!r:.200}")
