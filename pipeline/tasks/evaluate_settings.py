"""The settings of `vilbert evaluate`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from pipeline.tasks.generation_settings import GenerationSettings
from pipeline.train.run_settings import DEFAULT_CACHE_BYTES


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """Answer the items of a split with a fine-tuned ViLBERT, score them, and write the task's file of results."""

    data: Positional[tuple[str, ...]]
    """Data sets of the images: folders, or fsspec URLs of them."""
    task: str
    """The task, which the command line names first."""
    checkpoint: Path
    """A run of `vilbert finetune`, or its final/."""
    annotations: Path
    """The folder of the task's annotation files, under their published names."""
    split: str = "val"
    """Which part of the annotations to answer."""
    output: Path | None = None
    """Write the file of results here, in the form that the task's server takes, and figures beside it (.json)."""
    given_data: tuple[str, ...] = ()
    """Data sets of the same images with regions at given boxes, for VCR and referring expressions."""
    most_missing: float = 0.01
    """Share of the items whose images may have no features; they are left out and counted."""
    blind: bool = False
    """Show another image's regions."""
    batch_size: int = 64
    """Items at a time."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: under autocast."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the GPU where there is one."""
    num_workers: int = 2
    """Processes that make batches."""
    on_corrupt: Literal["stop", "skip"] = "stop"
    """What a shard that cannot be read does: stop, or leave its items out and count them."""
    answers_from: Path | None = None
    """VCR's reasons: the results of `evaluate vcr-qa` on the same split, to tell Q -> AR and, where labels are secret,
    write the CSV that the server takes."""
    zero_shot: bool = False
    """Retrieval: rank by the alignment head; --checkpoint is then a run of `vilbert pretrain`."""
    images: int | None = None
    """Retrieval: only so many images, the first of the split, with their captions."""
    pairs_per_batch: int = 256
    """Retrieval: captions times images that go through the model at a time."""
    hold_bytes: int = 2_000_000_000
    """Retrieval: most bytes of encoded images and captions that are held."""
    scores: Path | None = None
    """Retrieval: a folder that keeps scores as they come, so that a killed evaluation goes on."""
    generation: GenerationSettings = field(default_factory=GenerationSettings)
    cache: Path | None = None
    """Where shards of remote data sets are kept; by default a folder beside --output, or the checkpoint."""
    cache_bytes: int = DEFAULT_CACHE_BYTES
    """Bytes of remote shards kept on this machine."""
    json: bool = False
    """Print the figures as one JSON object."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"--batch-size {self.batch_size}: give at least 1")
        if self.answers_from is not None and self.task != "vcr-qar":
            raise ValueError("--answers-from: is for vcr-qar")
        if self.zero_shot and self.task != "retrieval":
            raise ValueError(f"--zero-shot: is for retrieval; {self.task} has a head that must be trained")
        if self.images is not None and self.images < 1:
            raise ValueError(f"--images {self.images}: give at least 1")
        if self.num_workers < 0:
            raise ValueError(f"--num-workers {self.num_workers}: give 0 or more")
