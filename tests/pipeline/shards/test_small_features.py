"""Features in one byte a value: how precise they are, what is refused, and that every reader gets them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from vilbert.extractors.regions import Regions
from vilbert.pipeline.cli import main
from vilbert.pipeline.errors import CorruptShardError
from vilbert.pipeline.shards.location.layout import StorageFormat
from vilbert.pipeline.shards.open_dataset import open_dataset
from vilbert.pipeline.shards.sample import Sample, decode_members, encode_members
from vilbert.pipeline.shards.small_features import LEAST_COSINE, PrecisionError, SmallFeatures, compress, expand
from vilbert.pipeline.shards.storage.npy import encode_npy
from vilbert.pipeline.shards.storage.store import create_shard, open_shard
from vilbert.pipeline.shards.storage.tensors import decode_tensors, encode_tensors

COCO10 = Path(__file__).resolve().parents[3] / "../shared/data/coco10/train2014_obj36.tsv"
REGIONS, CHANNELS = 36, 2048
Draw = Callable[[np.random.Generator], NDArray[Any]]


def relu(draw: np.random.Generator) -> NDArray[np.float32]:
    """Return values as a detector has them: half of them 0, none negative."""
    return np.maximum(draw.standard_normal((REGIONS, CHANNELS), np.float32), 0)


def with_outlier(size: float) -> Draw:
    def drawn(draw: np.random.Generator) -> NDArray[np.float32]:
        values = relu(draw)
        values[np.arange(REGIONS), draw.integers(0, CHANNELS, REGIONS)] = size
        return values

    return drawn


def cosines(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    a, b = a.astype(np.float64), b.astype(np.float64)
    norms: NDArray[np.float64] = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return (a * b).sum(axis=1) / norms


@pytest.mark.parametrize(
    "drawn",
    [
        relu,
        lambda draw: draw.standard_normal((REGIONS, CHANNELS), np.float32),
        lambda draw: draw.lognormal(0, 1.5, (REGIONS, CHANNELS)),
        lambda draw: draw.standard_normal((REGIONS, CHANNELS), np.float32) * 1e-3,
        with_outlier(30),
        with_outlier(40),
        with_outlier(1000),
        with_outlier(65504),
        lambda draw: np.eye(REGIONS, CHANNELS),
        lambda draw: np.full((REGIONS, CHANNELS), -3.5),
    ],
    ids=["relu", "normal", "lognormal", "tiny", "outlier 30", "40", "1000", "65504", "one-hot", "constant"],
)
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_every_region_keeps_the_stated_cosine(drawn: Draw, dtype: str) -> None:
    features = drawn(np.random.default_rng(0)).astype(np.float16)
    read = expand(compress(features, dtype))
    assert read.dtype == np.float16
    assert not read.flags.writeable
    assert cosines(features, read).min() >= LEAST_COSINE[dtype]
    peaks = np.abs(features).max(axis=1)
    np.testing.assert_allclose(np.abs(read).max(axis=1), peaks, rtol=2**-10)


def test_evenly_spaced_codes_would_not_reach_it() -> None:
    values = with_outlier(40)(np.random.default_rng(0)).astype(np.float16).astype(np.float32)
    scale = values.max(axis=1, keepdims=True) / 255
    assert cosines(values, scale * np.rint(values / scale)).max() < LEAST_COSINE["int8"]
    assert cosines(values, expand(compress(values, "int8"))).min() > LEAST_COSINE["int8"]


def test_rows_of_zeros_stay_zeros() -> None:
    features = np.zeros((2, 8), np.float16)
    features[1] = 1
    for dtype in LEAST_COSINE:
        np.testing.assert_array_equal(expand(compress(features, dtype)), features)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 1e6])
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_what_is_not_finite_is_refused(wrong: float, dtype: str) -> None:
    features = np.ones((2, 8), np.float32)
    features[1, 3] = wrong
    with pytest.raises(PrecisionError, match="NaN, infinite or too large"):
        compress(features, dtype)


def test_a_region_that_would_be_imprecise_is_refused_by_number() -> None:
    values = np.random.default_rng(0).standard_normal((3, CHANNELS), np.float32)
    values[2, 7] = -45  # with negative values on both sides, 127 codes a side have to do
    with pytest.raises(PrecisionError, match=r"int8 represents the feature of region 2 with a cosine of 0\.9998"):
        compress(values, "int8")


def test_float8_is_that_of_torch() -> None:
    features = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float16)
    codes, scales = compress(features, "uint8")
    expected = torch.from_numpy(features.astype(np.float32) / scales[:, :1]).to(torch.float8_e4m3fn)
    assert codes.tobytes() == expected.view(torch.uint8).numpy().tobytes()
    table = SmallFeatures(np.arange(256, dtype=np.uint8)[None], np.float32([[1, 0]]))
    ml_dtypes = pytest.importorskip("ml_dtypes")
    np.testing.assert_array_equal(
        expand(table), table.codes.view(ml_dtypes.float8_e4m3fn).astype(np.float16), strict=True
    )


@pytest.mark.parametrize(
    ("scale", "zero"), [(-1, 0), (np.nan, 0), (np.inf, 0), (1e30, 128), (1.1, 128), (1, 5), (1, -128), (1, np.nan)]
)
@pytest.mark.parametrize("regions", [1, slice(None)])
def test_scales_that_were_never_written_are_damage(
    make_sample: Callable[..., Sample], scale: float, zero: float, regions: int | slice
) -> None:
    sample = make_sample().with_features("int8")
    assert sample.small is not None
    sample.small.scales[regions] = scale, zero
    with pytest.raises(CorruptShardError, match="feature_scales contains"):
        decode_tensors("k", encode_tensors(sample), path=Path("x"))
    members = [(name, memoryview(content)) for name, content in encode_members(sample)]
    with pytest.raises(CorruptShardError, match="feature_scales contains"):
        decode_members("k", members, path=Path("x"))


@pytest.mark.parametrize("storage", ["tar", "lmdb"])
@pytest.mark.filterwarnings("error")
def test_a_damaged_scale_is_an_error_of_a_shard_and_a_key(
    tmp_path: Path, make_sample: Callable[..., Sample], storage: StorageFormat
) -> None:
    """However a sample is read: whole, in part, or as it is stored."""
    sample = make_sample().with_features("int8")
    assert sample.small is not None
    sample.small.scales[0] = 3e38, 0
    path = tmp_path / f"000000.{storage}"
    writer = create_shard(path, storage)
    writer.add(sample)
    writer.finish()
    with open_shard(path, verify=False) as reader:
        for read in (
            lambda: reader[0],
            lambda: reader.read(0, ["features"]),
            lambda: reader.read(0, ["boxes", "features"], stored=True),
        ):
            with pytest.raises(CorruptShardError, match=rf"000000\.{storage}, key '.*feature_scales contains a scale"):
                read()


@pytest.mark.parametrize(
    ("features", "scales"),
    [
        (np.zeros((3, 8), np.int8), None),
        (np.zeros((3, 8), np.float16), np.ones((3, 2), np.float32)),
        (np.zeros((3, 8), np.int8), np.ones((3, 3), np.float32)),
        (np.zeros((3, 8), np.int8), np.ones((2, 2), np.float32)),
    ],
)
def test_scales_go_with_their_features(
    tmp_path: Path, make_sample: Callable[..., Sample], features: NDArray[Any], scales: NDArray[Any] | None
) -> None:
    path = tmp_path / "000000.tar"
    writer = create_shard(path, "tar")
    for name, content in encode_members(make_sample("k")):
        changed = {"features.npy": encode_npy(features)}.get(name, content)
        writer.add_member(f"k.{name}", changed)  # type: ignore[attr-defined]
        if name == "features.npy" and scales is not None:
            writer.add_member("k.feature_scales.npy", encode_npy(scales))  # type: ignore[attr-defined]
    writer.finish()
    with open_shard(path) as reader:
        with pytest.raises(CorruptShardError):
            reader[0]
        with pytest.raises(CorruptShardError):
            reader.read(0, ("boxes", "features"))


@pytest.mark.parametrize("storage", ["tar", "lmdb"])
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_shards_keep_the_codes_and_give_float16(
    tmp_path: Path, make_sample: Callable[..., Sample], storage: Literal["tar", "lmdb"], dtype: str
) -> None:
    path = tmp_path / f"000000.{storage}"
    sample = make_sample("k", attributes=True).with_features(dtype)
    writer = create_shard(path, storage)
    writer.add(sample)
    writer.finish()
    with open_shard(path) as reader:
        read = reader[0]
        assert read.small is not None
        for name, array in sample.arrays().items():
            np.testing.assert_array_equal(read.arrays()[name], array, strict=True)
        part = reader.read(0, ("features", "boxes"))
        assert list(part.arrays) == ["features", "boxes"]
        np.testing.assert_array_equal(part.arrays["features"], sample.regions.features, strict=True)


def test_a_sample_of_36_boxes_takes_little_more_than_half(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    regions = Regions(
        boxes=draw.random((REGIONS, 4), np.float32),
        features=relu(draw).astype(np.float16),
        object_ids=np.ones(REGIONS, np.uint16),
        object_scores=np.ones(REGIONS, np.float32),
        class_ids=np.tile(np.arange(20, dtype=np.uint16), (REGIONS, 1)),
        class_probs=np.full((REGIONS, 20), 0.05, np.float16),
        attribute_ids=np.ones(REGIONS, np.uint16),
        attribute_scores=np.ones(REGIONS, np.float32),
        width=640,
        height=480,
    )
    meta = {"image_id": "k", "captions": ["a caption of some words that says what there is to be seen"] * 5}
    half = Sample(key="k", regions=regions, meta=meta)
    for storage in ("tar", "lmdb"):
        sizes = []
        for name, sample in (("half", half), ("small", half.with_features("int8"))):
            path = tmp_path / f"{name}.{storage}"
            writer = create_shard(path, storage)  # type: ignore[arg-type]
            for number in range(20):
                writer.add(Sample(key=f"k{number}", regions=sample.regions, meta=meta, small=sample.small))
            sizes.append(writer.finish()[0])
        assert sizes[1] <= 0.55 * sizes[0], (storage, sizes)


@pytest.mark.skipif(not COCO10.is_file(), reason="../shared/data/coco10 is not here")
def test_published_features_keep_the_stated_cosine(tmp_path: Path) -> None:
    half, small = tmp_path / "half", tmp_path / "small"
    assert main(["convert", str(COCO10), "--output", str(half), "--feature-dtype", "float16"]) == 0
    assert main(["convert", str(half), "--output", str(small), "--feature-dtype", "int8"]) == 0
    with open_dataset(half) as exact, open_dataset(small) as read:
        assert len(exact) == len(read) == 10
        found = [cosines(a.regions.features, b.regions.features).min() for a, b in zip(exact, read, strict=True)]
    assert min(found) >= LEAST_COSINE["int8"]
