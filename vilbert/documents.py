"""Documents on disk as dataclasses that pydantic validates: types and bounds on the fields, damage named by its key.

    @document
    class FailureRow:
        row: Count
        reason: str

`from_json(FailureRow, {"row": -1, "reason": ""})` raises DocumentError, `row is -1: must be at least 0`. Types are
strict: no text and no 1.0 for a whole number, no number for a truth value. A key that is no field is refused. A newer
version that adds a field also raises the format number, which is read first and refused by its own message; where a
document has no format number, its class says which other keys it may hold.

Instances that a program makes are not validated. pydantic is imported when the first document is.
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
"""Counts and sizes are below it: no file is larger, and sums of many still fit into 64 bits."""
DOCUMENT_CONFIG: dict[str, Any] = {"extra": "forbid", "allow_inf_nan": False}
"""Of `document`, and `__pydantic_config__` of a dataclass that is not frozen."""
_DIGEST = "^[0-9a-f]{64}$"


@dataclasses.dataclass(frozen=True)
class Constraint:
    """An entry of the pydantic-core schema of a type, without importing pydantic."""

    name: str
    value: Any

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        return {**handler(source), self.name: self.value}


Count = Annotated[int, Interval(ge=0, lt=MAX_COUNT)]
Counts = dict[str, Count]
Digest = Annotated[str, Constraint("pattern", _DIGEST)]
"""A SHA-256 in lower-case hex."""
List = Annotated[tuple[T, ...], Constraint("fail_fast", True)]
"""A JSON array; the first wrong item ends the validation, so that a hostile file makes no million errors."""


def is_digest(value: Any) -> bool:
    """Say whether a value is a SHA-256 in lower-case hex."""
    return isinstance(value, str) and re.fullmatch(_DIGEST, value) is not None


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(dataclasses.field,))
def document(cls: type[T]) -> type[T]:
    """Make a class the frozen dataclass of a document, whose values are given by keyword."""
    made: Any = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
    made.__pydantic_config__ = DOCUMENT_CONFIG
    return made  # type: ignore[no-any-return]


def from_json(kind: type[T], value: Any, *, optional: Collection[str] = ()) -> T:
    """Return the document that a JSON value states.

    Args:
        kind: A class of `document`, or another type that pydantic knows.
        value: As `parse_json` returned it.
        optional: Fields of `kind` that the value may lack; it must have the others, whatever their defaults.

    Raises:
        DocumentError: It is not such a document; names the first key that is wrong, its value and the reason.
    """
    from pydantic_core import ValidationError

    key: Any = kind  # of caches; mypy does not take a class for hashable
    try:
        # As text again: strict validation of Python values takes no list for a tuple.
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
