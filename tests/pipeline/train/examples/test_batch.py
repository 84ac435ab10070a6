"""Batches: what a sample becomes, and that it becomes the same whoever shares the batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vilbert.pipeline.train.data.corpus import Corpus
from vilbert.pipeline.train.data.example import Example
from vilbert.pipeline.train.data.order import Order, Places
from vilbert.pipeline.train.engine.share import Share
from vilbert.pipeline.train.examples.batch import Batch, make_batches
from vilbert.pipeline.train.examples.item_settings import ItemSettings
from vilbert.pipeline.train.examples.region_layout import locations
from vilbert.pipeline.train.examples.words import new_tokenizer

WORDS = [f"{a}{b}" for a in "bcdfgh" for b in "aeiou"]
ALONE = Share(rank=0, world=1, accumulation=1, batch_size=24)


@dataclass
class FakeCorpus:
    """Samples in memory, those in `broken` unreadable."""

    samples: Sequence[Example]
    broken: frozenset[int] = frozenset()
    feature_dim: int = 4
    top_classes: int = 3
    target_classes: int = 3

    def read(self, places: Places) -> list[Example | None]:
        return [None if n in self.broken else self.samples[n] for n in places.sample.tolist()]

    def captions(self, places: Places) -> list[tuple[str, ...] | None]:
        return [None if n in self.broken else self.samples[n].captions for n in places.sample.tolist()]


def make_example(number: int, captions: Sequence[str], regions: int = 5) -> Example:
    draw = np.random.default_rng(number)
    corners = np.sort(draw.random((regions, 2, 2)), axis=1) * [64, 48]
    return Example(
        image_id=f"image{number}",
        captions=tuple(captions),
        width=64,
        height=48,
        boxes=corners.reshape(regions, 4).astype(np.float32),
        feature_parts=(draw.standard_normal((regions, 4)).astype(np.float16),),
        class_ids=np.argsort(draw.random((regions, 9)), axis=1)[:, :3].astype(np.uint16),
        class_probs=(draw.random((regions, 3)) / 3).astype(np.float16),
    )


def make_samples(count: int = 60, per_image: int = 2) -> list[Example]:
    draw = np.random.default_rng(5)
    return [
        make_example(
            number,
            [f"image {number} " + " ".join(draw.choice(WORDS, draw.integers(1, 14))) for _ in range(per_image)],
            regions=int(draw.integers(1, 9)),
        )
        for number in range(count)
    ]


SAMPLES = make_samples()
TOKENIZER = new_tokenizer(caption for sample in SAMPLES for caption in sample.captions)


def batches_of(
    corpus: FakeCorpus | None = None,
    *,
    step: int = 0,
    share: Share = ALONE,
    seed: int = 7,
    limit: int | None = None,
    window: int = 40,
    weights: Sequence[float] = (),
    with_positions: bool = False,
    **items: Any,
) -> list[Batch]:
    corpus = corpus or FakeCorpus(SAMPLES)
    order = Order([np.array([len(corpus.samples)])], seed=3, window=window, weights=weights)
    found: Any = corpus
    settings = ItemSettings(**items)
    return make_batches(
        found, order, TOKENIZER, settings, share, step, seed=seed, limit=limit, with_positions=with_positions
    )


def rows_of(batches: Sequence[Batch]) -> list[tuple[Any, ...]]:
    """Return each row as something that can be compared, its padding left out."""
    rows = []
    for batch in batches:
        for row in range(len(batch.image_ids)):
            words, regions = int(batch.attention_mask[row].sum()), int(batch.region_mask[row].sum())
            rows.append(
                (
                    batch.image_ids[row],
                    *(tuple(part[row, :words].tolist()) for part in (batch.input_ids, batch.masked_lm_labels)),
                    *(tuple(part[row, :regions].tolist()) for part in (batch.image_label, batch.zeroed)),
                    batch.features[row, :regions].numpy().tobytes(),
                    batch.class_probs[row, :regions].numpy().tobytes(),
                    float(batch.divisor[row]),
                    int(batch.next_sentence_label[row]),
                )
            )
    return rows


def original_ids(batch: Batch, row: int) -> list[int]:
    """Return the caption's ids before masking, without [CLS] and [SEP]."""
    length = int(batch.attention_mask[row].sum())
    masked = batch.masked_lm_labels[row, 1 : length - 1]
    return torch.where(masked >= 0, masked, batch.input_ids[row, 1 : length - 1]).tolist()


