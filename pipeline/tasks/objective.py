"""The objective of fine-tuning: the loss of one task, and its metric on held-out items.

Shapes: I items, O options, N = I x O rows, C distinct images, R regions without the global one, T tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vilbert.model.outputs import ViLBertForTasksOutput
from vilbert.model.tasks import ViLBertForTasks
from vilbert.pipeline.tasks.batch import PAST_THE_END, ItemBatch
from vilbert.pipeline.tasks.task import Task
from vilbert.pipeline.train.data.feature_rows import features_on
from vilbert.pipeline.train.engine.distributed import Group
from vilbert.pipeline.train.examples.inputs import GLOBAL_LOCATION


@dataclass(frozen=True, kw_only=True)
class TaskEvaluation:
    """The predictions of a model for a split, and its metrics."""

    answers: Mapping[int, Any]
    """Predictions by index of the item."""
    metrics: Mapping[str, float]
    """Metrics of the task."""
    loss: float | None
    """Mean loss; None if no item has a label."""
    unread: int
    """Number of items that could not be read."""

    def figures(self) -> dict[str, float]:
        """Return loss and metrics by name, without those that could not be computed."""
        loss = {} if self.loss is None else {"loss": self.loss}
        return {**loss, **self.metrics, "unread": self.unread}


def to_inputs(part: ItemBatch, device: torch.device, *, causal: bool) -> dict[str, Tensor]:
    """Return the arguments of `ViLBertForTasks.forward` for both streams, on `device`.

    image_feat, float32 [N, R + 1, D], and the other image tensors start with the global region. attention_mask is [N,
    T, T] if `causal`: a token attends to itself and to previous tokens, and regions attend to what every token sees.
    """
    images = with_whole_image(
        features_on(device, part.features, part.feature_scales),
        *(value.to(device, non_blocking=True) for value in (part.weights, part.locations, part.region_mask)),
    )
    image_of = part.image_of.to(device, non_blocking=True)
    words = part.attention_mask.to(device, non_blocking=True)
    if causal:
        longest = words.shape[1]
        words = words[:, None] * torch.ones(longest, longest, dtype=words.dtype, device=device).tril()
    return {
        "input_ids": part.input_ids.to(device, non_blocking=True),
        "token_type_ids": part.segments.to(device, non_blocking=True),
        "attention_mask": words,
        "image_feat": images.features[image_of],
        "image_loc": images.locations[image_of],
        "image_attention_mask": images.mask[image_of],
    }


class WithWholeImage(NamedTuple):
    """Regions of images as the model takes them: the first is the whole image."""

    features: Tensor
    """float32 [C, R + 1, D]."""
    locations: Tensor
    """float32 [C, R + 1, 5]."""
    mask: Tensor
    """int64 [C, R + 1]."""


def with_whole_image(features: Tensor, weights: Tensor, locations: Tensor, mask: Tensor) -> WithWholeImage:
    """Put the whole image before the regions; its feature is their mean by weight.

    Args:
        features: [C, R, D].
        weights: float32 [C, R], see `ItemBatch`.
        locations: float32 [C, R, 5].
        mask: int64 [C, R].
    """
    features = features.float()
    whole = torch.einsum("cr,crd->cd", weights, features)
    location = locations.new_tensor(GLOBAL_LOCATION).expand(len(locations), 1, -1)
    return WithWholeImage(
        torch.cat([whole[:, None], features], dim=1),
        torch.cat([location, locations], dim=1),
        torch.cat([torch.ones_like(mask[:, :1]), mask], dim=1),
    )


@dataclass(frozen=True, kw_only=True)
class TaskObjective:
    """The loss of one task, and its evaluation."""

    task: Task
    """The task with the training items."""
    held_out: Task | None
    """The task with the evaluation items."""
    task_token: int | None
    """Row of the task embedding, if the model has one."""
    segments: bool
    """Whether the model uses segment embeddings; RoBERTa does not."""
    bfloat16: bool
    """Whether the model runs under autocast."""
    seed: int
    """Seed of dropout."""
    capturable: bool = False
    """False: the GPU determines which positions are computed, and the CPU waits for the result."""

    @property
    def stage(self) -> str:
        """The command and the task."""
        return f"finetune {self.task.name}"

    @property
    def parts(self) -> tuple[str, ...]:
        """The task's name."""
        return (self.task.name,)

    def counts(self, part: ItemBatch) -> Tensor:
        """Return the divisor of the loss, int64 [1]."""
        return torch.tensor([part.count])

    def sums(self, model: nn.Module, part: ItemBatch, device: torch.device, seed: int) -> Tensor:
        """Return the summed loss, float32 [1]."""
        output = self.run(model, part, device, self.task)
        return self.task.loss(output, on(part.targets, device))[None]

    def run(self, model: nn.Module, part: ItemBatch, device: torch.device, task: Task) -> ViLBertForTasksOutput:
        """Return the output of the task's head; the last layers compute only the positions that the head reads."""
        inputs = to_inputs(part, device, causal=task.causal)
        if not self.segments:
            del inputs["token_type_ids"]
        if self.task_token is not None:
            inputs["task_ids"] = torch.full((len(part.input_ids), 1), self.task_token, device=device)
        regions = inputs["image_attention_mask"].bool()
        inputs["wanted_regions"] = regions if task.head == "vision_logit" else torch.zeros_like(regions)
        if not task.causal:
            rows, words = part.input_ids.shape
            wide = words + (self.task_token is not None)
            inputs["wanted_words"] = torch.zeros(rows, wide, dtype=torch.bool, device=device)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bfloat16):
            output: ViLBertForTasksOutput = model(**inputs, heads=(task.head,))
        return output

    def evaluate(self, model: ViLBertForTasks, batches: Iterable[list[ItemBatch]], group: Group) -> TaskEvaluation:
        """Evaluate the model on the items of all ranks' batches."""
        assert self.held_out is not None
        return evaluate(self, self.held_out, model, batches, group)

    def badness(self, figures: Mapping[str, float]) -> float:
        """Return the negated main metric; NaN if it could not be computed."""
        return -figures.get(self.task.metric, math.nan)


def on(targets: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Copy targets to a device."""
    return {name: value.to(device, non_blocking=True) for name, value in targets.items()}


@torch.no_grad()
def evaluate(
    objective: TaskObjective,
    task: Task,
    model: ViLBertForTasks,
    batches: Iterable[list[ItemBatch]],
    group: Group,
) -> TaskEvaluation:
    """Evaluate the model on the items of `task`, in evaluation mode; the result is the same on every rank."""
    answers: dict[int, Any] = {}
    totals = torch.zeros(3, dtype=torch.float64)
    was_training = model.training
    model.train(False)
    try:
        for part in (part for parts in batches for part in parts):
            output = objective.run(model, part, group.device, task)
            targets = on(part.targets, group.device)
            totals += torch.tensor([float(task.loss(output, targets)), part.count, part.unread])
            answered = zip(part.numbers, task.answers(output, targets), strict=True)
            answers |= {number: answer for number, answer in answered if number != PAST_THE_END}
    finally:
        model.train(was_training)
    joined: dict[int, Any] = {}
    for of_rank in group.gather(answers):
        joined |= of_rank
    loss, count, unread = group.sum(totals).tolist()
    return TaskEvaluation(
        answers=joined, metrics=task.figures(joined), loss=loss / count if count else None, unread=int(unread)
    )
