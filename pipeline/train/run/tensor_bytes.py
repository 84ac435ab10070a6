"""Tensors as the bytes of a safetensors file, a part at a time.

`safetensors.torch.save_file` writes the file itself, refuses tensors that share memory, and reports a full disk as an
error of its own. Parts can be hashed on their way to the disk instead. Format: https://github.com/huggingface/safetensors
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from vilbert.pipeline.shards.canonical import encode_json

_CHUNK = 1 << 24  # elements of a tensor that are turned into bytes at a time
_TYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


def safetensors_bytes(tensors: Mapping[str, Tensor]) -> Iterator[bytes]:
    """Yield a safetensors file in parts, so that memory never holds more than a part of one tensor twice.

    Largest element types come first: then every tensor begins at a multiple of its element's size. Tensors may lie on
    any device and share memory. Raises TypeError for an element type that is not among those of checkpoints.
    """
    header: dict[str, Any] = {}
    end = 0
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    for name, tensor in ordered:
        if tensor.dtype not in _TYPES:
            raise TypeError(f"{name} is of {tensor.dtype}; checkpoints hold {', '.join(_TYPES.values())}")
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = encode_json(header)
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for _, tensor in ordered:
        flat = tensor.detach().reshape(-1)
        for at in range(0, len(flat), _CHUNK):
            yield flat[at : at + _CHUNK].cpu().contiguous().view(torch.uint8).numpy().tobytes()
