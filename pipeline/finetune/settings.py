"""The settings of `vilbert finetune`, the same for every task."""

from __future__ import annotations

from dataclasses import field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge
from tyro.conf import Suppress

from vilbert.pipeline.tasks.registry import TASKS, find_task
from vilbert.pipeline.train.engine.optimizer_settings import OptimizerSettings
from vilbert.pipeline.train.run.init_from import resolve_init_from
from vilbert.pipeline.train.run.settings import RunSettings
from vilbert.settings import NonNegativeFloat, PositiveInt, Share, validated


@validated
class TaskOptimizerSettings(OptimizerSettings):
    """AdamW in groups of parameters (Loshchilov and Hutter, ICLR 2019)."""

    text_learning_rate_factor: NonNegativeFloat = 1.0
    """Share of the rate for parameters that came from BERT (embeddings and layers of the text stream). The published
    fine-tuning has one rate for them and the others, but for new heads."""


@validated
class FinetuneSettings(RunSettings):
    """Fine-tune a pre-trained ViLBERT on a task, from region features and the task's annotation files.

    Each task has its published settings by default. Run the same command again after any interruption: it goes on from
    its newest whole checkpoint as if nothing had happened. Start it plainly, by torchrun, or with --workers under Ray.
    """

    task: Suppress[str]
    """The task, which the command line names first."""
    annotations: Path
    """The folder of the task's annotation files, under their published names; docs/tasks.md lists them."""
    split: str = "train"
    """Which part of the annotations trains."""
    eval_split: str = "val"
    """Which part is held out to evaluate on, or `none`."""
    init_from: str
    """Where parameters begin: a run of `vilbert pretrain` or its final/, a ViLBERT checkpoint of any known layout, or
    `none`."""
    model: str | None = None
    """A published configuration by name, `shapes`, or a config.json; by default the config.json beside --init-from."""
    tokenizer: str | None = None
    """A tokenizer's folder or hub name, or `new`: whole words of the training texts; by default that of --init-from."""
    task_heads: Literal["beta", "multitask"] = "multitask"
    """Whose classifiers: those of vilbert_beta or of vilbert-multi-task."""
    max_tokens: Annotated[int, Ge(4)] = 36
    """Maximum number of tokens of a text, with its special tokens; longer texts are truncated."""
    max_regions: PositiveInt = 100
    """Regions of an image without the global one: given boxes, then the first that the detector gave."""
    max_missing_fraction: Share = 0.01
    """Share of the annotations whose images may have no features; they are left out and counted."""
    blind: bool = False
    """Show another image's regions: what is then learnt comes from the text alone."""
    whiten_features: bool = False
    """With --init-from none: begin with an embedding of regions that takes out the features' mean and covariance."""
    optimizer: TaskOptimizerSettings = field(default_factory=TaskOptimizerSettings)
    remedies: ClassVar[dict[str, str]] = {}
    """What to do in place of an option that only other tasks have, by its name."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "init_from", resolve_init_from(self.init_from))
        if self.task in TASKS and self.task_heads not in find_task(self.task).task_heads:
            raise ValueError(f"--task-heads beta: vilbert_beta has no classifier for {self.task}; give multitask")
        if self.init_from == "none" and self.model is None:
            raise ValueError("--init-from none: name a --model to begin with")
        if self.init_from == "none" and self.tokenizer is None:
            raise ValueError("--init-from none: name a --tokenizer, or give `new`")


@validated
class AnswerListFinetuneSettings(FinetuneSettings):
    """Of tasks whose answers are those that occur often enough in training."""

    answers: Path | None = None
    """A published list of answers, in the order of a published model's classifier; by default the answers that occur
    often enough are collected from the training annotations."""
    min_answer_count: int = 9
    """How often an answer must occur to be learnt."""
    answer_prior: bool = False
    """Begin a new classifier with the shares of the answers in training as its biases. From zero, the first steps at a
    high rate push all answers down at once, which can throw a small model off for good."""


@validated
class GivenRegionsFinetuneSettings(FinetuneSettings):
    """Of tasks whose annotations have boxes, for which regions can be extracted."""

    given_data: tuple[str, ...] = ()
    """Data sets of the same images with regions at given boxes, which are shown beside the detector's."""


@validated
class NamedPeopleFinetuneSettings(GivenRegionsFinetuneSettings):
    """Of tasks whose texts name the people in an image, at boxes."""

    names: Path | None = None
    """A CSV file whose column `name` has what people are called, such as ViLBERT's unisex_names_table.csv; by default
    r2c's fourteen names. Evaluate with the same."""


@validated
class AnyFinetuneSettings(AnswerListFinetuneSettings, NamedPeopleFinetuneSettings):
    """Of several tasks at once, and of tasks of other packages that need more than one of the above."""