def ids_of(caption: str) -> list[int]:
    return TOKENIZER(caption, add_special_tokens=False)["input_ids"][:34]


@given(
    st.tuples(st.integers(1, 26), st.integers(1, 9)),
    st.integers(0, 12),
    st.sampled_from(["none", "divisor", "paper"]),
    st.booleans(),
)
@pytest.mark.slow
def test_a_global_batch_is_the_same_however_it_is_shared(
    parts: tuple[int, int], step: int, overlap: str, blind: bool
) -> None:
    world, accumulation = parts
    options = {"step": step, "overlap_masking": overlap, "blind": blind}
    together = rows_of(batches_of(**options))
    shares = [Share(rank=rank, world=world, accumulation=accumulation, batch_size=24) for rank in range(world)]
    ranks = [rows_of(batches_of(share=share, **options)) for share in shares if len(share.positions(step))]
    assert Counter(row for rows in ranks for row in rows) == Counter(together)


@given(st.integers(1, 40), st.integers(1, 60), st.integers(0, 5))
def test_ranks_take_every_position_once_and_none_a_row_more_than_another(size: int, world: int, step: int) -> None:
    parts = [
        Share(rank=rank, world=world, accumulation=1, batch_size=size).positions(step).tolist() for rank in range(world)
    ]
    assert [position for part in parts for position in part] == list(range(step * size, (step + 1) * size))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@given(st.integers(1, 30), st.integers(1, 9))
def test_parts_are_even_and_never_empty(world: int, accumulation: int) -> None:
    for rank in range(0, world, 3):
        share = Share(rank=rank, world=world, accumulation=accumulation, batch_size=24)
        sizes = [len(part.image_ids) for part in batches_of(share=share)]
        rows = max(len(share.positions(0)), 1)
        assert sum(sizes) == rows
        assert len(sizes) == min(accumulation, rows)
        assert max(sizes) - min(sizes) <= 1


def test_a_rank_without_a_part_has_one_row_that_teaches_nothing() -> None:
    shares = [Share(rank=rank, world=30, accumulation=2, batch_size=24) for rank in range(30)]
    without = [share for share in shares if not len(share.positions(3))]
    assert len(without) == 6
    for share in without:
        (batch,) = batches_of(share=share, step=3, word_mask=1.0, region_mask=1.0)
        assert batch.unread == 0
        assert batch.counts(0, 4).tolist() == [0, 0, 0]
        assert_empty(batch, 0)


@given(st.integers(1, 26), st.integers(1, 5), st.sampled_from([0, 1, 2]))
def test_what_losses_divide_by_is_the_same_however_it_is_shared(world: int, parts: int, visual_target: int) -> None:
    shares = [Share(rank=rank, world=world, accumulation=parts, batch_size=24) for rank in range(world)]
    counts = [batch.counts(visual_target, 4) for share in shares for batch in batches_of(share=share)]
    assert torch.stack(counts).sum(0).tolist() == batches_of()[0].counts(visual_target, 4).tolist()


def test_micro_batches_are_sorted_by_length_and_padded_to_their_own_longest() -> None:
    batches = batches_of(share=replace(ALONE, accumulation=4))
    lengths = [batch.attention_mask.sum(1) for batch in batches]
    assert [len(part) for part in lengths] == [6, 6, 6, 6]
    assert torch.cat(lengths).tolist() == sorted(torch.cat(lengths).tolist())
    assert [batch.input_ids.shape[1] for batch in batches] == [int(part.max()) for part in lengths]
    assert [batch.features.shape[1] for batch in batches] == [int(b.region_mask.sum(1).max()) for b in batches]


