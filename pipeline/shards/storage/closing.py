"""A `with` block that closes a reader."""

from __future__ import annotations

from typing import Self


class Closing:
    """Base of readers that a `with` block closes."""

    def close(self) -> None:
        """Close what is open."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
