"""Fine-tune a pre-trained model on region features and annotation files.

The run, its loop, order, checkpoints and launchers are those of pre-training (`vilbert.pipeline.train.run.run`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from vilbert.model.config import ViLBertConfig
from vilbert.model.tasks import ViLBertForTasks
from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.finetune.settings import (
    AnswerListFinetuneSettings,
    FinetuneSettings,
    GivenRegionsFinetuneSettings,
    NamedPeopleFinetuneSettings,
)
from vilbert.pipeline.finetune.start import (
    begin_with_prior,
    build_task_model,
    load_task_start,
    task_config,
    task_tokenizer,
)
from vilbert.pipeline.shards.canonical import encode_json
from vilbert.pipeline.tasks.batch import ItemBatch, ItemSource, make_item_batches
from vilbert.pipeline.tasks.join import Images, join
from vilbert.pipeline.tasks.known_answers import compare_answers, require_labels, require_same_order
from vilbert.pipeline.tasks.objective import TaskObjective
from vilbert.pipeline.tasks.registry import TaskFiles, open_task, task_token
from vilbert.pipeline.tasks.task import Task
from vilbert.pipeline.tasks.task_card import TaskCard, keep_task_cards, name_labels, write_task_cards
from vilbert.pipeline.tasks.vcr.files import load_names
from vilbert.pipeline.train.data.corpus import Corpus
from vilbert.pipeline.train.data.known_features import read_known_features
from vilbert.pipeline.train.data.loader import batches
from vilbert.pipeline.train.data.mixed_features import (
    OF_THE_DETECTOR_ALONE,
    check_known_features,
    refuse_mixed_features,
)
from vilbert.pipeline.train.data.order import Order
from vilbert.pipeline.train.data.verify_ahead import verified_files, verifying_ahead
from vilbert.pipeline.train.engine.distributed import Group
from vilbert.pipeline.train.engine.loop import Training
from vilbert.pipeline.train.engine.optimizer import build_optimizer
from vilbert.pipeline.train.engine.share import share_of
from vilbert.pipeline.train.run.folder import describe_run
from vilbert.pipeline.train.run.run import Stage, finish_run, train, wrap
from vilbert.pipeline.train.run.settings import identity
from vilbert.pipeline.train.run.shared_tokenizer import shared_tokenizer

_OF_OTHER_TASKS = {"names": None, "answers": None, "min_answer_count": 9, "answer_prior": False}
"""Values in run.json of settings that only some tasks have, for the other tasks."""


@dataclass(frozen=True, kw_only=True)
class TaskData:
    """A task's items, joined with region features."""

    train: ItemSource
    held_out: ItemSource | None
    """None if no split is evaluated."""


def finetune(settings: FinetuneSettings) -> int:
    """Fine-tune from the newest checkpoint, or from the start, to the end; run it in every process of a group."""
    return train(settings, begin)


def begin(settings: FinetuneSettings, group: Group) -> Stage:
    """Read annotations, open data sets and build the model; return the stage for the run."""
    task, held_out = open_items(settings)
    if settings.optimizer.head_learning_rate is not None and not task.head.startswith("vil_"):
        raise RefusedError(f"--head-learning-rate: {task.name} has no new head; --learning-rate sets its learning rate")
    tokenizer = shared_tokenizer(settings.output, group, lambda: task_tokenizer(settings, lambda: texts_of(task)))
    data = open_task_data(settings, tokenizer, task, held_out)
    cards = [card_of(settings, task, data.train.images.corpus.extractors)]
    if group.first:
        keep_task_cards(settings.output, cards)
    task.prepare_training(data.train, settings.output, group)
    training = prepare(settings, data, group)

    def load_start() -> None:
        assert isinstance(training.model, ViLBertForTasks)
        load_task_start(training.model, settings, data.train.images.corpus)
        if isinstance(settings, AnswerListFinetuneSettings) and settings.answer_prior:
            begin_with_prior(training.model, task)

    return Stage(training=training, load_start=load_start, finish=partial(finish_tasks, training, tokenizer, cards))


