"""Settings of one training item: how long it is, what is masked in it, and whether its caption is its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

OverlapMasking = Literal["none", "divisor", "paper"]


@dataclass(frozen=True, kw_only=True)
class ItemSettings:
    """What a sample becomes before the model sees it. Raises ValueError where a value makes no sense."""

    max_words: int = 36
    """Word pieces of a caption, [CLS] and [SEP] included; what is longer loses its end."""
    max_regions: int = 36
    """Regions of an image without the global one: the first, in the order in which the detector gave them."""
    word_mask: float = 0.15
    """Share of the word pieces to predict; of these 80 % become [MASK], 10 % another word, 10 % stay."""
    region_mask: float = 0.15
    """Share of the regions to predict; of these 90 % lose their features."""
    overlap_masking: OverlapMasking = "none"
    """What happens to regions that overlap a masked one (IoU above 0.4): nothing (ViLBERT), they are only left out of
    the number that the global region is divided by (the code of 12-in-1), or they lose their features too, without
    being predicted (the paper of 12-in-1)."""
    swap: float = 0.5
    """Share of the images that get another image's caption, for the alignment task."""
    objective: Literal[0, 1, 2] = 0
    """0: all losses on all pairs. 1: masked words and regions on matching pairs only. 2: no alignment, no swaps."""
    random_special_words: bool = False
    """Whether a random word may be [CLS] and the like, as in the published code."""
    blind: bool = False
    """Give every caption the regions of another image: what is then learnt comes from the text alone."""

    def __post_init__(self) -> None:
        if self.max_words < 3:
            raise ValueError(f"--max-words {self.max_words}: give at least 3, [CLS] and [SEP] take two")
        if self.max_regions < 1:
            raise ValueError(f"--max-regions {self.max_regions}: give at least 1")
        for name in ("word_mask", "region_mask", "swap"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"--{name.replace('_', '-')} {getattr(self, name)}: give a share from 0 to 1")
        if self.overlap_masking not in ("none", "divisor", "paper"):
            raise ValueError(f"--overlap-masking {self.overlap_masking}: give none, divisor or paper")
        if self.objective not in (0, 1, 2):
            raise ValueError(f"--objective {self.objective}: give 0, 1 or 2")