def test_shapes_and_types_are_those_promised() -> None:
    (batch,) = batches_of()
    rows, words, regions = 24, batch.input_ids.shape[1], batch.features.shape[1]
    expected = {
        **dict.fromkeys(("input_ids", "attention_mask", "masked_lm_labels"), (torch.int64, (rows, words))),
        **dict.fromkeys(("region_mask", "image_label"), (torch.int64, (rows, regions))),
        "features": (torch.float16, (rows, regions, 4)),
        "zeroed": (torch.bool, (rows, regions)),
        "divisor": (torch.float32, (rows,)),
        "locations": (torch.float32, (rows, regions, 5)),
        "class_ids": (torch.int32, (rows, regions, 3)),
        "class_probs": (torch.float16, (rows, regions, 3)),
        "next_sentence_label": (torch.int64, (rows,)),
    }
    for name, (dtype, shape) in expected.items():
        value = getattr(batch, name)
        assert (value.dtype, tuple(value.shape)) == (dtype, shape), name


def test_a_row_holds_its_image_unmasked() -> None:
    (batch,) = batches_of(region_mask=1.0)
    for row, image_id in enumerate(batch.image_ids):
        sample = SAMPLES[int(image_id.removeprefix("image"))]
        count = len(sample.boxes)
        for name, stored in (
            ("features", sample.features),
            ("class_ids", sample.class_ids),
            ("class_probs", sample.class_probs),
        ):
            held = getattr(batch, name)[row]
            assert (held[:count].numpy() == stored).all()
            assert not held[count:].any()
        assert batch.image_label[row].tolist() == [1] * count + [-1] * (batch.features.shape[1] - count)
        assert batch.region_mask[row].tolist() == [1] * count + [0] * (batch.features.shape[1] - count)


def test_locations_are_computed_from_pixels_as_the_published_code_does() -> None:
    draw = np.random.default_rng(0)
    boxes = (draw.random((5, 7, 4)) * 600).astype(np.float32)
    sizes = draw.integers(1, 900, (5, 2)).astype(np.float64)
    found = locations(boxes, sizes)
    for row in range(5):
        width, height = sizes[row].tolist()
        located = np.zeros((7, 5), dtype=np.float32)
        located[:, :4] = boxes[row]
        located[:, 4] = (located[:, 3] - located[:, 1]) * (located[:, 2] - located[:, 0]) / (width * height)
        for column, side in enumerate((width, height, width, height)):
            located[:, column] = located[:, column] / side
        assert (found[row] == located).all()


def test_the_same_seed_gives_the_same_bits_and_another_does_not() -> None:
    assert rows_of(batches_of()) == rows_of(batches_of())
    assert rows_of(batches_of()) != rows_of(batches_of(seed=8))


def test_epochs_differ_in_what_is_masked() -> None:
    by_image = [
        {row[0]: row[1:] for step in range(5) for row in rows_of(batches_of(step=step + first, share=share))}
        for share in [Share(rank=0, world=1, accumulation=1, batch_size=12)]
        for first in (0, 5)
    ]
    assert by_image[0].keys() == by_image[1].keys() == {sample.image_id for sample in SAMPLES}
    alike = sum(by_image[0][name][:4] == by_image[1][name][:4] for name in by_image[0])
    assert alike < 6


def test_samples_alike_are_masked_differently() -> None:
    alike = [replace(make_example(0, [" ".join(WORDS)]), image_id=str(n)) for n in range(24)]
    (batch,) = batches_of(FakeCorpus(alike))
    assert len({tuple(row) for row in batch.masked_lm_labels.tolist()}) == 24
    assert len({tuple(row) for row in batch.image_label.tolist()}) > 3


