"""Settings of one training item: how long it is, what is masked in it, and whether its caption is its own."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge

from vilbert.settings import PositiveInt, Share, validated

OverlapMasking = Literal["none", "divisor", "paper"]


@validated
class ItemSettings:
    """Construction of training examples from samples."""

    max_tokens: Annotated[int, Ge(3)] = 36
    """Maximum number of tokens of a caption, with [CLS] and [SEP]; longer captions are truncated."""
    max_regions: PositiveInt = 36
    """Maximum number of regions per image, without the global one: the first ones in stored order."""
    word_mask: Share = 0.15
    """Fraction of the tokens to predict; of these 80 % become [MASK], 10 % a random token, 10 % are unchanged."""
    region_mask: Share = 0.15
    """Fraction of the regions to predict; the features of 90 % of these are set to zero."""
    overlap_masking: OverlapMasking = "none"
    """Treatment of regions that overlap a masked one (IoU above 0.4): unchanged (ViLBERT), excluded from the divisor of
    the global region only (the code of 12-in-1), or also masked without being predicted (the paper of 12-in-1)."""
    swap: Share = 0.5
    """Fraction of the pairs with the caption of another image, for the alignment task."""
    objective: Literal[0, 1, 2] = 0
    """0: all losses on all pairs. 1: masked words and regions on matching pairs only. 2: no alignment, no swaps."""
    random_special_words: bool = False
    """Whether a random word may be a special token such as [CLS], as in the published code."""
    blind: bool = False
    """Train with the regions of another image, to measure what is learnt from text alone."""
