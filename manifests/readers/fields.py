"""Fields of a row of an annotation file, checked for their types. An invalid field drops the row, not the file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vilbert.manifests.captions import storable
from vilbert.manifests.readers.repeated_keys import RepeatedKeys


class FieldError(ValueError):
    """A field that is missing or has the wrong type. The message names the field and the expected type."""


def text_field(row: Mapping[str, Any], name: str) -> str:
    """Return row[name], a non-empty string, with U+FFFD for lone surrogates. Raise FieldError for other values."""
    value = _value(row, name)
    if not isinstance(value, str) or not value:
        raise FieldError(f"{name!r} is {value!r:.80}, expected text")
    return storable(value)


def id_field(row: Mapping[str, Any], name: str) -> str:
    """Return row[name], a string or an integer, as a string without surrounding white space.

    Floats, `true` and null are not valid ids: `1.0` and `1` would be two images in one file and one in another.

    Raises:
        FieldError: The value is missing or has another type.
    """
    value = _value(row, name)
    if isinstance(value, str | int) and not isinstance(value, bool) and (text := storable(str(value).strip())):
        return text
    raise FieldError(f"{name!r} is {value!r:.80}, expected a string or an integer")


def list_field(row: Mapping[str, Any], name: str) -> list[Any]:
    """Return row[name], a list. Raise FieldError for other values."""
    value = _value(row, name)
    if not isinstance(value, list):
        raise FieldError(f"{name!r} is {value!r:.80}, expected a list")
    return value


def _value(row: Mapping[str, Any], name: str) -> Any:
    if isinstance(row, RepeatedKeys):
        raise FieldError(f"key {row.key!r:.80} appears twice")
    return row.get(name)
