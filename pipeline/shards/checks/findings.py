"""What `vilbert verify` found wrong: one line for a person, one object for a program."""

from __future__ import annotations

from dataclasses import dataclass

RERUN = "run the same `vilbert extract` or `vilbert convert` again: it makes what is missing"
RESTORE = "restore it from a copy, or extract into a new folder"


def remake(shard_name: str) -> str:
    """Return how to rewrite one shard."""
    again = "run the same `vilbert extract` or `vilbert convert` again: it rewrites this shard"
    return f"delete shards/{shard_name}.* and {again}"


def reindex(name: str) -> str:
    """Return how to renew the side files of the data set `name`."""
    return f"run `vilbert index {name}`, or delete the file"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong."""

    code: str
    """A fixed word for its kind; docs/verify.md lists them."""
    where: str
    """The file, relative to the data set's folder, and the sample or row where it is known."""
    what: str
    """What was found, and what was expected."""
    remedy: str
    """What to do."""

    def __str__(self) -> str:
        return f"{self.code}: {self.where}: {self.what}; {self.remedy}"