def test_special_tokens_and_padding_are_never_masked_or_labelled() -> None:
    (batch,) = batches_of(word_mask=1.0)
    cls, sep, pad = TOKENIZER.cls_token_id, TOKENIZER.sep_token_id, TOKENIZER.pad_token_id
    for row in range(24):
        length = int(batch.attention_mask[row].sum())
        ids, labels = batch.input_ids[row].tolist(), batch.masked_lm_labels[row].tolist()
        assert (ids[0], ids[length - 1]) == (cls, sep)
        assert set(ids[length:]) <= {pad}
        assert {labels[0], labels[length - 1], *labels[length:]} == {-1}
        assert min(labels[1 : length - 1]) >= 5


@pytest.mark.parametrize("allowed", [False, True])
def test_random_words_are_special_only_where_that_is_asked_for(allowed: bool) -> None:
    seen: Counter[int] = Counter()
    for step in range(30):
        (batch,) = batches_of(step=step, word_mask=1.0, random_special_words=allowed)
        inside = batch.masked_lm_labels >= 0
        seen.update(batch.input_ids[inside].tolist())
    special = [seen[n] for n in TOKENIZER.all_special_ids if n != TOKENIZER.mask_token_id]
    assert (sum(special) > 0) == allowed


def test_captions_are_the_images_own_where_the_label_says_so_and_never_where_it_does_not() -> None:
    labels: Counter[int] = Counter()
    for step in range(40):
        (batch,) = batches_of(step=step)
        for row, image_id in enumerate(batch.image_ids):
            own = [ids_of(text) for text in SAMPLES[int(image_id.removeprefix("image"))].captions]
            label = int(batch.next_sentence_label[row])
            assert (original_ids(batch, row) in own) == (label == 0)
            labels[label] += 1
    assert abs(labels[1] / 960 - 0.5) < 0.07  # four standard deviations


def test_every_caption_of_an_image_comes_in_turn() -> None:
    seen = set()
    for step in range(15):
        (batch,) = batches_of(step=step, swap=0.0)
        seen |= {(batch.image_ids[row], tuple(original_ids(batch, row))) for row in range(24)}
    assert len(seen) > 0.9 * sum(len(sample.captions) for sample in SAMPLES)


def test_a_caption_that_other_images_share_is_never_a_wrong_one() -> None:
    # Two texts over 60 images, written in different ways: half of the partners have a caption of the image itself.
    texts = ("ba be bi", "co cu")
    written = (lambda text: text, str.upper, lambda text: "  " + text.replace(" ", "   "))
    samples = [make_example(n, [written[n % 3](texts[n % 2])]) for n in range(60)]
    swapped = 0
    for step in range(10):
        (batch,) = batches_of(FakeCorpus(samples), step=step, swap=1.0, word_mask=0.0)
        for row, image_id in enumerate(batch.image_ids):
            own = ids_of(texts[int(image_id.removeprefix("image")) % 2])
            is_wrong = int(batch.next_sentence_label[row]) == 1
            assert (original_ids(batch, row) == own) != is_wrong
            swapped += is_wrong
    assert swapped > 230  # all but one of 256


def test_an_image_keeps_its_caption_where_all_are_alike() -> None:
    (batch,) = batches_of(FakeCorpus([make_example(n, ["ba be"]) for n in range(30)]), swap=1.0)
    assert set(batch.next_sentence_label.tolist()) == {0}


def test_a_window_of_one_has_no_partner() -> None:
    (batch,) = batches_of(FakeCorpus([make_example(0, ["ba be", "co"])]), swap=1.0, window=1)
    assert set(batch.next_sentence_label.tolist()) == {0}


def test_an_image_is_no_partner_of_its_own_when_it_comes_twice() -> None:
    for step in range(5):
        (batch,) = batches_of(step=step, weights=(3.0,), window=180, swap=1.0)
        for row, image_id in enumerate(batch.image_ids):
            own = [ids_of(text) for text in SAMPLES[int(image_id.removeprefix("image"))].captions]
            assert original_ids(batch, row) not in own


