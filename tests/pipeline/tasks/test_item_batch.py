"""A batch of items: the same whoever makes it, and nothing learnt from what is not there."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from vilbert.pipeline.tasks.batch import PAST_THE_END, ItemBatch, ItemSource, make_item_batches
from vilbert.pipeline.tasks.captioned_images import read_captioned_images
from vilbert.pipeline.tasks.captioning.task import CaptioningTask
from vilbert.pipeline.tasks.images import mean_weights
from vilbert.pipeline.tasks.join import Images, join
from vilbert.pipeline.tasks.refer.files import read_refer
from vilbert.pipeline.tasks.refer.task import ReferTask
from vilbert.pipeline.tasks.registry import TaskFiles, open_task
from vilbert.pipeline.tasks.retrieval.task import RetrievalTask
from vilbert.pipeline.tasks.task import Task
from vilbert.pipeline.tasks.vcr.task import VcrTask
from vilbert.pipeline.train.data.corpus import Corpus
from vilbert.pipeline.train.data.order import Order
from vilbert.pipeline.train.engine.share import Share
from vilbert.pipeline.train.examples.words import new_tokenizer

from .small_tasks import THINGS

TOKENIZER = new_tokenizer([f"a {' '.join(THINGS)} and what is there ?"])


def source_of(features: Path, task: Task, *, on_corrupt: str = "stop") -> ItemSource:
    corpus = Corpus.open([str(features)], split=None, on_corrupt=on_corrupt)  # type: ignore[arg-type]
    images = Images(corpus)
    joined = join(task.items, task.images, images, what=task.name, most_missing=0.5)
    return ItemSource(
        task=task, joined=joined, order=Order(joined.shard_sizes, seed=2), images=images, given=None,
        tokenizer=TOKENIZER, max_words=16, max_regions=8, blind=False, seed=5,
    )  # fmt: skip


def share(rank: int = 0, world: int = 1, accumulation: int = 1, size: int = 12) -> Share:
    return Share(rank=rank, world=world, accumulation=accumulation, batch_size=size)


def rows_by_item(parts: Sequence[ItemBatch], options: int) -> dict[int, list[tuple[bytes, ...]]]:
    """Return what each item's rows are made of, without padding."""
    found: dict[int, list[tuple[bytes, ...]]] = {}
    for part in parts:
        for at, number in enumerate(part.numbers):
            rows = []
            for row in range(at * options, (at + 1) * options):
                words, image = int(part.attention_mask[row].sum()), int(part.image_of[row])
                regions = int(part.region_mask[image].sum())
                rows.append((
                    part.input_ids[row, :words].numpy().tobytes(), part.features[image, :regions].numpy().tobytes(),
                    part.locations[image, :regions].numpy().tobytes(), part.weights[image, :regions].numpy().tobytes(),
                ))  # fmt: skip
            found[number] = rows
    return found


@pytest.fixture(scope="module")
def vcr(small: Path) -> ItemSource:
    task = open_task("vcr-qa", TaskFiles(folder=small / "vcr", seed=1), "train", like=None)
    return source_of(small / "features", task)


@pytest.mark.parametrize(("world", "accumulation"), [(2, 1), (3, 2), (1, 4)])
def test_items_are_the_same_under_any_number_of_ranks_and_parts(vcr: ItemSource, world: int, accumulation: int) -> None:
    whole = make_item_batches(vcr, share(), 3)
    parts = [part for rank in range(world) for part in make_item_batches(vcr, share(rank, world, accumulation), 3)]
    assert rows_by_item(parts, 4) == rows_by_item(whole, 4)
    assert sum(part.count for part in parts) == whole[0].count == 12


def test_an_image_that_four_rows_show_is_there_once(vcr: ItemSource) -> None:
    (batch,) = make_item_batches(vcr, share(), 0)
    assert len(batch.input_ids) == 48
    assert len(batch.features) == len(batch.image_ids) <= 12
    assert batch.image_of.view(12, 4).eq(batch.image_of.view(12, 4)[:, :1]).all()


def test_past_the_end_there_is_nothing_to_learn_and_no_rank_is_without_a_row(vcr: ItemSource) -> None:
    size = vcr.order.epoch_size
    step = size // 12
    parts = [part for rank in range(3) for part in make_item_batches(vcr, share(rank, 3), step + 1, limit=size)]
    assert [len(part.numbers) > 0 for part in parts] == [True] * 3
    assert all(number == PAST_THE_END for part in parts for number in part.numbers)
    assert sum(part.count for part in parts) == sum(part.unread for part in parts) == 0
    seen = [
        number
        for at in range(step + 1)
        for part in make_item_batches(vcr, share(), at, limit=size)
        for number in part.numbers
        if number != PAST_THE_END
    ]
    assert sorted(seen) == list(range(len(vcr.task.items)))


