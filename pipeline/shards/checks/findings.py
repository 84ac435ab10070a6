"""Findings of `vilbert verify`: one line of text or one JSON object each."""

from __future__ import annotations

from dataclasses import dataclass

RERUN = "run the same `vilbert extract` or `vilbert convert` again: it makes what is missing"
RESTORE = "restore it from a copy, or extract into a new folder"


def remake(shard_name: str) -> str:
    """Return the remedy that rewrites one shard."""
    again = "run the same `vilbert extract` or `vilbert convert` again: it rewrites this shard"
    return f"delete shards/{shard_name}.* and {again}"


def reindex(name: str) -> str:
    """Return how to update the side files of the data set `name`."""
    return f"run `vilbert index {name}`, or delete the file"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One problem."""

    code: str
    """Kind of the problem; docs/verify.md lists all codes."""
    where: str
    """The file, relative to the data set's folder, and the sample or row if known."""
    what: str
    """The actual and the expected state."""
    remedy: str
    """The remedy."""

    def __str__(self) -> str:
        return f"{self.code}: {self.where}: {self.what}; {self.remedy}"