def test_an_image_without_captions_has_its_regions_learnt_and_nothing_else() -> None:
    corpus = FakeCorpus([make_example(n, [] if n % 2 else ["ba be bi"]) for n in range(30)])
    for objective in (0, 1, 2):
        (batch,) = batches_of(corpus, region_mask=1.0, objective=objective)
        for row, image_id in enumerate(batch.image_ids):
            if int(image_id.removeprefix("image")) % 2:
                assert batch.input_ids[row, :2].tolist() == [TOKENIZER.cls_token_id, TOKENIZER.sep_token_id]
                assert int(batch.attention_mask[row].sum()) == 2
                assert set(batch.masked_lm_labels[row].tolist()) == {-1}
                assert int(batch.next_sentence_label[row]) == -1
                assert (batch.image_label[row] == 1).sum() == 5


def test_regions_over_the_limit_are_left_out() -> None:
    corpus = FakeCorpus([make_example(n, ["ba"], regions=9) for n in range(30)])
    (batch,) = batches_of(corpus, max_regions=4)
    assert batch.features.shape[1] == 4
    for row, image_id in enumerate(batch.image_ids):
        sample = corpus.samples[int(image_id.removeprefix("image"))]
        assert (batch.features[row].numpy() == sample.features[:4]).all()
        assert batch.divisor[row] == 4


def test_masks_do_not_depend_on_how_many_regions_others_have() -> None:
    small = FakeCorpus([make_example(n, ["ba be"], regions=3) for n in range(24)])
    mixed = FakeCorpus([make_example(n, ["ba be"], regions=3 if n else 9) for n in range(24)])
    left, right = rows_of(batches_of(small)), rows_of(batches_of(mixed))
    assert {row for row in left if row[0] != "image0"} == {row for row in right if row[0] != "image0"}


def assert_empty(batch: Batch, row: int) -> None:
    assert batch.input_ids[row, :2].tolist() == [TOKENIZER.cls_token_id, TOKENIZER.sep_token_id]
    assert int(batch.attention_mask[row].sum()) == 2
    assert batch.region_mask[row].tolist() == [1] + [0] * (batch.features.shape[1] - 1)
    assert not batch.features[row].any()
    assert {*batch.masked_lm_labels[row].tolist(), *batch.image_label[row].tolist()} == {-1}
    assert int(batch.next_sentence_label[row]) == -1
    assert batch.divisor[row] == 1


def test_rows_that_cannot_be_read_teach_nothing_and_are_counted() -> None:
    broken = frozenset(range(0, 60, 3))
    (batch,) = batches_of(FakeCorpus(SAMPLES, broken), region_mask=1.0, word_mask=1.0)
    empty = [row for row, image_id in enumerate(batch.image_ids) if not image_id]
    assert batch.unread == len(empty) > 0
    for row in empty:
        assert_empty(batch, row)
    whole = set(rows_of(batches_of(region_mask=1.0, word_mask=1.0, swap=0.0)))
    kept = rows_of(batches_of(FakeCorpus(SAMPLES, broken), region_mask=1.0, word_mask=1.0, swap=0.0))
    assert {row for row in kept if row[0]} == {r for r in whole if int(r[0].removeprefix("image")) not in broken}


def test_a_batch_of_which_nothing_can_be_read_is_still_a_batch() -> None:
    (batch,) = batches_of(FakeCorpus(SAMPLES, frozenset(range(60))))
    assert batch.unread == 24
    assert batch.counts(0, 4).tolist() == [0, 0, 0]


def test_rows_past_the_end_of_an_evaluation_are_empty_but_not_unread() -> None:
    (full,) = batches_of(step=2)
    (batch,) = batches_of(step=2, limit=58)
    assert batch.unread == 0
    assert sum(not image_id for image_id in batch.image_ids) == 14
    for row, image_id in enumerate(batch.image_ids):
        if not image_id:
            assert_empty(batch, row)
    assert {row for row in rows_of([batch]) if row[0]} < set(rows_of([full]))


