"""Questions and answers become word pieces: sentences that separators part.

Shapes: N rows, T word pieces of the longest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from vilbert.pipeline.train.examples.words import to_pieces


class Encoded(NamedTuple):
    """Rows of text as ids; padding is the tokenizer's."""

    ids: NDArray[np.int64]
    """[N, T]: classifier token, and each sentence with a separator behind it."""
    segments: NDArray[np.int64]
    """[N, T]: 1 in the last of several sentences, 0 elsewhere."""
    lengths: NDArray[np.int64]
    """[N] how many are no padding."""


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[tuple[str, ...]], *, max_words: int) -> Encoded:
    """Return the ids of texts; of what is over `max_words`, the last words of the longer side are cut.

    The last of several sentences is one side, those before it, with the separators between them, are the other. What
    ends a side is never cut. A last sentence that is empty, or holds nothing that the tokenizer knows, still has its
    separator, in segment 1: so all options of a question have one form. That is the published code's rule;
    transformers' own call takes "" for no second sentence, but " " for one. Source: `_vcr_dataset.py` of vilbert_beta.
    """
    distinct = list(dict.fromkeys(sentence for text in texts for sentence in text))
    pieces = dict(zip(distinct, to_pieces(tokenizer, distinct), strict=True))
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    sides = [_sides([pieces[sentence] for sentence in text], sep) for text in texts]
    rows = [_cut(of_one, max_words - 1 - len(of_one)) for of_one in sides]
    joined = [[cls, *(word for side in row for word in (*side, sep))] for row in rows]
    lengths = np.array([len(ids) for ids in joined], dtype=np.int64)
    inside = np.arange(int(lengths.max())) < lengths[:, None]
    ids = np.full(inside.shape, tokenizer.pad_token_id, dtype=np.int64)
    ids[inside] = np.concatenate([np.array(row, dtype=np.int64) for row in joined])
    first = np.array([len(row[0]) + 2 for row in rows], dtype=np.int64)
    return Encoded(ids, (inside & (np.arange(inside.shape[1]) >= first[:, None])).astype(np.int64), lengths)


def text_ids(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[tuple[str, ...]], *, max_words: int
) -> list[list[int]]:
    """Return the ids of each text as `encode` has them, without padding."""
    encoded = encode(tokenizer, texts, max_words=max_words)
    return [ids[:length].tolist() for ids, length in zip(encoded.ids, encoded.lengths.tolist(), strict=True)]


def _sides(sentences: list[list[int]], sep: int) -> list[list[int]]:
    """Return the sentences before the last as one, with separators between them, and the last."""
    *before, last = sentences
    if not before:
        return [last]
    first, *others = before
    return [first + [word for sentence in others for word in (sep, *sentence)], last]


def _cut(sides: list[list[int]], room: int) -> list[list[int]]:
    """Return the sides with no more than `room` words in all, cutting the longer one first, of two alike the second."""
    lengths = [len(side) for side in sides]
    while sum(lengths) > room:
        lengths[max(range(len(lengths)), key=lambda at: (lengths[at], at))] -= 1
    return [side[:length] for side, length in zip(sides, lengths, strict=True)]
