"""Fine-tune a pre-trained model on several tasks at once (12-in-1, Lu et al. 2020).

The run, its loop, checkpoints and launchers are those of a single task. Each step is a global batch of one task, taken
from that task's own stream, so the samples of a step depend only on the order of the tasks. The order changes only at
evaluations, where a task stops or resumes; the loop then requests the batches of the remaining steps again. Every
checkpoint contains the evaluations so far, so a resumed run has the same order.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from vilbert.model.config import ViLBertConfig
from vilbert.model.tasks import ViLBertForTasks
from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.finetune.multitask.items import open_all
from vilbert.pipeline.finetune.multitask.objective import MultitaskObjective, TaskBatch, of_task
from vilbert.pipeline.finetune.multitask.settings import MultitaskSettings, TaskEntry
from vilbert.pipeline.finetune.multitask.turn_taking import TurnTaking
from vilbert.pipeline.finetune.multitask.turns import Integers, steps_of_run
from vilbert.pipeline.finetune.run import (
    TaskData,
    card_of,
    digest,
    eval_batches,
    finish_tasks,
    known_data,
    objective_of,
    open_task_data,
    task_identity,
    texts_of,
)
from vilbert.pipeline.finetune.start import build_task_model, load_task_start, task_config, task_tokenizer
from vilbert.pipeline.tasks.batch import ItemSource, make_item_batches
from vilbert.pipeline.tasks.task_card import keep_task_cards
from vilbert.pipeline.train.data.loader import batches
from vilbert.pipeline.train.data.mixed_features import OF_THE_DETECTOR_ALONE, refuse_mixed_features
from vilbert.pipeline.train.engine.distributed import Group
from vilbert.pipeline.train.engine.loop import Training
from vilbert.pipeline.train.engine.optimizer import build_optimizer
from vilbert.pipeline.train.engine.share import Share, share_of
from vilbert.pipeline.train.run.folder import describe_run
from vilbert.pipeline.train.run.run import Stage, train, wrap
from vilbert.pipeline.train.run.settings import identity
from vilbert.pipeline.train.run.shared_tokenizer import shared_tokenizer


@dataclass(frozen=True, kw_only=True)
class Member:
    """One task of the run."""

    entry: TaskEntry
    """The task's entry in the file of tasks."""
    data: TaskData
    """Its items, joined with region features."""
    share: Share
    """This rank's share of its batches."""


def multitask(settings: MultitaskSettings) -> int:
    """Fine-tune from the newest checkpoint, or from the start, to the end; run it in every process of a group."""
    return train(settings, begin)


def begin(settings: MultitaskSettings, group: Group) -> Stage:
    """Read annotations, open data sets and build the model; return the stage for the run."""
    entries = settings.entries()
    opened = open_all(entries)
    tokenizer = shared_tokenizer(
        settings.output,
        group,
        lambda: task_tokenizer(settings, lambda: (text for task, _ in opened for text in texts_of(task))),
    )
    members = []
    for entry, (task, held_out) in zip(entries, opened, strict=True):
        data = open_task_data(entry.settings, tokenizer, task, held_out)
        data.train.task.prepare_training(data.train, entry.settings.output, group)
        members.append(Member(entry=entry, data=data, share=share_of(entry.settings, group)))
    cards = [card_of(it.entry.settings, it.data.train.task, it.data.train.images.corpus.extractors) for it in members]
    if group.first:
        keep_task_cards(settings.output, cards)
    training = prepare(settings, members, tokenizer, group)

    assert isinstance(training.model, ViLBertForTasks)
    # `whiten_features` uses the features of the first task: all come from one detector.
    start = partial(load_task_start, training.model, settings, members[0].data.train.images.corpus)
    return Stage(training=training, load_start=start, finish=partial(finish_tasks, training, tokenizer, cards))


def prepare(
    settings: MultitaskSettings, members: Sequence[Member], tokenizer: PreTrainedTokenizerBase, group: Group
) -> Training:
    """Build the run before its first step."""
    config = multitask_config(settings, members, tokenizer)
    model = build_task_model(config, settings.seed)
    torch.nn.Module.to(model, group.device)  # transformers' own has no types
    model.train()
    turn_taking = turns_of(settings, members)
    evaluated = any(one.data.held_out for one in members)
    return Training(
        settings=settings,
        group=group,
        model=model,
        wrapped=wrap(model, settings, group, reads_all=False),
        optimizer=build_optimizer(model, settings.optimizer, from_bert=True),
        objective=MultitaskObjective(
            tasks=tuple(objective_of(one.entry.settings, one.data, config) for one in members),
            weights=tuple(one.entry.loss_weight for one in members),
            seed=settings.seed,
        ),
        locate=lambda step, wanted: {
            name: place for one in members for name, place in one.data.train.images.describe(wanted).items()
        },
        total_steps=turn_taking.steps,
        train_batches=partial(train_batches, settings, members, turn_taking, group),
        eval_batches=partial(all_eval_batches, members, group) if evaluated else None,
        description=describe(settings, members, config.to_dict()),
        steering=turn_taking,
    )


