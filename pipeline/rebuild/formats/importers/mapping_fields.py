"""Checked values of the mapping of an image in a published file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vilbert.pipeline.rebuild.formats.importers.published_image import RowError

_MAX_DIGITS = 20


def require_mapping(value: object) -> dict[Any, Any]:
    """Return the mapping of a row; keys that Python 2 wrote as bytes become strings."""
    if not isinstance(value, dict):
        raise RowError("broken_row", f"is a {type(value).__name__}, expected a mapping of fields")
    return {_text(key) if isinstance(key, bytes) else key: part for key, part in value.items()}


def take_text(fields: Mapping[Any, Any], name: str) -> str | None:
    """Return a string or number as a string; None if the field is missing."""
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, np.ndarray) and value.ndim == 0 and value.dtype.kind in "iu":
        value = value.item()
    if isinstance(value, (str, bytes)):
        return _text(value)
    if type(value) is int:
        return str(value)
    raise RowError("broken_row", f"{name} is a {type(value).__name__}, expected a string or an integer")


def take_number(fields: Mapping[Any, Any], name: str) -> int | None:
    """Return an integer, also from a string or a float; None if the field is missing."""
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, np.ndarray) and value.size == 1 and value.dtype.kind in "iuf":
        value = value.reshape(()).item()
    if isinstance(value, (str, bytes)):
        text = _text(value)
        if not (text.isdecimal() and text.isascii() and len(text) <= _MAX_DIGITS):
            raise RowError("broken_row", f"{name} is {text[:40]!r}, expected an integer")
        return int(text)
    if type(value) is float and value.is_integer():
        return int(value)
    if type(value) is int:
        return value
    raise RowError("broken_row", f"{name} is {value!r:.60}, expected an integer")


def take_array(fields: Mapping[Any, Any], name: str) -> NDArray[Any] | None:
    """Return an array; None if the field is missing."""
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, np.ndarray):
        raise RowError("broken_row", f"{name} is a {type(value).__name__}, expected an array")
    return value


def take_column(fields: Mapping[Any, Any], name: str) -> NDArray[Any] | None:
    """Return an array of one number per region, which may have a second axis of length 1."""
    array = take_array(fields, name)
    return array[:, 0] if array is not None and array.ndim == 2 and array.shape[1] == 1 else array


def require_array(fields: Mapping[Any, Any], name: str) -> NDArray[Any]:
    """Return an array; raise RowError if the field is missing."""
    array = take_array(fields, name)
    if array is None:
        raise RowError("broken_row", f"has no {name}")
    return array


def _text(value: str | bytes) -> str:
    if isinstance(value, str):
        return value
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        raise RowError("broken_row", f"holds the text {value[:40]!r}, which is not UTF-8") from None
