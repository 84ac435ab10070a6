"""MessagePack with arrays in the form of the package msgpack-numpy (0.4.4 and later; lebedov/msgpack-numpy)."""

from __future__ import annotations

from typing import Any

import msgpack
import numpy as np


def encode_msgpack(value: Any) -> bytes:
    """Return a value of None, bool, int, float, str, bytes, arrays, lists and mappings as MessagePack."""
    return msgpack.packb(value, default=_encode_array, use_bin_type=True)  # type: ignore[no-any-return]


def _encode_array(value: object) -> dict[bytes, Any]:
    if not isinstance(value, np.ndarray):
        raise TypeError(f"MessagePack cannot hold a {type(value).__name__}")
    return {
        b"nd": True,
        b"type": value.dtype.str,
        b"kind": b"",
        b"shape": list(value.shape),
        b"data": value.tobytes(),
    }
