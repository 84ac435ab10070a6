"""Select the images to compare by a hash of their key, independent of the order of a set."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

KEYS_AT_ONCE = 65_536


class Choice(NamedTuple):
    """The images of one set with the smallest hashes, in the order of the hashes."""

    hashes: NDArray[np.uint64]
    rows: NDArray[np.int64]
    images: int
    """Number of images of the whole set."""
    complete: bool
    """Whether all images of the set are in it."""


def choose_images(keys: Iterable[tuple[int, str]], limit: int, seed: int) -> Choice:
    """Return the `limit` images with the smallest hashes; all of them for 0.

    Memory is 16 bytes per selected image. Of images with the same key, the first is used.
    """
    hashes, rows = np.empty(0, np.uint64), np.empty(0, np.int64)
    pending: list[tuple[int, int]] = []
    images = 0
    dropped = False

    def take_in() -> None:
        nonlocal hashes, rows, dropped
        more = np.array(pending, np.uint64).reshape(-1, 2)
        pending.clear()
        hashes, first = np.unique(np.concatenate([hashes, more[:, 0]]), return_index=True)
        rows = np.concatenate([rows, more[:, 1].astype(np.int64)])[first]
        if limit and len(hashes) > limit:
            hashes, rows, dropped = hashes[:limit], rows[:limit], True

    for row, key in keys:
        images += 1
        pending.append((key_hash(key, seed), row))
        if len(pending) >= KEYS_AT_ONCE:
            take_in()
    take_in()
    return Choice(hashes, rows, images, complete=not dropped)


def key_hash(key: str, seed: int) -> int:
    """Return the 64-bit hash by which images are selected."""
    data = f"{seed}:{key}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")


@dataclass(frozen=True, kw_only=True, eq=False)
class PairedRows:
    """The rows of images that are in both sets, in the order of A."""

    a: NDArray[np.int64]
    b: NDArray[np.int64]
    hashes: NDArray[np.uint64]
    """Hashes of these images, ascending; not in row order."""
    only_a: int
    """Number of examined images of A that B does not have."""
    only_b: int
    """Number of examined images of B that A does not have."""


def pair_rows(a: Choice, b: Choice) -> PairedRows:
    """Return the rows of the images in both sets, within the range of hashes that both selections cover."""
    last = min((choice.hashes[-1] for choice in (a, b) if not choice.complete), default=np.uint64(2**64 - 1))
    keep_a, keep_b = a.hashes <= last, b.hashes <= last
    hashes, at_a, at_b = np.intersect1d(a.hashes[keep_a], b.hashes[keep_b], assume_unique=True, return_indices=True)
    rows_a, rows_b = a.rows[keep_a][at_a], b.rows[keep_b][at_b]
    order = np.argsort(rows_a, kind="stable")
    return PairedRows(
        a=rows_a[order],
        b=rows_b[order],
        hashes=hashes,
        only_a=int(keep_a.sum()) - len(rows_a),
        only_b=int(keep_b.sum()) - len(rows_b),
    )
