"""JSON objects with a repeated key: in rows of an annotation file the row fails, elsewhere the file is refused."""

from __future__ import annotations

from typing import Any


class RepeatedKeys(dict[str, Any]):
    """An object in which a key is repeated, or that contains such an object."""

    def __init__(self, values: dict[str, Any], key: str) -> None:
        """key: The repeated key."""
        super().__init__(values)
        self.key = key


def repeated_key(value: Any) -> str | None:
    """Return a key that is repeated in an object within `value`, at any depth; None if there is none."""
    pending = [value]
    while pending:
        part = pending.pop()
        if isinstance(part, RepeatedKeys):
            return part.key
        pending += part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
    return None


def mark_rows(rows: list[Any]) -> None:
    """Replace each row that contains a repeated key by a `RepeatedKeys`."""
    for number, row in enumerate(rows):
        if (key := repeated_key(row)) is not None:
            rows[number] = RepeatedKeys(row, key)