def test_items_of_a_corrupt_shard_are_counted_and_teach_nothing(small: Path, tmp_path: Path) -> None:
    features = Path(shutil.copytree(small / "features", tmp_path / "features"))
    task = ReferTask("refcocog", read_refer(small / "refer", "train"), given_boxes="unused")
    source = source_of(features, task, on_corrupt="skip")
    source.images.corpus.close()
    (features / "shards" / "000001.tar").unlink()
    made = [part for step in range(20) for part in make_item_batches(source, share(), step)]
    unread = sum(part.unread for part in made)
    assert 0 < unread < 20 * 12
    assert sum(part.count for part in made) == 20 * 12 - unread
    for part in made:
        lost = [at for at, number in enumerate(part.numbers) if number == PAST_THE_END]
        assert (part.targets["counts"][lost] == 0).all()
        assert (part.targets["overlap"][lost] == 0).all()


def test_next_words_are_the_words_behind_each(small: Path) -> None:
    task = CaptioningTask("captioning", read_captioned_images(small / "captions", "train"))
    (batch,) = make_item_batches(source_of(small / "features", task), share(), 0)
    words = batch.targets["next_words"]
    lengths = batch.attention_mask.sum(1)
    for row, length in enumerate(lengths.tolist()):
        assert words[row, : length - 1].tolist() == batch.input_ids[row, 1:length].tolist()
        assert (words[row, length - 1 :] == -1).all()
    assert batch.count == int((lengths - 1).sum())


def test_what_an_expression_means_overlaps_wholly(small: Path) -> None:
    task = ReferTask("refcocog", read_refer(small / "refer", "train"), given_boxes="unused")
    (batch,) = make_item_batches(source_of(small / "features", task), share(), 0)
    overlap = batch.targets["overlap"]
    assert overlap.shape == (12, 4)  # the whole image first
    assert (overlap[:, 0] == 0).all()
    assert ((overlap == 1).sum(1) == 1).all()


def test_negatives_are_of_other_images_and_hard_ones_of_near_images(small: Path) -> None:
    task = RetrievalTask("retrieval", read_captioned_images(small / "captions", "train"))
    captions = {image.image_id: image.captions[0] for image in task.captioned}
    near = np.roll(np.arange(len(task.captioned)), 1)
    hard = type("Hard", (), {"image_ids": tuple(captions), "nearest": near[:, None].astype(np.int32)})
    task.learn_from(hard)  # type: ignore[arg-type]
    for number in range(50):
        own = task.items[number]
        row = task.rows(number, np.uint64(number * 977))
        assert row.texts[0] == row.texts[2] == (own.text,)
        assert row.images[0] == row.images[1] == row.images[3] == own.image_id != row.images[2]
        at = list(captions).index(own.image_id)
        assert row.texts[3] == (captions[task.captioned[at - 1].image_id],)
        assert row == task.rows(number, np.uint64(number * 977))
    assert task.rows(0, np.uint64(1)) != task.rows(0, np.uint64(2))


def test_reasons_are_asked_for_with_every_answer_where_the_right_one_is_secret(small: Path) -> None:
    task = open_task("vcr-qar", TaskFiles(folder=small / "vcr", seed=1), "val", like=None)
    assert isinstance(task, VcrTask)
    known = len(task.items)
    secret = VcrTask("vcr-qar", [_without_labels(item.question) for item in task.items])
    assert len(secret.items) == 4 * known
    questions, answers, reasons = zip(*(secret.rows(number, np.uint64(0)).texts[0] for number in range(4)), strict=True)
    assert set(questions) == {"What is there ?"}
    assert answers == secret.items[0].question.answers
    assert set(reasons) == {secret.items[0].question.rationales[0]}


def _without_labels(question: object) -> object:
    from dataclasses import replace

    return replace(question, answer_label=None, rationale_label=None)  # type: ignore[type-var]


@pytest.mark.parametrize(("detected", "given"), [(5, 0), (5, 3), (1, 1)])
def test_the_whole_image_is_the_mean_of_what_was_detected(detected: int, given: int) -> None:
    """`refer_expression_dataset.py` of vilbert_beta keeps row 0 of the detector's features beside given boxes."""
    assert mean_weights(detected, given).tolist() == pytest.approx([1 / detected] * detected + [0] * given)


@pytest.mark.parametrize(("detected", "given"), [(5, 0), (5, 3), (1, 1), (0, 2)])
def test_the_whole_image_of_vcr_weighs_both_means_as_published(detected: int, given: int) -> None:
    """(f n + g m) / (n + m), where n and m count the regions and the mean itself."""
    features = torch.randn(detected + given, 6, generator=torch.Generator().manual_seed(0))
    found = torch.from_numpy(mean_weights(detected, given, averaged=True))
    parts = [part for part in (features[:detected], features[detected:]) if len(part)]
    sizes = [len(part) + 1 for part in parts]
    expected = sum(part.mean(0) * size for part, size in zip(parts, sizes, strict=True)) / sum(sizes)
    torch.testing.assert_close(found @ features, expected)
