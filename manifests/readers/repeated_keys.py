"""Objects of JSON that hold a key twice: in the rows of an annotation file they cost the row, elsewhere the file."""

from __future__ import annotations

from typing import Any


class RepeatedKeys(dict[str, Any]):
    """An object that holds a key twice, or that contains such an object."""

    def __init__(self, values: dict[str, Any], key: str) -> None:
        """key: The one that appears twice."""
        super().__init__(values)
        self.key = key


def repeated_key(value: Any) -> str | None:
    """Return a key that appears twice in an object within `value`, which may be nested; None if it does not exist."""
    pending = [value]
    while pending:
        part = pending.pop()
        if isinstance(part, RepeatedKeys):
            return part.key
        pending += part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
    return None


def mark_rows(rows: list[Any]) -> None:
    """Replace each row within which a key is repeated by one that is `RepeatedKeys` itself."""
    for number, row in enumerate(rows):
        if (key := repeated_key(row)) is not None:
            rows[number] = RepeatedKeys(row, key)
