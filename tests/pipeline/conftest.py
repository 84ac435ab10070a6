"""Samples to store, the golden data sets, and a Ray to train on."""

from __future__ import annotations

import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vilbert.extractors.regions import Regions
from vilbert.pipeline.shards.sample import Sample
from vilbert.pipeline.train.run.ray_launch import QUIET

GOLDEN = Path(__file__).parent / "shards" / "golden"


def build_sample(
    key: str = "k",
    *,
    boxes: int = 3,
    feature_dim: int = 8,
    top_classes: int = 2,
    attributes: bool = False,
    seed: int = 0,
    **meta: Any,
) -> Sample:
    """Return a sample of random numbers, the same for the same arguments."""
    draw = np.random.default_rng(seed)
    extra = {
        "attribute_ids": draw.integers(0, 9, boxes).astype(np.uint16),
        "attribute_scores": draw.random(boxes, np.float32),
    }
    regions = Regions(
        boxes=draw.random((boxes, 4), np.float32),
        features=draw.random((boxes, feature_dim)).astype(np.float16),
        object_ids=draw.integers(1, 9, boxes).astype(np.uint16),
        object_scores=draw.random(boxes, np.float32),
        class_ids=draw.integers(0, 9, (boxes, top_classes)).astype(np.uint16),
        class_probs=draw.random((boxes, top_classes)).astype(np.float16),
        width=640,
        height=480,
        **(extra if attributes else {}),
    )
    return Sample(key=key, regions=regions, meta={"image_id": key, **meta})


def compare_samples(left: Sample, right: Sample) -> None:
    """Assert that two samples are the same, bit by bit."""
    assert (left.key, left.meta) == (right.key, right.meta)
    assert (left.regions.width, left.regions.height) == (right.regions.width, right.regions.height)
    ours, theirs = left.regions.arrays(), right.regions.arrays()
    assert list(ours) == list(theirs)
    for name, array in ours.items():
        assert array.dtype == theirs[name].dtype
        assert array.shape == theirs[name].shape
        assert array.tobytes() == theirs[name].tobytes(), name


@pytest.fixture(scope="session")
def make_sample() -> Callable[..., Sample]:
    """Return `build_sample`."""
    return build_sample


@pytest.fixture(scope="session")
def assert_same() -> Callable[[Sample, Sample], None]:
    """Return `compare_samples`."""
    return compare_samples


@pytest.fixture(scope="session")
def golden() -> Path:
    """Return the folder of the golden data sets."""
    return GOLDEN


@pytest.fixture(scope="session")
def golden_maker() -> dict[str, Any]:
    """Return what golden/make.py defines."""
    return runpy.run_path(str(GOLDEN / "make.py"))


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[str]:
    """Start a Ray of two CPUs once for all runs of a module, and return its address."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**QUIET, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}.items():
            patch.setenv(name, value)
        import ray

        session = ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="ERROR")
        yield session.address_info["address"]
        ray.shutdown()
