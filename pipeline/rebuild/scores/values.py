"""The values of a column of scores: those of each shard, stored until the column is written, and duplicate groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.rebuild.scores.hamming import near_groups
from vilbert.pipeline.shards.canonical import decode_json
from vilbert.pipeline.shards.columns.values_file import ValuesFile
from vilbert.pipeline.shards.record import ShardRecord

PROBLEM = "problem"
"""Field of a sample whose image cannot be read or has changed: the reason, as in failures/."""
GROUP_FIELDS = ("duplicates", "duplicate_of", "first_of_duplicates")
"""Size of the near-duplicate group including this sample; key of its first sample; whether this is the first."""
_PLACE_BITS = 32


def values_path(home: Path, shard: int) -> Path:
    """Return the path of the values of a finished shard, which has one line per sample."""
    return home / f"{shard:06d}.jsonl"


class Values:
    """The values of all samples, with near-duplicate groups, for `add_column`. Two shards at a time are in memory."""

    def __init__(self, home: Path, records: Sequence[ShardRecord], facts: dict[str, Any], *, distance: int) -> None:
        """Read the values of all shards once.

        Args:
            home: Folder of the values.
            records: Records of all shards.
            facts: Everything that the values depend on.
            distance: Maximum number of bits in which the hashes of near-duplicates differ.
        """
        self._home = home
        self._starts = np.cumsum([0, *(record.samples for record in records)])
        self._shard = lru_cache(maxsize=2)(self._read_shard)
        places: dict[str, int] = {}
        hashes: list[NDArray[np.uint64]] = []
        known: list[NDArray[np.bool_]] = []
        keys: list[str] = []
        failures: Counter[str] = Counter()
        for record in records:
            lines = self._shard(record.shard) if record.samples else []
            if len(lines) != record.samples:
                raise ShardError(f"{values_path(home, record.shard)}: is damaged; delete {home} and run again")
            for number, line in enumerate(lines):
                places[line["image_id"]] = record.shard << _PLACE_BITS | number
            keys += [line["key"] for line in lines] if "phash" in facts["scores"] else []
            failures.update(line["value"][PROBLEM] for line in lines if PROBLEM in line["value"])
            some = [line["value"].get("phash") for line in lines]
            known.append(np.array([text is not None for text in some], bool))
            hashes.append(np.array([int(text or "0", 16) for text in some], np.uint64))
        self.failures = failures
        """Number of samples without an image, by reason."""
        self._keys = keys
        self._groups = self._sizes = np.empty(0, np.int64)
        if keys:
            self._groups = _find_groups(np.concatenate(hashes), np.concatenate(known), distance)
            self._sizes = np.bincount(self._groups, minlength=len(keys))
        self.file = ValuesFile(member="json", places=places, read=self._value, facts=facts)
        """The input for writing the column."""

    @property
    def duplicate_groups(self) -> int:
        """Number of groups of at least two near-duplicates."""
        return int((self._sizes > 1).sum())

    def _read_shard(self, shard: int) -> list[dict[str, Any]]:
        path = values_path(self._home, shard)
        try:
            return [dict(decode_json(line)) for line in path.read_bytes().splitlines()]
        except (OSError, ValueError, TypeError) as error:
            raise ShardError(f"{path}: is damaged ({error}); delete {self._home} and run again") from error

    def _value(self, place: int) -> dict[str, Any]:
        shard, number = place >> _PLACE_BITS, place & ((1 << _PLACE_BITS) - 1)
        value: dict[str, Any] = self._shard(shard)[number]["value"]
        if "phash" not in value:
            return value
        sample = int(self._starts[shard]) + number
        first = int(self._groups[sample])
        group = int(self._sizes[first]), self._keys[first], first == sample
        return {**value, **dict(zip(GROUP_FIELDS, group, strict=True))}


def _find_groups(hashes: NDArray[np.uint64], known: NDArray[np.bool_], distance: int) -> NDArray[np.int64]:
    """Return the first sample of each sample's group; a sample without a hash is a group of its own."""
    groups = np.arange(len(hashes))
    rows = np.flatnonzero(known)
    groups[rows] = rows[near_groups(hashes[rows], distance)]
    return groups