def open_items(settings: FinetuneSettings) -> tuple[Task, Task | None]:
    """Read a task's training items, and its evaluation items if there are any.

    Raises:
        RefusedError: Files are missing or damaged, or the answers of a classifier do not match the items.
    """
    task = open_split(settings, settings.split, like=None)
    require_labels(task, where=f"--split {settings.split}")
    require_same_order(task, settings.init_from)
    if isinstance(settings, AnswerListFinetuneSettings) and settings.answers is not None:
        where, of = f"{settings.annotations}, {settings.split}", f"--answers {settings.answers}"
        compare_answers(task, task.labels, where=where, of=of, learns=True)
    held_out = None
    if settings.eval_split != "none":
        try:
            held_out = open_split(settings, settings.eval_split, like=task)
        except RefusedError as error:
            hint = "choose another split with --eval-split, or none to evaluate on nothing"
            raise RefusedError(f"--eval-split {settings.eval_split}: {error}; {hint}") from None
        require_labels(held_out, where=f"--eval-split {settings.eval_split}")
    return task, held_out


def open_split(settings: FinetuneSettings, split: str, *, like: Task | None) -> Task:
    """Read a split of a task's annotations; `like` is the task with its training items, or None to read these."""
    files = TaskFiles(folder=settings.annotations, seed=settings.seed, names=names_of(settings))
    if isinstance(settings, AnswerListFinetuneSettings):
        files = replace(files, answers=settings.answers, least_answers=settings.min_answer_count)
    return open_task(settings.task, files, split, like=like)


def names_of(settings: FinetuneSettings) -> tuple[str, ...]:
    """Return the names of people in a file; an empty result without a file."""
    if isinstance(settings, NamedPeopleFinetuneSettings) and settings.names is not None:
        return load_names(settings.names)
    return ()


def given_data_of(settings: FinetuneSettings) -> tuple[str, ...]:
    """Return the data sets of regions at given boxes; none for a task without such boxes."""
    return settings.given_data if isinstance(settings, GivenRegionsFinetuneSettings) else ()


def card_of(settings: FinetuneSettings, task: Task, extractors: tuple[dict[str, Any], ...]) -> TaskCard:
    """Return the card of a task: its answers and input settings; `extractors` is that of `Corpus.extractors`."""
    return TaskCard(
        task=settings.task,
        labels=task.labels,
        max_words=settings.max_tokens,
        max_regions=settings.max_regions,
        seed=settings.seed,
        names=names_of(settings),
        given_boxes=bool(given_data_of(settings)),
        extractors=extractors,
    )


def texts_of(task: Task) -> Iterator[str]:
    """Yield every sentence of a task's items."""
    zero = np.uint64(0)
    for number in range(len(task.items)):
        for text in task.rows(number, zero).texts:
            yield from text


def open_task_data(
    settings: FinetuneSettings, tokenizer: PreTrainedTokenizerBase, task: Task, held_out: Task | None
) -> TaskData:
    """Join items with the data sets; raise RefusedError if too many have no features."""
    given_data = given_data_of(settings)
    given = Images(_open(settings, given_data)) if given_data else None
    images = Images(_open(settings, settings.data, settings.selection), also_in=given)
    if given is not None and not settings.allow_mixed_features:
        refuse_mixed_features((*images.corpus.sources, *given.corpus.sources), apart_from=OF_THE_DETECTOR_ALONE)
    check_known_features(
        read_known_features(settings.init_from),
        images.corpus.sources,
        model=f"--init-from {settings.init_from}",
        allow_mixed=settings.allow_mixed_features,
    )
    make = partial(_source, settings, tokenizer, images, given)
    return TaskData(
        train=make(task, training=True), held_out=make(held_out, training=False) if held_out is not None else None
    )


def _open(settings: FinetuneSettings, directories: tuple[str, ...], selections: tuple[Path, ...] = ()) -> Corpus:
    return Corpus.open(
        directories,
        split=None,
        on_corrupt=settings.on_corrupt,
        cache_dir=settings.cache or settings.output / "cache",
        cache_bytes=settings.cache_bytes,
        verified=verified_files(settings),
        allow_mixed=settings.allow_mixed_features,
        features=settings.features,
        selections=selections,
    )


def _source(
    settings: FinetuneSettings,
    tokenizer: PreTrainedTokenizerBase,
    images: Images,
    given: Images | None,
    task: Task,
    *,
    training: bool,
) -> ItemSource:
    what = f"{task.name}, {settings.split if training else settings.eval_split}"
    given = None if task.given_boxes == "unused" else given
    joined = join(task.items, task.images, images, what=what, most_missing=settings.max_missing_fraction, given=given)
    order = Order(joined.shard_sizes, seed=settings.seed, window=settings.window, shuffle=training)
    images.corpus.keep_open(order.most_shards())
    task.draw_from(images.number)
    return ItemSource(
        task=task,
        joined=joined,
        order=order,
        images=images,
        given=given,
        tokenizer=tokenizer,
        max_words=settings.max_tokens,
        max_regions=settings.max_regions,
        blind=settings.blind,
        seed=settings.seed,
    )


