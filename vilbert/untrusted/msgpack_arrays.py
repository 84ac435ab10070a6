"""Read untrusted MessagePack with NumPy arrays, in the encoding of the library msgpack_numpy.

An array is a mapping of `nd` (True; False for a NumPy scalar), `type` (the dtype), `kind`, `shape` and `data` (its
bytes in C order). msgpack_numpy unpickles arrays of objects; here they are refused, as all extension types are.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

_DTYPES = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")
_MAX_DIMENSIONS = 32


class MessageError(ValueError):
    """A value that is not MessagePack, or holds anything other than plain values and numeric arrays."""


def load_msgpack(data: bytes) -> Any:
    """Return the value of one message. Arrays are read-only views of `data`.

    Raises:
        MessageError: The message is damaged or refused.
    """
    import msgpack

    try:
        return msgpack.unpackb(
            data, raw=False, strict_map_key=False, object_hook=_hook, ext_hook=_refuse, use_list=True
        )
    except MessageError:
        raise
    except (ValueError, TypeError, msgpack.exceptions.UnpackException, RecursionError, MemoryError) as error:
        reason = str(error).partition("\n")[0][:200] or type(error).__name__
        raise MessageError(f"is not MessagePack, or damaged: {reason}") from None


def _refuse(code: int, _data: bytes) -> Any:
    raise MessageError(f"holds an extension type ({code})")


def _hook(value: dict[Any, Any]) -> Any:
    """Return the array or number that a mapping encodes, or the mapping itself."""
    fields = {key.decode("latin1") if isinstance(key, bytes) else key: part for key, part in value.items()}
    if "nd" not in fields:
        return value
    kind, shape, data = fields.get("kind", b""), fields.get("shape", []), fields.get("data")
    if kind in (b"O", "O") or "type" not in fields:
        raise MessageError("holds an array of objects, which could run code")
    code = fields["type"].decode("latin1") if isinstance(fields["type"], bytes) else fields["type"]
    if not isinstance(code, str) or code[:1] not in "<>|=" or code[1:] not in _DTYPES:
        raise MessageError(f"holds an array of dtype {code!r:.60}")
    dtype = np.dtype(code)
    if not isinstance(shape, (list, tuple)) or len(shape) > _MAX_DIMENSIONS:
        raise MessageError("holds an array whose shape is not a list of at most 32 sizes")
    if not all(type(side) is int and side >= 0 for side in shape) or not isinstance(data, bytes):
        raise MessageError("holds an array without shape or data")
    if math.prod(shape) * dtype.itemsize != len(data):
        raise MessageError(f"holds {len(data)} bytes as an array of {list(shape[:8])} {dtype}")
    try:
        array = np.frombuffer(data, np.uint8).view(dtype).reshape(shape)
    except ValueError:  # one dimension is 0 and another exceeds the range of numpy's integers
        raise MessageError(f"holds an array of {list(shape[:8])} {dtype}, which numpy cannot create") from None
    return array if fields["nd"] else array.item()
