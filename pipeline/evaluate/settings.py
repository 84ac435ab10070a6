"""The settings of `vilbert evaluate`, as far as tasks share them."""

from __future__ import annotations

from dataclasses import field
from pathlib import Path
from typing import ClassVar, Literal

from tyro.conf import Positional, Suppress

from vilbert.pipeline.tasks.captioning.generation_settings import GenerationSettings
from vilbert.pipeline.train.run.settings import DEFAULT_CACHE_BYTES
from vilbert.settings import NonNegativeInt, PositiveInt, Share, validated


@validated
class EvaluateSettings:
    """Answer the items of a split with a fine-tuned ViLBERT, score them, and write the task's file of results."""

    data: Positional[tuple[str, ...]]
    """Data sets of the images: folders, or fsspec URLs of them."""
    task: Suppress[str]
    """The task, which the command line names first."""
    checkpoint: Path
    """A run of `vilbert finetune`, its final/, or one of its checkpoints/."""
    annotations: Path
    """The folder of the task's annotation files, under their published names."""
    split: str = "val"
    """Which part of the annotations to answer."""
    output: Path | None = None
    """Write the file of results here, in the form that the task's server takes, and figures beside it (.json)."""
    max_missing_fraction: Share = 0.01
    """Share of the items whose images may have no features; they are left out and counted."""
    blind: bool = False
    """Show another image's regions."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the GPU where there is one."""
    on_corrupt: Literal["stop", "skip"] = "stop"
    """What a shard that cannot be read does: stop, or leave its items out and count them."""
    verify_shards: bool = True
    """Compare the SHA-256 of each shard with its record before its first sample is used."""
    allow_mixed_features: bool = False
    """Answer from features of another detector than the model was trained on, or of several detectors."""
    cache: Path | None = None
    """Where shards of remote data sets are kept; by default a folder beside --output, or the checkpoint."""
    cache_bytes: int = DEFAULT_CACHE_BYTES
    """Bytes of remote shards kept on this machine."""
    json: bool = False
    """Print the figures as one JSON object."""
    remedies: ClassVar[dict[str, str]] = {
        "given_data": "for accuracy of referring expressions on given boxes, name their data set in place of the "
        "features"
    }
    """What to do in place of an option that only other tasks have, by its name."""


@validated
class BatchedEvaluateSettings(EvaluateSettings):
    """Of tasks whose items are answered batch by batch."""

    batch_size: PositiveInt = 64
    """Items at a time."""
    num_workers: NonNegativeInt = 2
    """Processes that make batches."""


@validated
class ItemEvaluateSettings(BatchedEvaluateSettings):
    """Of tasks that have an answer for each item."""

    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: under autocast."""


@validated
class GivenRegionsEvaluateSettings(ItemEvaluateSettings):
    """Of tasks that show regions at given boxes beside the detector's."""

    given_data: tuple[str, ...] = ()
    """Data sets of the same images with regions at given boxes, which are shown beside the detector's."""


@validated
class ReasonEvaluateSettings(GivenRegionsEvaluateSettings):
    """Of tasks that choose a reason for an answer."""

    answers_from: Path | None = None
    """The results of `evaluate vcr-qa` on the same split, to tell Q -> AR and, where labels are secret, write the CSV
    that the server takes."""


@validated
class RankEvaluateSettings(EvaluateSettings):
    """Of tasks that score every caption with every image."""

    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: under autocast."""
    images: PositiveInt | None = None
    """Only so many images, the first of the split, with their captions."""
    zero_shot: bool = False
    """Rank by the alignment head; --checkpoint is then a run of `vilbert pretrain`, or a folder with a published model
    and its tokenizer."""
    pairs_per_batch: PositiveInt = 256
    """Captions times images that go through the model at a time."""
    hold_bytes: PositiveInt = 2_000_000_000
    """Most bytes of encoded images and captions that are held."""
    scores: Path | None = None
    """A folder that keeps scores as they come, so that a killed evaluation goes on."""


@validated
class DescribeEvaluateSettings(BatchedEvaluateSettings):
    """Of tasks that write captions."""

    images: PositiveInt | None = None
    """Only so many images, the first of the split, with their captions."""
    generation: GenerationSettings = field(default_factory=GenerationSettings)
