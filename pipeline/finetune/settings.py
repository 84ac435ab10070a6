"""Settings of `vilbert finetune`."""

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
    """AdamW in groups of parameters (Loshchilov and Hutter, ICLR 2019), or Muon for the matrices of the layers."""

    text_learning_rate_factor: NonNegativeFloat = 1.0
    """Learning rate factor for parameters that come from BERT (embeddings and layers of the text stream). The published
    fine-tuning uses 1: only new heads have another rate."""


@validated
class FinetuneSettings(RunSettings):
    """Fine-tune a pre-trained ViLBERT on a task, from region features and the task's annotation files.

    Defaults are the published settings of each task. Run the same command again after any interruption: it resumes from
    the newest complete checkpoint with identical results. Run it directly, with torchrun, or with --workers under Ray.
    """

    task: Suppress[str]
    """The task; the first argument of the command line."""
    annotations: Path
    """Folder with the task's annotation files under their published names; docs/tasks.md lists them."""
    split: str = "train"
    """Split of the annotations to train on."""
    eval_split: str = "val"
    """Split of the annotations to evaluate on, or `none`."""
    init_from: str
    """Initial parameters: a run of `vilbert pretrain` or its final/, a ViLBERT checkpoint of any known layout, or
    `none`."""
    model: str | None = None
    """Name of a published configuration, `shapes`, or a config.json; default: the config.json beside --init-from."""
    tokenizer: str | None = None
    """Tokenizer folder or hub name, or `new`: whole words of the training texts; default: that of --init-from."""
    task_heads: Literal["beta", "multitask"] = "multitask"
    """Design of the task heads: vilbert_beta or vilbert-multi-task."""
    max_tokens: Annotated[int, Ge(4)] = 36
    """Maximum number of tokens of a text, with its special tokens; longer texts are truncated."""
    max_regions: PositiveInt = 100
    """Maximum number of regions per image, without the global one: given boxes first, then detected ones in stored
    order."""
    max_missing_fraction: Share = 0.01
    """Maximum fraction of annotations whose images have no features; these are skipped and counted."""
    blind: bool = False
    """Train with the regions of another image, to measure what is learnt from text alone."""
    whiten_features: bool = False
    """With --init-from none: initialise the region embedding so that it whitens the features (mean and covariance)."""
    optimizer: TaskOptimizerSettings = field(default_factory=TaskOptimizerSettings)
    remedies: ClassVar[dict[str, str]] = {}
    """Recommendation in the message about an option that only other tasks have, by its name."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "init_from", resolve_init_from(self.init_from))
        if self.task in TASKS and self.task_heads not in find_task(self.task).task_heads:
            raise ValueError(f"--task-heads beta: vilbert_beta has no classifier for {self.task}; give multitask")
        if self.init_from == "none" and self.model is None:
            raise ValueError("--init-from none: give --model")
        if self.init_from == "none" and self.tokenizer is None:
            raise ValueError("--init-from none: give --tokenizer, or `--tokenizer new`")


@validated
class AnswerListFinetuneSettings(FinetuneSettings):
    """Settings of tasks that classify among the frequent answers of the training annotations."""

    answers: Path | None = None
    """List of answers in the order of a published classifier; default: answers of the training annotations that occur
    at least --min-answer-count times."""
    min_answer_count: int = 9
    """Minimum number of occurrences of an answer in the training annotations."""
    answer_prior: bool = False
    """Initialise the biases of a new classifier from the answer frequencies. With zero biases, the first steps at a
    high learning rate lower all answers at once, from which a small model may not recover."""


@validated
class GivenRegionsFinetuneSettings(FinetuneSettings):
    """Settings of tasks whose annotations have boxes, for which regions can be extracted."""

    given_data: tuple[str, ...] = ()
    """Data sets of the same images with regions at given boxes, used in addition to the detected regions."""


@validated
class NamedPeopleFinetuneSettings(GivenRegionsFinetuneSettings):
    """Settings of tasks whose texts refer to people in boxes of the image."""

    names: Path | None = None
    """CSV file whose column `name` has names of people, such as ViLBERT's unisex_names_table.csv; default: the fourteen
    names of r2c. Evaluation needs the same file."""


@validated
class AnyFinetuneSettings(AnswerListFinetuneSettings, NamedPeopleFinetuneSettings):
    """Settings of multi-task runs, and of tasks of other packages that need several of the above."""
