"""Build the tensors of a batch from positions in the training stream.

A global batch is a slice of the stream, cut into parts for the ranks, as even as they come; a rank sorts its part by
length and cuts it into the micro-batches that it accumulates. What becomes of a sample is drawn from (seed, epoch,
sample) alone, so the samples of a global batch, their masks and their labels are the same however many there are to
share it. Losses are sums divided by counts of the whole batch: uneven parts change nothing.

Shapes: B pairs, T word pieces of the longest caption, R regions of the image with most, without the global one,
D features, K most probable classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from vilbert.model.losses import IGNORED, MASKED, apply_objective, has_negatives
from vilbert.model.packing import positions_of
from vilbert.pipeline.train.data.order import Order, Places
from vilbert.pipeline.train.engine.share import Share
from vilbert.pipeline.train.examples.buckets import REGION_STEP, WIDTH_STEP, filled_up, rounded_up
from vilbert.pipeline.train.examples.draws import Stream, below, bits, keys, uniforms
from vilbert.pipeline.train.examples.image_rows import ImageRows, lay_out
from vilbert.pipeline.train.examples.item_settings import ItemSettings
from vilbert.pipeline.train.examples.masking import RegionDraws, WordDraws, mask_words
from vilbert.pipeline.train.examples.pairs import choose_captions, choose_images, pick
from vilbert.pipeline.train.examples.words import replacement_ids, to_words

if TYPE_CHECKING:
    from vilbert.pipeline.train.data.corpus import Corpus
    from vilbert.pipeline.train.data.example import Example

T = TypeVar("T")

PARTS = ("masked_lm", "masked_image", "alignment")
"""The three losses, in the order of every tensor [3] of sums or counts."""


@dataclass(kw_only=True)
class Batch:
    """One micro-batch, on the CPU. Labels are -1 where there is nothing to learn; the objective is applied to them."""

    input_ids: Tensor
    """int64 [B, T], token ids with masks."""
    attention_mask: Tensor
    """int64 [B, T], 1 for tokens, 0 for padding."""
    masked_lm_labels: Tensor
    """int64 [B, T], the masked token, -1 elsewhere."""
    features: Tensor
    """float16 [B, R, D], unmasked, without the global region; padding is 0. Codes where there are `feature_scales`."""
    zeroed: Tensor
    """bool [B, R], regions whose features are hidden from the model."""
    divisor: Tensor
    """float32 [B], divisor of the sum of visible features, which gives the global region."""
    locations: Tensor
    """float32 [B, R, 5], x1, y1, x2, y2 and area as fractions of the image."""
    region_mask: Tensor
    """int64 [B, R], 1 for regions, 0 for padding."""
    image_label: Tensor
    """int64 [B, R], 1 for regions to predict."""
    class_ids: Tensor
    """int32 [B, R, K]; K is 0 where the class targets are those of a column."""
    class_probs: Tensor
    """float16 [B, R, K], or [B, R, C] of all classes by class id, where they are those of a column; padding is 0."""
    next_sentence_label: Tensor
    """int64 [B], 0 if text and image match, 1 if not."""
    image_ids: tuple[str, ...]
    """[B] ids of the images; "" for unreadable rows."""
    unread: int
    """Number of unreadable rows, which are not trained on."""
    feature_scales: Tensor | None = None
    """float32 [B, R, 2] of features of one byte a value, see `FeatureRows`."""
    positions: dict[str, Tensor] = field(default_factory=dict)
    """Fields of `vilbert.model.packing.Positions`; empty if the model computes them, as on a CPU."""

    def counts(self, visual_target: int, feature_dim: int) -> Tensor:
        """Return what the three losses divide by, int64 [3]: labelled words, terms of masked regions, labelled pairs.

        A region has as many terms as features where `visual_target` is 1 (regression), and one otherwise; none where it
        is 2 (NCE) and the region is all there is, with no other to be told apart from.
        """
        terms = feature_dim if visual_target == 1 else int(visual_target != 2 or has_negatives(self.image_label))
        regions = (self.image_label == MASKED).sum() * terms
        return torch.stack(
            [(self.masked_lm_labels != IGNORED).sum(), regions, (self.next_sentence_label != IGNORED).sum()]
        )

    def pin_memory(self) -> Batch:
        """Return the batch in pinned memory, from which a GPU can copy asynchronously."""
        held = {field.name: getattr(self, field.name) for field in fields(self)}
        pinned: dict[str, Any] = {name: it.pin_memory() for name, it in held.items() if isinstance(it, Tensor)}
        return replace(self, **pinned, positions={name: it.pin_memory() for name, it in self.positions.items()})


def make_batches(
    corpus: Corpus,
    order: Order,
    tokenizer: PreTrainedTokenizerBase,
    items: ItemSettings,
    share: Share,
    step: int,
    *,
    seed: int,
    limit: int | None = None,
    with_positions: bool = False,
    in_buckets: bool = False,
) -> list[Batch]:
    """Make a rank's micro-batches of global batch `step`: `share.accumulation` of them, but none without a row.

    limit: positions from here on are past the end (of an evaluation). They, and rows that cannot be read, become rows
    of one zero region and no words, without labels. A rank without a part has one such row: it takes part in the step
    all the same. An image without captions has its regions learnt, nothing else. Raises what reading the corpus raises.
    with_positions: fill `Batch.positions`, for a training step on a GPU. in_buckets: round sizes up, so that few shapes
    occur (`buckets`).
    """
    positions, wanted = share.rows(step, limit)
    places = order.at(positions)
    sample_keys = keys(seed, places.epoch, places.sample)
    shown = places
    if items.blind:
        shown, has_other = choose_images(order, positions, places, sample_keys)
        wanted &= has_other
    examples = _at(wanted, corpus.read(pick(shown, np.flatnonzero(wanted))))
    captions = _captions(corpus, places, wanted, examples, blind=items.blind)
    swap = 0.0 if items.objective == 2 else items.swap
    texts, alignment = choose_captions(corpus, order, positions, places, sample_keys, captions, swap=swap)
    text = _mask_text(tokenizer, texts, sample_keys, items)
    if in_buckets:
        text = _widened(text, items.max_tokens, tokenizer.pad_token_id or 0)
    regions = RegionDraws(
        uniforms(sample_keys, Stream.REGION_MASK, items.max_regions),
        uniforms(sample_keys, Stream.REGION_ACTION, items.max_regions),
    )
    batches = []
    for rows in np.array_split(np.argsort(text.lengths, kind="stable"), min(share.accumulation, len(positions))):
        kept = [examples[row] for row in rows.tolist()]
        unread = sum(example is None for example in kept) - int((~wanted[rows]).sum())
        drawn = RegionDraws(*(part[rows] for part in regions))
        image = lay_out(corpus, kept, drawn, items, step=REGION_STEP if in_buckets else 1)
        batch = _join(text, rows, image, alignment[rows], items.objective, kept, unread, in_buckets=in_buckets)
        batches.append(_with_positions(batch, in_buckets=in_buckets) if with_positions else batch)
    return batches


def _captions(
    corpus: Corpus, places: Places, wanted: NDArray[np.bool_], examples: Sequence[Example | None], *, blind: bool
) -> list[tuple[str, ...]]:
    """Return each row's own captions; none for a row that could not be read.

    blind: whether the examples are other images, so that captions have to be read from the rows' own places.
    """
    if not blind:
        return [() if example is None else example.captions for example in examples]
    own = _at(wanted, corpus.captions(pick(places, np.flatnonzero(wanted))))
    return [() if example is None or texts is None else texts for example, texts in zip(examples, own, strict=True)]


def _with_positions(batch: Batch, *, in_buckets: bool) -> Batch:
    positions = positions_of(batch.attention_mask, batch.masked_lm_labels, batch.region_mask, batch.image_label)
    if in_buckets:
        (rows, words), regions = batch.input_ids.shape, batch.region_mask.shape[1] + 1
        positions = filled_up(positions, rows=rows, words=words, regions=regions)
    return replace(batch, positions=vars(positions))


def _at(wanted: NDArray[np.bool_], found: Sequence[T | None]) -> list[T | None]:
    """Return one entry for each row: what was found of the wanted ones, None for the others."""
    entries = iter(found)
    return [next(entries) if is_wanted else None for is_wanted in wanted.tolist()]


class _Text(NamedTuple):
    """The captions of a rank's part of a global batch, padded to the longest one."""

    ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    lengths: NDArray[np.int64]