def test_objective_1_learns_masks_on_matching_pairs_only() -> None:
    (plain,) = batches_of(word_mask=0.5, region_mask=0.5)
    (batch,) = batches_of(word_mask=0.5, region_mask=0.5, objective=1)
    wrong = batch.next_sentence_label == 1
    assert wrong.any()
    assert (batch.next_sentence_label == plain.next_sentence_label).all()
    for name in ("masked_lm_labels", "image_label"):
        assert (getattr(batch, name)[wrong] == -1).all()
        assert (getattr(batch, name)[~wrong] == getattr(plain, name)[~wrong]).all()
    assert (batch.input_ids == plain.input_ids).all()
    assert (batch.zeroed == plain.zeroed).all()


def test_objective_2_swaps_nothing_and_learns_no_alignment() -> None:
    (batch,) = batches_of(objective=2, swap=1.0)
    assert set(batch.next_sentence_label.tolist()) == {-1}
    for row, image_id in enumerate(batch.image_ids):
        own = [ids_of(text) for text in SAMPLES[int(image_id.removeprefix("image"))].captions]
        assert original_ids(batch, row) in own


def test_a_blind_row_has_its_own_words_and_another_images_regions() -> None:
    (seeing,), (blind,) = batches_of(swap=0.0), batches_of(swap=0.0, blind=True)
    assert (seeing.input_ids == blind.input_ids).all()
    assert all(left != right for left, right in zip(seeing.image_ids, blind.image_ids, strict=True))
    for row, image_id in enumerate(blind.image_ids):
        sample = SAMPLES[int(image_id.removeprefix("image"))]
        assert (blind.features[row, : len(sample.boxes)].numpy() == sample.features).all()


def test_counts_are_those_of_the_labels() -> None:
    (batch,) = batches_of(FakeCorpus([make_example(n, [] if n % 3 else ["ba be"]) for n in range(30)]), word_mask=1.0)
    words, regions, pairs = batch.counts(0, 4).tolist()
    assert words == (batch.masked_lm_labels >= 0).sum() > 0
    assert regions == (batch.image_label == 1).sum() > 0
    assert pairs == (batch.next_sentence_label >= 0).sum() > 0
    assert batch.counts(1, 4).tolist() == [words, 4 * regions, pairs]
    assert batch.counts(2, 4).tolist() == [words, regions, pairs]


def test_a_region_without_another_teaches_no_nce() -> None:
    corpus, share = FakeCorpus([make_example(0, ["ba"], regions=1)]), replace(ALONE, batch_size=1)
    (batch,) = batches_of(corpus, share=share, region_mask=1.0)
    assert [batch.counts(target, 4)[1].item() for target in (0, 1, 2)] == [1, 4, 0]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("max_tokens", 2),
        ("max_regions", 0),
        ("swap", 1.5),
        ("word_mask", -0.1),
        ("overlap_masking", "x"),
        ("objective", 3),
    ],
)
def test_settings_that_make_no_sense_are_refused(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"--{option.replace('_', '-')} {value}"):
        ItemSettings(**{option: value})


def test_samples_come_from_disk_as_they_were_stored(make_dataset: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_dataset(tmp_path / "data", samples=10, shard_size=4)
    corpus = Corpus.open([str(folder)], split=None)
    order = Order(corpus.shard_sizes, seed=1)
    share = Share(rank=0, world=1, accumulation=1, batch_size=10)
    (batch,) = make_batches(corpus, order, TOKENIZER, ItemSettings(), share, 0, seed=0)
    assert sorted(batch.image_ids) == [f"photo.{row:04}" for row in range(10)]
    stored = {example.image_id: example for example in corpus.read(order.at(np.arange(10))) if example}
    for row, image_id in enumerate(batch.image_ids):
        assert (batch.features[row].numpy() == stored[image_id].features).all()


def test_positions_are_found_where_they_are_asked_for() -> None:
    (without,) = batches_of()
    (batch,) = batches_of(with_positions=True)
    assert not without.positions
    words, masked = batch.masked_lm_labels >= 0, batch.image_label == 1
    assert len(batch.positions["labelled_words"]) == words.sum() > 0
    assert (words.flatten()[batch.positions["labelled_words"]]).all()
    assert len(batch.positions["masked_regions"]) == masked.sum() > 0
    assert (masked.flatten()[batch.positions["masked_regions"]]).all()
