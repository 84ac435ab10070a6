"""Questions and answers become word pieces: one sentence, or two that a separator parts.

Shapes: N rows, T word pieces of the longest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase


class Encoded(NamedTuple):
    """Rows of text as ids; padding is the tokenizer's."""

    ids: NDArray[np.int64]
    """[N, T]: classifier token, first sentence, separator, and a second sentence with its separator where there is
    one."""
    segments: NDArray[np.int64]
    """[N, T]: 1 in a second sentence, 0 elsewhere."""
    lengths: NDArray[np.int64]
    """[N] how many are no padding."""


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[tuple[str, ...]], *, max_words: int) -> Encoded:
    """Return the ids of texts; of what is over `max_words`, the last words of the longer sentence are cut.

    The separator is never cut, as it is in the code of vilbert_beta. A second sentence that is empty, or holds nothing
    that the tokenizer knows, still has its separator, in segment 1: so all options of a question have one form. That is
    the published code's rule; transformers' own call takes "" for no second sentence, but " " for one.
    """
    distinct = list(dict.fromkeys(sentence for text in texts for sentence in text))
    pieces = dict(zip(distinct, _pieces(tokenizer, distinct), strict=True))
    rows = [_cut([pieces[sentence] for sentence in text], max_words - 1 - len(text)) for text in texts]
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    joined = [[cls, *(word for sentence in row for word in (*sentence, sep))] for row in rows]
    lengths = np.array([len(ids) for ids in joined], dtype=np.int64)
    inside = np.arange(int(lengths.max())) < lengths[:, None]
    ids = np.full(inside.shape, tokenizer.pad_token_id, dtype=np.int64)
    ids[inside] = np.concatenate([np.array(row, dtype=np.int64) for row in joined])
    first = np.array([len(row[0]) + 2 for row in rows], dtype=np.int64)
    return Encoded(ids, (inside & (np.arange(inside.shape[1]) >= first[:, None])).astype(np.int64), lengths)


def _pieces(tokenizer: PreTrainedTokenizerBase, sentences: list[str]) -> list[list[int]]:
    if not sentences:
        return []
    found = tokenizer(
        sentences,
        add_special_tokens=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,  # it would warn of texts over the model's length, which are cut here
    )["input_ids"]
    return list(found)


def _cut(sentences: list[list[int]], room: int) -> list[list[int]]:
    """Return the sentences with no more than `room` words in all, cutting the longer one first."""
    lengths = [len(sentence) for sentence in sentences]
    while sum(lengths) > room:
        lengths[max(range(len(lengths)), key=lambda at: (lengths[at], at))] -= 1
    return [sentence[:length] for sentence, length in zip(sentences, lengths, strict=True)]
