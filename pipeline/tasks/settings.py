"""The settings of `vilbert finetune`, the same for every task."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from vilbert.pipeline.tasks.options import only_for
from vilbert.pipeline.tasks.registry import TASKS, TaskSpec, find_task
from vilbert.pipeline.train.init_from import resolve_init_from
from vilbert.pipeline.train.optimizer_settings import OptimizerSettings
from vilbert.pipeline.train.run_settings import RunSettings


def has_given_boxes(task: TaskSpec) -> bool:
    """Return whether a task shows regions at given boxes."""
    return task.given_boxes != "unused"


def collects_answers(task: TaskSpec) -> bool:
    """Return whether a task's answers are collected from training."""
    return task.labels_setting is not None


@dataclass(frozen=True, kw_only=True)
class TaskOptimizerSettings(OptimizerSettings):
    """AdamW in groups of parameters (Loshchilov and Hutter, ICLR 2019)."""

    text_learning_rate_factor: float = 1.0
    """Share of the rate for parameters that came from BERT (embeddings and layers of the text stream). The published
    fine-tuning has one rate for them and the others, but for new heads."""


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings(RunSettings):
    """Fine-tune a pre-trained ViLBERT on a task, from region features and the task's annotation files.

    Each task has its published settings by default. Run the same command again after any interruption: it goes on from
    its newest whole checkpoint as if nothing had happened. Start it plainly, by torchrun, or with --workers under Ray.
    """

    task: str
    """The task, which the command line names first."""
    annotations: Path
    """The folder of the task's annotation files, under their published names; docs/tasks.md lists them."""
    split: str = "train"
    """Which part of the annotations trains."""
    eval_split: str = "val"
    """Which part is held out to evaluate on, or `none`."""
    given_data: tuple[str, ...] = field(default=(), metadata=only_for(has_given_boxes))
    """Data sets of the same images with regions at given boxes, which are shown beside the detector's."""
    names: Path | None = field(default=None, metadata=only_for(lambda task: task.takes_names))
    """A CSV file whose column `name` has what people are called, such as ViLBERT's unisex_names_table.csv; by default
    r2c's fourteen names. Evaluate with the same."""
    init_from: str
    """Where parameters begin: a run of `vilbert pretrain` or its final/, a ViLBERT checkpoint of any known layout, or
    `none`."""
    model: str | None = None
    """A published configuration by name, `shapes`, or a config.json; by default the config.json beside --init-from."""
    tokenizer: str | None = None
    """A tokenizer's folder or hub name, or `new`: whole words of the training texts; by default that of --init-from."""
    task_heads: Literal["beta", "multitask"] = "multitask"
    """Whose classifiers: those of vilbert_beta or of vilbert-multi-task."""
    max_words: int = 36
    """Word pieces of a text, with its special tokens; what is longer loses its end."""
    max_regions: int = 100
    """Regions of an image without the global one: given boxes, then the first that the detector gave."""
    most_missing: float = 0.01
    """Share of the annotations whose images may have no features; they are left out and counted."""
    blind: bool = False
    """Show another image's regions: what is then learnt comes from the text alone."""
    whiten_features: bool = False
    """With --init-from none: begin with an embedding of regions that takes out the features' mean and covariance."""
    answers: Path | None = field(default=None, metadata=only_for(collects_answers))
    """A published list of answers, in the order of a published model's classifier; by default the answers that occur
    often enough are collected from the training annotations."""
    least_answers: int = field(default=9, metadata=only_for(collects_answers))
    """How often an answer must occur to be learnt."""
    answer_prior: bool = field(default=False, metadata=only_for(collects_answers))
    """Begin a new classifier with the shares of the answers in training as its biases. From zero, the first steps at a
    high rate push all answers down at once, which can throw a small model off for good."""
    optimizer: TaskOptimizerSettings = field(default_factory=TaskOptimizerSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "init_from", resolve_init_from(self.init_from))
        if self.max_words < 4:
            raise ValueError(f"--max-words {self.max_words}: give at least 4")
        if self.max_regions < 1:
            raise ValueError(f"--max-regions {self.max_regions}: give at least 1")
        if not 0 <= self.most_missing <= 1:
            raise ValueError(f"--most-missing {self.most_missing}: give a share from 0 to 1")
        if self.task in TASKS and self.task_heads not in find_task(self.task).task_heads:
            raise ValueError(f"--task-heads beta: vilbert_beta has no classifier for {self.task}; give multitask")
        if self.init_from == "none" and self.model is None:
            raise ValueError("--init-from none: name a --model to begin with")
        if self.init_from == "none" and self.tokenizer is None:
            raise ValueError("--init-from none: name a --tokenizer, or give `new`")
