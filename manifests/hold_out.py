"""Which images are held out of training: a pure function of the image's id and a seed.

The same image is held out wherever it occurs, in every data set, process and restart. `vilbert manifest --hold-out` and
`vilbert pretrain` choose alike for the same share and seed.
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
    """Return an image's place in the order of holding out: the first 8 bytes of sha256(SEED, a zero byte, ID)."""
    text = storable(f"{seed}\0{image_id}")
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


class HoldOut(NamedTuple):
    """The images whose key is below a limit."""

    seed: int
    """Makes another choice of as many images."""
    limit: int
    """Of 2**64 keys, those below it are held out."""

    @classmethod
    def of_share(cls, share: float, seed: int) -> HoldOut:
        """Return the choice of a share in (0, 1) of all images."""
        return cls(seed=seed, limit=round(share * _KEYS))

    def takes(self, image_id: str) -> bool:
        """Say whether an image is held out."""
        return hold_out_key(image_id, self.seed) < self.limit


class HeldOutRows:
    """Gives rows without a split, and those of `train`, the split `val` or `train`."""

    def __init__(self, share: float, seed: int) -> None:
        self._choice = HoldOut.of_share(share, seed)
        self.rows: Counter[str] = Counter()
        """Rows by split, of those that were chosen from."""
        self.others: Counter[str] = Counter()
        """Rows by the split that their source names, which they keep."""

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
        """Return what was held out, for a person; ManifestError where there was nothing to choose from."""
        others = ", ".join(f"{count:,} of {split!r}" for split, count in sorted(self.others.items()))
        if not self.rows:
            raise ManifestError(
                f"--hold-out: no row of split {TRAIN!r} or without a split; there are {others or 'none'}"
            )
        kept = f"; rows whose source names another split keep it: {others}" if others else ""
        return f"--hold-out: {self.rows[HELD_OUT]:,} of {self.rows.total():,} rows have the split {HELD_OUT!r}{kept}"
