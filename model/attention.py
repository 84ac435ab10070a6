"""Multi-head attention, as a fused kernel or in separate (eager) steps, and attention masks.

Shapes: B batch, N heads, Q queries, K keys, D width of a head, T words, R regions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vilbert.model import cpu
from vilbert.model.operators import dropout as apply_dropout
from vilbert.model.packing import Packing

# Added to the score of a masked key. It is not -inf, so that the softmax stays finite if all keys are masked (and uses
# the unmasked scores, as in the reference), and it is representable in float16.
MASKED_SCORE = -10000.0


def split_heads(states: Tensor, heads: int, packing: Packing | None = None) -> Tensor:
    """Return [B, L, heads x D], or [W, heads x D] of packed positions, as [B, heads, L, D]."""
    states_BLA = states if packing is None else packing.unpack(states)
    return states_BLA.unflatten(-1, (heads, -1)).transpose(1, 2)


def attend(
    query_BNQD: Tensor,
    key_BNKD: Tensor,
    value_BNKD: Tensor,
    scores_mask: Tensor | None,
    *,
    dropout: float,
    eager: bool,
    packing: Packing | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Compute multi-head attention.

    The fused kernel (`scaled_dot_product_attention`) and the eager steps give the same values up to rounding.

    Args:
        query_BNQD: Queries [B, N, Q, D].
        key_BNKD: Keys [B, N, K, D].
        value_BNKD: Values [B, N, K, D].
        scores_mask: Added to the scores, [B, 1, 1 or Q, K]; None if nothing is masked.
        dropout: Dropout probability of the attention weights.
        eager: Use separate steps, and return the attention maps.
        packing: Packing of the query stream; the context is then [W, N x D].

    Returns:
        The context [B, Q, N x D] and, if eager, the attention maps [B, N, Q, K] after dropout, else None.
    """
    mask = None if scores_mask is None else scores_mask.to(query_BNQD.dtype)
    maps = None
    on_cpu = cpu.serves(query_BNQD)
    if eager or (on_cpu and (dropout or torch.is_grad_enabled())):
        scores = query_BNQD * query_BNQD.shape[-1] ** -0.5 @ key_BNKD.transpose(-1, -2)
        scores = scores if mask is None else scores + mask
        probabilities = cpu.softmax(scores) if on_cpu else torch.softmax(scores, dim=-1)
        maps = apply_dropout(probabilities, dropout, training=True)
        context = maps @ value_BNKD
    else:
        context = F.scaled_dot_product_attention(query_BNQD, key_BNKD, value_BNKD, mask, dropout)
    context_BQA = context.transpose(1, 2).flatten(2)
    return context_BQA if packing is None else packing.pack(context_BQA), maps if eager else None


def scores_mask(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Convert a mask of 1 (attend) and 0 (masked), [B, K] or [B, Q, K], to an additive mask [B, 1, 1 or Q, K]."""
    if mask is None:
        return None
    rows = mask[:, None] if mask.dim() == 2 else mask
    return (1.0 - rows[:, None].to(dtype)) * MASKED_SCORE


def seen_by_all(mask: Tensor | None) -> Tensor | None:
    """Return the positions [B, K] that the other stream may attend to, given this stream's mask [B, K] or [B, K, K].

    If the mask differs between queries, as in generation, the other stream attends to the positions that all queries
    attend to: with a causal mask only to the first word. So no information flows from a later word to an earlier one
    through the regions. Fully masked rows are padding and are ignored.
    """
    if mask is None or mask.dim() == 2:
        return mask
    seeing = mask.bool()
    return (seeing | ~seeing.any(-1, keepdim=True)).all(1).to(mask.dtype)
