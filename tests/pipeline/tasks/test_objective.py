"""The objective between batches and model: what goes in, what is summed, what an evaluation counts, and no leak."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from vilbert.model.config import ViLBertConfig
from vilbert.model.tasks import ViLBertForTasks
from vilbert.pipeline.tasks.batch import PAST_THE_END, ItemBatch, ItemSource, make_item_batches
from vilbert.pipeline.tasks.join import Images, join
from vilbert.pipeline.tasks.objective import TaskObjective, evaluate, to_inputs
from vilbert.pipeline.tasks.registry import TaskFiles, open_task
from vilbert.pipeline.tasks.task import Task
from vilbert.pipeline.train.data.corpus import Corpus
from vilbert.pipeline.train.data.order import Order
from vilbert.pipeline.train.engine.distributed import Group
from vilbert.pipeline.train.engine.share import Share
from vilbert.pipeline.train.examples.words import new_tokenizer

from .small_tasks import CHANNELS, FOLDERS, MODEL, THINGS

TOKENIZER = new_tokenizer([f"a {' '.join(THINGS)} and is there what in both ?"])
CPU = torch.device("cpu")
ALONE = Group(rank=0, world=1, device=CPU)


def source_of(small: Path, task: Task) -> ItemSource:
    images = Images(Corpus.open([str(small / ("pairs" if task.name == "nlvr2" else "features"))], split=None))
    joined = join(task.items, task.images, images, what=task.name, most_missing=0)
    return ItemSource(
        task=task, joined=joined, order=Order(joined.shard_sizes, seed=2), images=images, given=None,
        tokenizer=TOKENIZER, max_words=16, max_regions=8, blind=False, seed=5,
    )  # fmt: skip


def opened(small: Path, task: str) -> ItemSource:
    files = TaskFiles(folder=small / FOLDERS[task], seed=1, least_answers=1)
    return source_of(small, open_task(task, files, "val", like=None))


def batch_of(source: ItemSource, *, step: int = 0, size: int = 6, parts: int = 1) -> list[ItemBatch]:
    share = Share(rank=0, world=1, accumulation=parts, batch_size=size)
    return make_item_batches(source, share, step, limit=source.order.epoch_size)


def objective_of(source: ItemSource, **changes: Any) -> TaskObjective:
    whole = {"task": source.task, "held_out": source.task, "task_token": None, "segments": True, "bfloat16": False}
    return TaskObjective(**{**whole, "seed": 1, **changes})


def model_of(source: ItemSource, **changes: Any) -> ViLBertForTasks:
    torch.manual_seed(3)
    sizes = {"vocab_size": len(TOKENIZER), "v_feature_size": CHANNELS, "task_heads": "multitask"}
    return ViLBertForTasks(ViLBertConfig(**{**MODEL, **sizes, **source.task.head_sizes, **changes})).train(False)


@pytest.fixture(scope="module")
def captions(small: Path) -> ItemSource:
    return opened(small, "captioning")


@pytest.fixture(scope="module")
def questions(small: Path) -> ItemSource:
    return opened(small, "vqa")


def test_every_row_has_its_images_regions_behind_the_whole_image(small: Path) -> None:
    (part,) = batch_of(opened(small, "nlvr2"))
    inputs = to_inputs(part, CPU, causal=False)
    assert len(part.image_of) == 12
    for row, image in enumerate(part.image_of.tolist()):
        features = part.features[image].float()
        torch.testing.assert_close(inputs["image_feat"][row, 1:], features)
        torch.testing.assert_close(inputs["image_feat"][row, 0], part.weights[image] @ features)
        assert inputs["image_loc"][row, 0].tolist() == [0, 0, 1, 1, 1]
        assert torch.equal(inputs["image_loc"][row, 1:], part.locations[image])
        assert inputs["image_attention_mask"][row].tolist() == [1, *part.region_mask[image].tolist()]


def test_a_causal_word_sees_itself_and_those_before_it_and_no_padding(captions: ItemSource) -> None:
    (part,) = batch_of(captions)
    short = part.attention_mask.clone()
    short[0, 4:] = 0
    mask = to_inputs(replace(part, attention_mask=short), CPU, causal=True)["attention_mask"]
    assert mask.shape == (6, part.input_ids.shape[1], part.input_ids.shape[1])
    for row in range(6):
        for at in range(mask.shape[1]):
            assert mask[row, at].tolist() == [int(to <= at and bool(short[row, to])) for to in range(mask.shape[2])]


@pytest.mark.parametrize("task", ["vqa", "vcr-qa", "refcocog", "captioning", "nlvr2", "snli-ve", "retrieval", "gqa"])
def test_sums_of_parts_add_up_to_that_of_the_whole(small: Path, task: str) -> None:
    source = opened(small, task)
    objective, model = objective_of(source), model_of(source)
    (whole,) = batch_of(source)
    parts = batch_of(source, parts=3)
    assert len(parts) == 3
    assert sum(int(objective.counts(part)) for part in parts) == int(objective.counts(whole)) > 0
    total = objective.sums(model, whole, CPU, 0).detach()
    assert total.shape == (1,)
    assert float(total) > 0
    torch.testing.assert_close(sum(objective.sums(model, part, CPU, 0).detach() for part in parts), total)
    assert objective.parts == (task,)


def without_later_labels(part: ItemBatch, after: int) -> ItemBatch:
    """Return the batch with the labels of the positions from `after` on taken out."""
    words = part.targets["next_words"].clone()
    words[:, after:] = -1
    return replace(part, targets={**part.targets, "next_words": words})


@pytest.mark.parametrize("at", [0, 1, 3])
def test_no_later_word_changes_an_earlier_loss(captions: ItemSource, at: int) -> None:
    """Not through the text, and not through the regions, which look at words in the connection layers."""
    objective, model = objective_of(captions), model_of(captions)
    (part,) = batch_of(captions)
    part = without_later_labels(part, at + 1)
    before = objective.sums(model, part, CPU, 0)
    for later in range(at + 1, part.input_ids.shape[1]):
        ids = part.input_ids.clone()
        ids[:, later] = (ids[:, later] + 5) % len(TOKENIZER)
        torch.testing.assert_close(
            objective.sums(model, replace(part, input_ids=ids), CPU, 0), before, rtol=1e-6, atol=0
        )
    ids = part.input_ids.clone()
    ids[:, at] = (ids[:, at] + 5) % len(TOKENIZER)
    changed = objective.sums(model, replace(part, input_ids=ids), CPU, 0)
    assert abs(float(changed - before)) > 1e-3 * float(before)


def test_no_later_word_has_a_gradient_of_an_earlier_loss(captions: ItemSource) -> None:
    objective, model = objective_of(captions), model_of(captions)
    (part,) = batch_of(captions)
    seen: list[Tensor] = []

    def keep(module: object, args: object, output: Tensor) -> None:
        output.retain_grad()
        seen.append(output)

    handle = model.bert.embeddings.word_embeddings.register_forward_hook(keep)
    for at in range(4):
        objective.sums(model, without_later_labels(part, at + 1), CPU, 0).backward()
        gradient = seen.pop().grad
        assert gradient is not None
        assert (gradient[:, at + 1 :] == 0).all()
        assert (gradient[:, : at + 1].abs().amax((0, 2)) > 0).all()
    handle.remove()


def test_a_task_that_is_not_causal_sees_later_words(questions: ItemSource) -> None:
    objective, model = objective_of(questions), model_of(questions)
    (part,) = batch_of(questions)
    ids = part.input_ids.clone()
    ids[:, 3] = (ids[:, 3] + 5) % len(TOKENIZER)
    first, second = (objective.sums(model, it, CPU, 0) for it in (part, replace(part, input_ids=ids)))
    assert abs(float(first - second)) > 1e-3 * float(first)


class Recorder(torch.nn.Module):
    """Stands for a model, and keeps what it is called with."""

    def __init__(self, model: ViLBertForTasks) -> None:
        super().__init__()
        self.model = model
        self.arguments: dict[str, Any] = {}

    def forward(self, **arguments: Any) -> Any:
        self.arguments = arguments
        return self.model(**arguments)


def test_the_task_token_and_segments_are_given_to_models_that_know_them(questions: ItemSource) -> None:
    (part,) = batch_of(questions)
    plain, tokens = Recorder(model_of(questions)), Recorder(model_of(questions, task_specific_tokens=True))
    objective_of(questions, segments=False).sums(plain, part, CPU, 0)
    assert not {"token_type_ids", "task_ids"} & plain.arguments.keys()
    assert plain.arguments["heads"] == ("vil_prediction",)
    objective_of(questions, task_token=1).sums(tokens, part, CPU, 0)
    assert tokens.arguments["task_ids"].tolist() == [[1]] * 6
    assert torch.equal(tokens.arguments["token_type_ids"], part.segments)


def test_what_the_head_does_not_read_is_not_computed_and_changes_nothing(small: Path) -> None:
    for task in ("vqa", "refcocog"):
        source = opened(small, task)
        recorder, objective = Recorder(model_of(source)), objective_of(source)
        (part,) = batch_of(source)
        lean = objective.sums(recorder, part, CPU, 0)
        assert not recorder.arguments["wanted_words"].any()
        read = recorder.arguments["image_attention_mask"] if task == "refcocog" else torch.zeros(1)
        assert (recorder.arguments["wanted_regions"] == read.bool()).all()
        whole = {name: it for name, it in recorder.arguments.items() if not name.startswith("wanted")}
        torch.testing.assert_close(source.task.loss(recorder.model(**whole), part.targets)[None], lean)


def test_an_evaluation_answers_each_item_once_and_leaves_the_model_as_it_was(questions: ItemSource) -> None:
    objective, model = objective_of(questions), model_of(questions)
    model.train(True)
    few = [batch_of(questions, step=step, size=130) for step in range(3)]  # the last one is not full
    assert any(PAST_THE_END in part.numbers for parts in few for part in parts)
    found = objective.evaluate(model, few, ALONE)
    assert model.training
    assert sorted(found.answers) == list(range(len(questions.task.items)))
    assert found.metrics == questions.task.figures(found.answers)
    model.train(False)
    loss = sum(float(objective.sums(model, part, CPU, 0).detach()) for parts in few for part in parts)
    assert found.loss == pytest.approx(loss / len(questions.task.items), rel=1e-5)
    assert found.figures() == {"loss": found.loss, **found.metrics, "unread": 0}
    assert objective.badness(found.figures()) == -found.metrics["accuracy"]


def test_an_evaluation_counts_what_cannot_be_read(questions: ItemSource) -> None:
    (part,) = batch_of(questions)
    lost = replace(part, unread=2, numbers=(PAST_THE_END, *part.numbers[1:]))
    objective = objective_of(questions)
    found = evaluate(objective, questions.task, model_of(questions), [[lost]], ALONE)
    assert found.unread == 2
    assert sorted(found.answers) == sorted(part.numbers[1:])
