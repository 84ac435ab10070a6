"""Find repeated keys among any number of rows, in bounded memory.

Each key's 128-bit hash goes to one of many files by its first bits; equal hashes are then in the same file, and each
file fits into memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

BUCKETS = 64
"""Number of files; with 100 million rows, each has about 37 MB."""
_ENTRY = np.dtype([("high", "<u8"), ("low", "<u8"), ("row", "<i8")])


class KeyHashes:
    """Hashes of keys by row, stored on disk while they are collected."""

    def __init__(self, folder: Path) -> None:
        """Use an empty folder for the files."""
        folder.mkdir()
        self._folder = folder
        self._files = [(folder / str(number)).open("wb") for number in range(BUCKETS)]

    def add(self, keys: Sequence[str], rows: NDArray[np.int64]) -> None:
        """Add keys with the numbers of their rows."""
        if not keys:
            return
        digests = b"".join(hashlib.blake2b(key.encode(), digest_size=16).digest() for key in keys)
        entries = np.empty(len(keys), _ENTRY)
        halves = np.frombuffer(digests, "<u8").reshape(-1, 2)
        entries["high"], entries["low"], entries["row"] = halves[:, 0], halves[:, 1], rows
        buckets = (halves[:, 0] % BUCKETS).astype(np.int64)
        order = np.argsort(buckets, kind="stable")
        bounds = np.searchsorted(buckets[order], np.arange(BUCKETS + 1))
        for number, file in enumerate(self._files):
            if bounds[number] < bounds[number + 1]:
                file.write(entries[order[bounds[number] : bounds[number + 1]]].tobytes())

    def repeated(
        self, alive: Callable[[NDArray[np.int64]], NDArray[np.bool_]]
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Yield arrays (rows whose key an earlier row has, the first row of each key). Deletes the files.

        Args:
            alive: Returns which of the given rows are still considered.
        """
        for file in self._files:
            file.close()
        for number in range(BUCKETS):
            path = self._folder / str(number)
            entries = np.fromfile(path, _ENTRY)
            path.unlink()
            entries = entries[alive(entries["row"])]
            entries = entries[np.lexsort((entries["row"], entries["low"], entries["high"]))]
            same = (entries["high"][1:] == entries["high"][:-1]) & (entries["low"][1:] == entries["low"][:-1])
            new = np.concatenate([[True], ~same]) if len(entries) else np.zeros(0, bool)
            firsts = entries["row"][new][np.cumsum(new) - 1]
            yield entries["row"][~new], firsts[~new]
        self._folder.rmdir()