def finish_tasks(training: Training, tokenizer: PreTrainedTokenizerBase, cards: list[TaskCard]) -> None:
    """Write RUN/final with the cards of its tasks, RUN/evaluation.json and RUN/report.html."""
    found = training.evaluation
    evaluation = None if found is None else encode_json({"figures": found.figures()}, indent=2) + b"\n"
    name_labels(training.model.config, cards)
    finish_run(training, tokenizer, evaluation)
    write_task_cards(training.settings.output / "final", cards)


def prepare(settings: FinetuneSettings, data: TaskData, group: Group) -> Training:
    """Build the run before its first step."""
    source, held_out = data.train, data.held_out
    corpus = source.images.corpus
    config = task_config(settings, source.tokenizer, feature_dim=corpus.feature_dim, **source.task.head_sizes)
    model = build_task_model(config, settings.seed)
    torch.nn.Module.to(model, group.device)  # transformers' own has no types
    model.train()
    return Training(
        settings=settings,
        group=group,
        model=model,
        # Heads of other tasks and layers whose output the head does not read get no gradient.
        wrapped=wrap(model, settings, group, reads_all=False),
        optimizer=build_optimizer(model, settings.optimizer, from_bert=True),
        objective=objective_of(settings, data, config),
        locate=lambda step, wanted: source.images.describe(wanted),
        total_steps=settings.steps(source.order.epoch_size),
        epoch_size=source.order.epoch_size,
        train_batches=partial(train_batches, settings, source, group),
        eval_batches=partial(eval_batches, settings, held_out, group) if held_out else None,
        description=describe_run(
            {**task_identity(settings), "annotations": digest(source)},
            config.to_dict(),
            known_data(source),
            [{"items": digest(held_out)}] if held_out else [],
            extractors=corpus.extractors,
        ),
    )


def objective_of(settings: FinetuneSettings, data: TaskData, config: ViLBertConfig) -> TaskObjective:
    """Return the objective of a task for a model with this config."""
    return TaskObjective(
        task=data.train.task,
        held_out=data.held_out.task if data.held_out else None,
        task_token=task_token(settings.task) if config.task_specific_tokens else None,
        segments=config.type_vocab_size > 1,
        bfloat16=settings.precision == "bf16",
        seed=settings.seed,
    )


def task_identity(settings: FinetuneSettings) -> dict[str, Any]:
    """Return the settings that a resumed run must share; data sets of given boxes are compared by content.

    run.json contains settings that only some tasks have for every task, so that runs of any version can be resumed.
    """
    return {**_OF_OTHER_TASKS, **{name: value for name, value in identity(settings).items() if name != "given_data"}}


def known_data(source: ItemSource) -> list[dict[str, Any]]:
    """Return the fingerprints of the data sets, including those of regions at given boxes, which are marked."""
    given = source.given.corpus.fingerprints if source.given else []
    return [*source.images.corpus.fingerprints, *({**one, "given_boxes": True} for one in given)]


def digest(source: ItemSource) -> str:
    """Return a hash of the items with features, which a resumed run must match."""
    found = hashlib.sha256()
    for number in source.joined.kept.tolist():
        found.update(repr(source.task.items[number]).encode())
    return found.hexdigest()


def train_batches(
    settings: FinetuneSettings, source: ItemSource, group: Group, steps: range
) -> Generator[list[ItemBatch], None, None]:
    """Yield this rank's micro-batches of each step."""
    make = partial(make_item_batches, source, share_of(settings, group))
    made = batches(make, steps, num_workers=settings.num_workers, pin_memory=group.device.type == "cuda")
    return verifying_ahead(source.images.corpus, source.order, made, steps, batch_size=settings.batch_size)


def eval_batches(
    settings: FinetuneSettings, source: ItemSource, group: Group
) -> Generator[list[ItemBatch], None, None]:
    """Yield this rank's micro-batches of the held-out items, each item once over all ranks."""
    size = source.order.epoch_size
    make = partial(make_item_batches, source, share_of(settings, group), limit=size)
    steps = range(-(-size // settings.batch_size))
    return batches(make, steps, num_workers=settings.num_workers, pin_memory=group.device.type == "cuda")
