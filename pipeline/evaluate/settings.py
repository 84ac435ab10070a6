"""Settings of `vilbert evaluate`."""

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
    """Evaluate a fine-tuned ViLBERT on a split, and write the task's submission file."""

    data: Positional[tuple[str, ...]]
    """Data sets of the images: folders, or fsspec URLs of them."""
    task: Suppress[str]
    """The task; the first argument of the command line."""
    checkpoint: Path
    """A run of `vilbert finetune`, its final/, or one of its checkpoints/."""
    annotations: Path
    """Folder with the task's annotation files under their published names."""
    split: str = "val"
    """Split of the annotations to evaluate."""
    output: Path | None = None
    """Submission file to write, in the format of the task's server; metrics are written beside it (.json)."""
    max_missing_fraction: Share = 0.01
    """Maximum fraction of items whose images have no features; these are skipped and counted."""
    blind: bool = False
    """Use the regions of another image, to measure what the text alone predicts."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU if available."""
    on_corrupt: Literal["stop", "skip"] = "stop"
    """On an unreadable shard: stop, or skip its items and count them."""
    verify_shards: bool = True
    """Verify the SHA-256 of each shard against its record before its first sample is used."""
    allow_mixed_features: bool = False
    """Accept features of another detector than the model was trained on, or of several detectors."""
    features: tuple[str, ...] = ("base",)
    """Features of a region, as in training: base, or names of columns; several are concatenated. A column with boxes of
    its own is given alone."""
    cache: Path | None = None
    """Cache folder for shards of remote data sets; default: a folder beside --output, or the checkpoint."""
    cache_bytes: int = DEFAULT_CACHE_BYTES
    """Maximum size of the cache, in bytes."""
    json: bool = False
    """Print the metrics as one JSON object."""
    remedies: ClassVar[dict[str, str]] = {
        "given_data": "for accuracy of referring expressions on given boxes, name their data set in place of the "
        "features"
    }
    """Recommendation in the message about an option that only other tasks have, by its name."""


@validated
class BatchedEvaluateSettings(EvaluateSettings):
    """Settings of tasks whose items are predicted in batches."""

    batch_size: PositiveInt = 64
    """Batch size."""
    num_workers: NonNegativeInt = 2
    """Data loading processes."""


@validated
class ItemEvaluateSettings(BatchedEvaluateSettings):
    """Settings of tasks with a prediction per item."""

    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: forward pass under autocast."""


@validated
class GivenRegionsEvaluateSettings(ItemEvaluateSettings):
    """Settings of tasks that use regions at given boxes in addition to the detected ones."""

    given_data: tuple[str, ...] = ()
    """Data sets of the same images with regions at given boxes, used in addition to the detected regions."""


@validated
class ReasonEvaluateSettings(GivenRegionsEvaluateSettings):
    """Settings of tasks that choose a reason for an answer."""

    answers_from: Path | None = None
    """Results of `evaluate vcr-qa` on the same split, to compute Q -> AR and, where labels are secret, to write the CSV
    submission."""


@validated
class RankEvaluateSettings(EvaluateSettings):
    """Settings of tasks that score every caption against every image."""

    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: forward pass under autocast."""
    images: PositiveInt | None = None
    """Number of images to use, the first of the split, with their captions; default: all."""
    zero_shot: bool = False
    """Rank by the alignment head; --checkpoint is then a run of `vilbert pretrain`, or a folder with a published model
    and its tokenizer."""
    pairs_per_batch: PositiveInt = 256
    """Maximum number of caption-image pairs per forward pass."""
    hold_bytes: PositiveInt = 2_000_000_000
    """Maximum memory for encoded images and captions, in bytes."""
    scores: Path | None = None
    """Folder for intermediate scores, from which an interrupted evaluation resumes."""


@validated
class DescribeEvaluateSettings(BatchedEvaluateSettings):
    """Settings of tasks that generate captions."""

    images: PositiveInt | None = None
    """Number of images to use, the first of the split, with their captions; default: all."""
    generation: GenerationSettings = field(default_factory=GenerationSettings)
