"""The settings of `vilbert evaluate`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from vilbert.pipeline.tasks.generation_settings import GenerationSettings
from vilbert.pipeline.tasks.options import only_for, require_own_values
from vilbert.pipeline.tasks.registry import TaskSpec
from vilbert.pipeline.train.run_settings import DEFAULT_CACHE_BYTES


def in_batches(task: TaskSpec) -> bool:
    """Return whether items are answered batch by batch; a ranking scores pairs."""
    return task.prediction != "rank"


def ranks(task: TaskSpec) -> bool:
    """Return whether every caption is scored against every image."""
    return task.prediction == "rank"


def describes(task: TaskSpec) -> bool:
    """Return whether captions are written."""
    return task.prediction == "describe"


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """Answer the items of a split with a fine-tuned ViLBERT, score them, and write the task's file of results."""

    data: Positional[tuple[str, ...]]
    """Data sets of the images: folders, or fsspec URLs of them."""
    task: str
    """The task, which the command line names first."""
    checkpoint: Path
    """A run of `vilbert finetune`, its final/, or one of its checkpoints/."""
    annotations: Path
    """The folder of the task's annotation files, under their published names."""
    split: str = "val"
    """Which part of the annotations to answer."""
    output: Path | None = None
    """Write the file of results here, in the form that the task's server takes, and figures beside it (.json)."""
    given_data: tuple[str, ...] = field(
        default=(),
        metadata=only_for(
            lambda task: task.given_boxes == "averaged",
            remedy="for accuracy of referring expressions on given boxes, name their data set in place of the features",
        ),
    )
    """Data sets of the same images with regions at given boxes, which are shown beside the detector's."""
    most_missing: float = 0.01
    """Share of the items whose images may have no features; they are left out and counted."""
    blind: bool = False
    """Show another image's regions."""
    batch_size: int = field(default=64, metadata=only_for(in_batches))
    """Items at a time."""
    precision: Literal["fp32", "bf16"] = field(default="fp32", metadata=only_for(lambda task: not describes(task)))
    """bf16: under autocast."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the GPU where there is one."""
    num_workers: int = field(default=2, metadata=only_for(in_batches))
    """Processes that make batches."""
    on_corrupt: Literal["stop", "skip"] = "stop"
    """What a shard that cannot be read does: stop, or leave its items out and count them."""
    verify_shards: bool = True
    """Compare the SHA-256 of each shard with its record before its first sample is used."""
    allow_mixed_features: bool = False
    """Answer from features of another detector than the model was trained on, or of several detectors."""
    answers_from: Path | None = field(default=None, metadata=only_for(lambda task: task.takes_answers))
    """The results of `evaluate vcr-qa` on the same split, to tell Q -> AR and, where labels are secret, write the CSV
    that the server takes."""
    images: int | None = field(default=None, metadata=only_for(lambda task: ranks(task) or describes(task)))
    """Only so many images, the first of the split, with their captions."""
    zero_shot: bool = field(default=False, metadata=only_for(ranks))
    """Rank by the alignment head; --checkpoint is then a run of `vilbert pretrain`, or a folder with a published model
    and its tokenizer."""
    pairs_per_batch: int = field(default=256, metadata=only_for(ranks))
    """Captions times images that go through the model at a time."""
    hold_bytes: int = field(default=2_000_000_000, metadata=only_for(ranks))
    """Most bytes of encoded images and captions that are held."""
    scores: Path | None = field(default=None, metadata=only_for(ranks))
    """A folder that keeps scores as they come, so that a killed evaluation goes on."""
    generation: GenerationSettings = field(default_factory=GenerationSettings, metadata=only_for(describes))
    cache: Path | None = None
    """Where shards of remote data sets are kept; by default a folder beside --output, or the checkpoint."""
    cache_bytes: int = DEFAULT_CACHE_BYTES
    """Bytes of remote shards kept on this machine."""
    json: bool = False
    """Print the figures as one JSON object."""

    def __post_init__(self) -> None:
        require_own_values(self)
        if self.batch_size < 1:
            raise ValueError(f"--batch-size {self.batch_size}: give at least 1")
        if self.images is not None and self.images < 1:
            raise ValueError(f"--images {self.images}: give at least 1")
        if not 0 <= self.most_missing <= 1:
            raise ValueError(f"--most-missing {self.most_missing}: give a share from 0 to 1")
        if self.num_workers < 0:
            raise ValueError(f"--num-workers {self.num_workers}: give 0 or more")
