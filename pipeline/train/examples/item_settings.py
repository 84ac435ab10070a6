"""Settings of one training item: how long it is, what is masked in it, and whether its caption is its own."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge

from vilbert.settings import PositiveInt, Share, validated

OverlapMasking = Literal["none", "divisor", "paper"]


@validated
class ItemSettings:
    """What a sample becomes before the model sees it."""

    max_tokens: Annotated[int, Ge(3)] = 36
    """Maximum number of tokens of a caption, with [CLS] and [SEP]; longer captions are truncated."""
    max_regions: PositiveInt = 36
    """Regions of an image without the global one: the first, in the order in which the detector gave them."""
    word_mask: Share = 0.15
    """Share of the word pieces to predict; of these 80 % become [MASK], 10 % another word, 10 % stay."""
    region_mask: Share = 0.15
    """Share of the regions to predict; of these 90 % lose their features."""
    overlap_masking: OverlapMasking = "none"
    """What happens to regions that overlap a masked one (IoU above 0.4): nothing (ViLBERT), they are only left out of
    the number that the global region is divided by (the code of 12-in-1), or they lose their features too, without
    being predicted (the paper of 12-in-1)."""
    swap: Share = 0.5
    """Share of the images that get another image's caption, for the alignment task."""
    objective: Literal[0, 1, 2] = 0
    """0: all losses on all pairs. 1: masked words and regions on matching pairs only. 2: no alignment, no swaps."""
    random_special_words: bool = False
    """Whether a random word may be [CLS] and the like, as in the published code."""
    blind: bool = False
    """Give every caption the regions of another image: what is then learnt comes from the text alone."""