def _mask_text(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    sample_keys: NDArray[np.uint64],
    items: ItemSettings,
) -> _Text:
    words = to_words(tokenizer, texts, max_words=items.max_tokens)
    width = words.ids.shape[1]
    others = replacement_ids(tokenizer, special=items.random_special_words)
    draws = WordDraws(
        uniforms(sample_keys, Stream.WORD_MASK, width),
        uniforms(sample_keys, Stream.WORD_ACTION, width),
        others[below(bits(sample_keys, Stream.WORD_RANDOM, width), len(others))],
    )
    mask_id = tokenizer.mask_token_id
    ids, labels = mask_words(words.ids, words.maskable, draws, mask_id=mask_id, share=items.word_mask)
    return _Text(ids, labels, words.lengths)


def _widened(text: _Text, most: int, pad_id: int) -> _Text:
    """Return the captions padded to a width of few that occur, at most `most`."""
    width = text.ids.shape[1]
    more = ((0, 0), (0, max(min(rounded_up(width, WIDTH_STEP), most) - width, 0)))
    ids, labels = np.pad(text.ids, more, constant_values=pad_id), np.pad(text.labels, more, constant_values=IGNORED)
    return _Text(ids, labels, text.lengths)


def _join(
    text: _Text,
    rows: NDArray[np.int64],
    image: ImageRows,
    alignment: NDArray[np.int64],
    objective: int,
    examples: Sequence[Example | None],
    unread: int,
    *,
    in_buckets: bool,
) -> Batch:
    """Build a micro-batch of some rows of the text and their regions."""
    lengths = text.lengths[rows]
    width = int(lengths.max())
    if in_buckets:
        width = min(rounded_up(width, WIDTH_STEP), text.ids.shape[1])
    # An image without a caption is no mismatch: its regions are learnt whatever the objective.
    words, regions, pairs = apply_objective(
        objective,
        torch.from_numpy(text.labels[rows, :width]),
        torch.from_numpy(image.masks.label),
        torch.from_numpy(alignment).clamp(min=0),
    )
    return Batch(
        input_ids=torch.from_numpy(text.ids[rows, :width]),
        attention_mask=torch.from_numpy((np.arange(width) < lengths[:, None]).astype(np.int64)),
        masked_lm_labels=words,
        features=image.features.features,
        feature_scales=image.features.scales,
        zeroed=torch.from_numpy(image.masks.zeroed),
        divisor=torch.from_numpy(image.masks.divisor),
        locations=torch.from_numpy(image.locations),
        region_mask=torch.from_numpy(image.region_mask),
        image_label=regions,
        class_ids=torch.from_numpy(image.class_ids),
        class_probs=torch.from_numpy(image.class_probs),
        next_sentence_label=pairs.masked_fill(torch.from_numpy(alignment < 0), IGNORED),
        image_ids=tuple(example.image_id if example else "" for example in examples),
        unread=unread,
    )