def multitask_config(
    settings: MultitaskSettings, members: Sequence[Member], tokenizer: PreTrainedTokenizerBase
) -> ViLBertConfig:
    """Return the model's config with the heads of all tasks; raise RefusedError if their features are incompatible."""
    if not settings.allow_mixed_features:
        sources = [source for one in members for source in one.data.train.images.corpus.sources]
        refuse_mixed_features(sources, apart_from=OF_THE_DETECTOR_ALONE)
    widths = {one.entry.settings.task: one.data.train.images.corpus.feature_dim for one in members}
    if len(set(widths.values())) > 1:
        listed = ", ".join(f"{width} numbers in {name}" for name, width in widths.items())
        raise RefusedError(f"--tasks {settings.tasks}: features have {listed}; extract all with one detector")
    heads: dict[str, Any] = {key: size for one in members for key, size in one.data.train.task.head_sizes.items()}
    longest = replace(settings, max_tokens=max(one.entry.settings.max_tokens for one in members))
    width = next(iter(widths.values()))
    return task_config(longest, tokenizer, feature_dim=width, task_specific_tokens=settings.task_tokens, **heads)


def turns_of(settings: MultitaskSettings, members: Sequence[Member]) -> TurnTaking:
    """Return the order of the tasks before any evaluation."""
    by_size = settings.turns == "by-size"
    epochs = [one.data.train.order.epoch_size / one.entry.settings.batch_size for one in members]
    needed = [replace(one.entry.settings, max_steps=None).steps(one.data.train.order.epoch_size) for one in members]
    return TurnTaking(
        metrics=tuple(
            f"{one.data.train.task.name}_{one.data.train.task.metric}" if one.data.held_out else None for one in members
        ),
        weights=tuple(epochs) if by_size else (1.0,) * len(members),
        batch_sizes=tuple(one.entry.settings.batch_size for one in members),
        steps=settings.max_steps or steps_of_run(needed, by_size=by_size),
        rule=settings.plateau,
    )


def describe(settings: MultitaskSettings, members: Sequence[Member], model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of run.json: what a resumed run must match."""
    chosen = identity(settings)
    tasks = [
        {
            **{key: value for key, value in task_identity(one.entry.settings).items() if value != chosen.get(key)},
            "annotations": digest(one.data.train),
            "loss_weight": one.entry.loss_weight,
        }
        for one in members
    ]
    del chosen["annotations"]
    # Stop-and-go decides at evaluations, so their interval affects training.
    often = {"eval_every": settings.eval_every} if settings.plateau.stop_and_go else {}
    fingerprints = {str(it): it for one in members for it in known_data(one.data.train)}
    held_out = [{"items": digest(one.data.held_out)} for one in members if one.data.held_out]
    extractors = {str(way): way for one in members for way in one.data.train.images.corpus.extractors}
    return describe_run(
        {**chosen, **often, "tasks": tasks},
        dict(model),
        list(fingerprints.values()),
        held_out,
        extractors=list(extractors.values()),
    )


def train_batches(
    settings: MultitaskSettings, members: Sequence[Member], turn_taking: TurnTaking, group: Group, steps: range
) -> Generator[list[TaskBatch], None, None]:
    """Yield this rank's micro-batches of each step, with the order of tasks at the time of the call."""
    turns, own = turn_taking.plan()
    sources = [(one.data.train, one.share) for one in members]
    make = partial(make_turn, sources, turns, own)
    return batches(make, steps, num_workers=settings.num_workers, pin_memory=group.device.type == "cuda")


def make_turn(
    sources: Sequence[tuple[ItemSource, Share]], turns: Integers, own: Integers, step: int
) -> list[TaskBatch]:
    """Build a rank's micro-batches of a step: the next ones of the step's task."""
    task = int(turns[step])
    return [of_task(part, task) for part in make_item_batches(*sources[task], int(own[step]))]


def all_eval_batches(members: Sequence[Member], group: Group) -> Generator[list[TaskBatch], None, None]:
    """Yield this rank's micro-batches of the held-out items, task by task."""
    for task, one in enumerate(members):
        if one.data.held_out is not None:
            with closing(eval_batches(one.entry.settings, one.data.held_out, group)) as batches_of_task:
                for parts in batches_of_task:
                    yield [of_task(part, task) for part in parts]
