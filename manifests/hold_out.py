"""Select the images to hold out of training, as a pure function of image id and seed.

The selection of an image is the same in every data set, process and restart. `vilbert manifest --hold-out` and
`vilbert pretrain` make the same selection for the same fraction and seed.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from vilbert.manifests.captions import storable
from vilbert.manifests.record import ImageRecord, ManifestError

TRAIN, HELD_OUT = "train", "val"
_KEYS = 1 << 64


def hold_out_key(image_id: str, seed: int) -> int:
    """Return an image's hold-out key: the first 8 bytes of sha256(SEED, a zero byte, ID)."""
    text = storable(f"{seed}\0{image_id}")
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


class HoldOut(NamedTuple):
    """The selection of the images whose key is below a limit."""

    seed: int
    """Seed of the selection."""
    limit: int
    """Images with a key below this limit, out of 2**64, are held out."""

    @classmethod
    def of_share(cls, share: float, seed: int) -> HoldOut:
        """Return the selection of a fraction in (0, 1) of all images."""
        return cls(seed=seed, limit=round(share * _KEYS))

    def takes(self, image_id: str) -> bool:
        """Return whether an image is held out."""
        return hold_out_key(image_id, self.seed) < self.limit


class HeldOutRows:
    """Assigns the split `val` or `train` to rows without a split and to rows of the split `train`."""

    def __init__(self, share: float, seed: int) -> None:
        self._choice = HoldOut.of_share(share, seed)
        self.rows: Counter[str] = Counter()
        """Counts by assigned split."""
        self.others: Counter[str] = Counter()
        """Counts of rows that keep another split named by their source."""

    def split(self, records: Iterator[ImageRecord]) -> Iterator[ImageRecord]:
        """Yield the records with their split."""
        for record in records:
            if record.split not in ("", TRAIN):
                self.others[record.split] += 1
                yield record
                continue
            split = HELD_OUT if self._choice.takes(record.image_id) else TRAIN
            self.rows[split] += 1
            yield record if record.split == split else record._replace(split=split)

    def summary(self) -> str:
        """Return a summary for the log. Raise ManifestError if there were no rows to select from."""
        others = ", ".join(f"{count:,} of {split!r}" for split, count in sorted(self.others.items()))
        if not self.rows:
            raise ManifestError(
                f"--hold-out: no row of split {TRAIN!r} or without a split; there are {others or 'none'}"
            )
        kept = f"; rows whose source names another split keep it: {others}" if others else ""
        return f"--hold-out: {self.rows[HELD_OUT]:,} of {self.rows.total():,} rows have the split {HELD_OUT!r}{kept}"
