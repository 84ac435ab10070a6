"""A data set of photographs, some of which are there twice."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vilbert.pipeline.shards.sample import Sample

from ...shards.conftest import HEIGHT, WIDTH


def photograph(path: Path, seed: int, *, quality: int) -> None:
    """Write a JPEG of smooth random colours."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3)).astype(np.uint8)
    Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(path, "JPEG", quality=quality)


def with_photograph(row: int, sample: Sample) -> Sample:
    """Return a sample of another photograph than other rows have, but for rows 3 and 7, which are recompressed copies
    of rows 1 and 2, and row 8, which has the bytes of row 1."""
    path = Path(str(sample.meta["uri"]))
    seed, quality = {3: (1, 40), 7: (2, 60), 8: (1, 90)}.get(row, (row, 90))
    photograph(path, seed, quality=quality)
    return dataclasses.replace(sample, meta={**sample.meta, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()})


@pytest.fixture
def photographs(make_dataset: Callable[..., Any]) -> Any:
    """A data set of 10 photographs, all with samples."""
    return make_dataset(failed={}, change=with_photograph)
