"""JSON objects with duplicate keys: in a row of an annotation file they drop the row, elsewhere the whole file."""

from __future__ import annotations

from typing import Any


class RepeatedKeys(dict[str, Any]):
    """An object with a duplicate key, or that contains such an object."""

    def __init__(self, values: dict[str, Any], key: str) -> None:
        """Create the object; `key` is the duplicate key."""
        super().__init__(values)
        self.key = key


def repeated_key(value: Any) -> str | None:
    """Return a duplicate key of an object anywhere within `value`, or None if all keys are unique."""
    pending = [value]
    while pending:
        part = pending.pop()
        if isinstance(part, RepeatedKeys):
            return part.key
        pending += part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
    return None


def mark_rows(rows: list[Any]) -> None:
    """Replace each row that contains a duplicate key with a `RepeatedKeys`."""
    for number, row in enumerate(rows):
        if (key := repeated_key(row)) is not None:
            rows[number] = RepeatedKeys(row, key)
