"""The settings of `vilbert score`."""

from __future__ import annotations

from dataclasses import field
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Interval
from tyro.conf import Positional

from vilbert.pipeline.extract.fetching.settings import FetchSettings
from vilbert.pipeline.rebuild.scores.hamming import MAX_DISTANCE
from vilbert.pipeline.rebuild.scores.score import SCORES
from vilbert.settings import NonNegativeInt, PositiveInt, validated


@validated
class ScoreSettings:
    """Add a column of scores to a data set, to select samples by: box statistics, captions, language, perceptual hashes
    with near-duplicate groups, image-text similarity, aesthetic score.

    The data set does not change. Images are read from the data set if it stores them, else from their original
    locations. Run the same command again after any interruption: it resumes. Example: vilbert score features --column
    quality
    """

    directory: Positional[Path]
    """Folder of the data set."""
    column: str
    """Name of the column: at most 20 of a-z, 0-9 and _. Expressions read its fields as NAME.FIELD."""
    scores: tuple[str, ...] = ("boxes", "captions", "phash")
    """boxes, captions, language, phash, clip (needs --clip-model), aesthetic (needs --clip-model and --aesthetic-head),
    one of an installed package, or package.module:function."""
    duplicate_distance: Annotated[int, Interval(ge=0, le=MAX_DISTANCE)] = 4
    """With phash: images whose hashes differ in at most this many of 64 bits are near-duplicates."""
    clip_model: str | None = None
    """CLIP or SigLIP model of transformers: a folder, or a Hugging Face hub name, NAME@REVISION."""
    aesthetic_head: Path | None = None
    """File with a head on the embeddings of --clip-model (.safetensors)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of the model."""
    batch_size: PositiveInt = 16
    """Number of images per forward pass of the model."""
    num_workers: NonNegativeInt = 0
    """Worker processes; 0: one per core, none for a small data set. With a model: one."""
    fetching: FetchSettings = field(default_factory=FetchSettings)

    def __post_init__(self) -> None:
        if not self.scores or len(set(self.scores)) != len(self.scores):
            raise ValueError(f"--scores {' '.join(self.scores)}: give at least one, and each once")
        for name in self.scores:
            if not SCORES.is_known(name) and ":" not in name:
                raise ValueError(f"--scores: {SCORES.unknown(name)}")
