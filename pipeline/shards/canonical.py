"""Canonical JSON: one value, one string of bytes."""

from __future__ import annotations

import json
from typing import Any, NoReturn


def encode_json(value: Any, *, indent: int | None = None) -> bytes:
    """Return `value` as UTF-8 JSON with sorted keys; compact unless `indent` is given.

    Raises ValueError for NaN, infinities and lone surrogates, TypeError for what JSON has no word for.
    """
    separators = (",", ":") if indent is None else (",", ": ")
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=separators, indent=indent)
    return text.encode("utf-8")


def decode_json(data: bytes) -> Any:
    """Return the value of UTF-8 JSON; raise ValueError for anything else, NaN and infinities included."""
    try:
        return _DECODER.decode(data.decode("utf-8"))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)  # made once: a shard holds one document a sample
