"""Canonical JSON: equal values are encoded as equal bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NoReturn

from vilbert.untrusted.documents import MAX_DEPTH, DocumentError, parse_json, unique_keys


def encode_json(value: Any, *, indent: int | None = None) -> bytes:
    """Return `value` as UTF-8 JSON with sorted keys; compact unless `indent` is given.

    Raises:
        ValueError: The value contains NaN, infinities or lone surrogates.
        TypeError: The value contains a type that JSON does not support.
    """
    separators = (",", ":") if indent is None else (",", ": ")
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=separators, indent=indent)
    return text.encode("utf-8")


def decode_json(data: bytes) -> Any:
    """Return the value of a UTF-8 JSON document.

    A document with few brackets and no escapes cannot be nested too deeply or contain a lone surrogate, so it is
    decoded without these checks in a third of the time. Nearly every KEY.json is such a document.

    Raises:
        DocumentError: The document has a byte order mark, or `parse_json` refuses it. A ValueError.
    """
    if data.startswith(_BYTE_ORDER_MARK):
        raise DocumentError("begins with a byte order mark")
    if b"\\u" in data or data.count(b"{") + data.count(b"[") > MAX_DEPTH:
        return parse_json(data)
    try:
        text = data.decode("utf-8")
        try:
            value, end = _SCAN(text, 0)
        except StopIteration:  # not JSON, or leading white space
            end = -1
        return value if end == len(text) else _DECODER.decode(text)  # skips white space, and raises a helpful error
    except UnicodeDecodeError as error:
        raise DocumentError(f"not UTF-8 at byte {error.start}") from None
    except DocumentError:
        raise
    except ValueError as error:  # JSONDecodeError, and integers of more digits than Python converts
        raise DocumentError(f"not valid JSON: {error}") from None


def _refuse_constant(name: str) -> NoReturn:
    raise DocumentError(f"{name} is not JSON")


_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


# Created once, because a shard holds one document per sample.
_DECODER = json.JSONDecoder(object_pairs_hook=unique_keys, parse_constant=_refuse_constant)
_SCAN: Callable[[str, int], tuple[Any, int]] = _DECODER.scan_once  # type: ignore[attr-defined]
"""Like `_DECODER.decode` for text without surrounding white space, twice as fast. Returns the value and its end."""
