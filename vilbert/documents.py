"""On-disk documents as dataclasses that pydantic validates, with types and bounds declared on the fields.

    @document
    class FailureRow:
        row: Count
        reason: str

`from_json(FailureRow, {"row": -1, "reason": ""})` raises DocumentError, `row is -1: must be at least 0`. Types are
strict: neither a string nor 1.0 is accepted as an integer, and no number as a boolean. Unknown keys are refused. A
version that adds a field also increments the format number, which is checked first and has its own error message. The
class of a document without a format number documents which other keys it may hold.

Instances that a program creates are not validated. pydantic is imported when the first document is read.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Collection
from typing import Annotated, Any, TypeVar, dataclass_transform

from annotated_types import Interval

from vilbert.settings import adapter_of, reason
from vilbert.untrusted.documents import DocumentError

T = TypeVar("T")

MAX_COUNT = 2**53
"""Exclusive upper bound of counts and sizes: no file is larger, and sums of many values still fit into 64 bits."""
DOCUMENT_CONFIG: dict[str, Any] = {"extra": "forbid", "allow_inf_nan": False}
"""Configuration of `document` classes, and the `__pydantic_config__` of dataclasses that are not frozen."""
_DIGEST = "^[0-9a-f]{64}$"


@dataclasses.dataclass(frozen=True)
class Constraint:
    """Add one entry to the pydantic-core schema of a type without importing pydantic."""

    name: str
    value: Any

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        return {**handler(source), self.name: self.value}


Count = Annotated[int, Interval(ge=0, lt=MAX_COUNT)]
Counts = dict[str, Count]
Digest = Annotated[str, Constraint("pattern", _DIGEST)]
"""A SHA-256 in lower-case hex."""
List = Annotated[tuple[T, ...], Constraint("fail_fast", True)]
"""A JSON array. Validation stops at the first invalid item, so that a hostile file cannot produce a million errors."""


def is_digest(value: Any) -> bool:
    """Return whether a value is a SHA-256 in lower-case hex."""
    return isinstance(value, str) and re.fullmatch(_DIGEST, value) is not None


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(dataclasses.field,))
def document(cls: type[T]) -> type[T]:
    """Turn a class into a frozen, keyword-only dataclass for an on-disk document."""
    made: Any = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
    made.__pydantic_config__ = DOCUMENT_CONFIG
    return made  # type: ignore[no-any-return]


def from_json(kind: type[T], value: Any, *, optional: Collection[str] = ()) -> T:
    """Validate a JSON value and return it as a document.

    Args:
        kind: A class decorated with `document`, or another type that pydantic supports.
        value: A value that `parse_json` returned.
        optional: Fields of `kind` that may be missing. All other fields are required, even those with a default.

    Raises:
        DocumentError: The value is not valid. The message names the first invalid key, its value and the reason.
    """
    from pydantic_core import ValidationError

    key: Any = kind  # a cache key; mypy does not accept a class as hashable
    try:
        # Serialise again: strict validation of Python values does not accept a list as a tuple.
        made: T = adapter_of(key).validator.validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        raise DocumentError(_problem(error.errors(include_url=False)[0])) from None
    if isinstance(value, dict) and (missing := _fields(key) - value.keys() - set(optional)):
        raise DocumentError(f"{min(missing)} is missing")
    return made


@functools.cache
def _fields(kind: Any) -> frozenset[str]:
    fields = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
    return frozenset(field.name for field in fields)


def _problem(error: Any) -> str:
    place = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in error["loc"]).removeprefix(".")
    if error["type"].startswith("missing"):
        return f"{place} is missing"
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{place} is not a field of this format"
    if error["type"] == "value_error" and not place:
        return reason(error)
    return f"{place or 'the document'} is {error['input']!r:.100}: {reason(error)}"
