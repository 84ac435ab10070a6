"""Multi-head attention, in one fused kernel or in plain steps, and the masks it takes.

Shapes: B batch, N heads, Q queries, K keys, D width of a head, T words, R regions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vilbert.model import cpu
from vilbert.model.operators import dropout as apply_dropout
from vilbert.model.packing import Packing

# Added to the score of a masked key. Not -inf: where every key is masked the softmax falls back to the scores alone,
# as in the reference, and stays finite. It can be held in float16.
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
    """Return the context [B, Q, N x D] and, where eager, the attention maps [B, N, Q, K] after dropout.

    scores_mask: added to the scores, [B, 1, 1 or Q, K], or None if nothing is masked. packing: of the queries'
    stream; the context is then [W, N x D]. The fused kernel (`scaled_dot_product_attention`) and the eager steps give
    the same numbers up to rounding.
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
    """Turn a mask of 1 (see) and 0 (hide), [B, K] or [B, Q, K], into what is added to scores, [B, 1, 1 or Q, K]."""
    if mask is None:
        return None
    rows = mask[:, None] if mask.dim() == 2 else mask
    return (1.0 - rows[:, None].to(dtype)) * MASKED_SCORE


def seen_by_all(mask: Tensor | None) -> Tensor | None:
    """Return which positions, [B, K], the other stream may look at, given this stream's mask [B, K] or [B, K, K].

    Where positions see different things, as words do in generation, the other stream sees what all of them see: with a
    causal mask only the first word. So no later word reaches an earlier one by way of the regions. Rows that see
    nothing are padding and have no say.
    """
    if mask is None or mask.dim() == 2:
        return mask
    seeing = mask.bool()
    return (seeing | ~seeing.any(-1, keepdim=True)).all(1).to(mask.dtype)
