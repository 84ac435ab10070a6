"""Features in a batch: codes where all images have them, and the same numbers in every way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from vilbert.pipeline.shards.small_features import SmallFeatures, compress, expand
from vilbert.pipeline.train.data.feature_rows import FeaturePart, features_on, lay_out_features
from vilbert.pipeline.train.data.shared_buffers import ReceivedBuffers, WorkerBuffers

DTYPES = pytest.mark.parametrize("dtype", ["int8", "uint8"])


def small(dtype: str, regions: int, *, seed: int = 0) -> SmallFeatures:
    """Return features of which every second region has negative values, so that zero points differ."""
    values = np.random.default_rng(seed).standard_normal((regions, 6), np.float32)
    values[::2] = np.abs(values[::2])
    return compress(values, dtype)


def laid_out(images: Sequence[Sequence[FeaturePart]], counts: Sequence[int]) -> tuple[torch.dtype, NDArray[np.float16]]:
    rows = lay_out_features(images, counts, channels=6, most=5)
    return rows.features.dtype, features_on("cpu", *rows).numpy()


@pytest.mark.parametrize("kind", ["plain", "strided", "transposed", "float32", "byte order", "read-only", "repeated"])
def test_wide_columns_are_copied_beside_each_other_from_arrays_of_any_layout(kind: str) -> None:
    """Rows of contiguous arrays of the batch's dtype are copied as one item each, others value by value."""
    random = np.random.default_rng(0)

    def part(regions: int) -> NDArray[Any]:
        values: NDArray[Any] = random.standard_normal((regions, 200)).astype(np.float16)
        values[:, :3] = np.nan, np.inf, -0.0
        if kind == "read-only":
            values.flags.writeable = False
        makers: dict[str, Callable[[], NDArray[Any]]] = {
            "strided": lambda: values.repeat(2, axis=1)[:, ::2],
            "transposed": lambda: np.asfortranarray(values),
            "float32": lambda: values.astype(np.float32),
            "byte order": lambda: values.astype(">f2"),
            "repeated": lambda: np.broadcast_to(values[:1], values.shape),
        }
        return makers.get(kind, lambda: values)()

    images = [(part(3), part(3)) for _ in range(2)]
    features = lay_out_features(images, [3, 3], channels=400, most=5).features.numpy()
    np.testing.assert_array_equal(features, np.stack([np.hstack(parts) for parts in images]).astype(np.float16))


@DTYPES
def test_codes_of_a_batch_give_the_features_that_each_sample_gives(dtype: str) -> None:
    images = [small(dtype, 5), small(dtype, 3, seed=1)]
    kind, found = laid_out([(images[0],), (), (images[1],)], [4, 0, 3])
    assert kind == getattr(torch, dtype)
    expected = np.zeros((3, 4, 6), np.float16)
    expected[0], expected[2, :3] = expand(images[0])[:4], expand(images[1])
    np.testing.assert_array_equal(found, expected, strict=True)


@DTYPES
def test_images_that_differ_are_expanded_to_the_same_numbers(dtype: str) -> None:
    other = np.ones((2, 6), np.float16)
    codes = small(dtype, 4)
    kind, found = laid_out([(codes,), (other,)], [3, 2])
    assert kind == torch.float16
    np.testing.assert_array_equal(found[0], expand(codes)[:3])
    np.testing.assert_array_equal(found[1, :2], other)
    both, parts = small("int8", 4), small("uint8", 4)
    assert laid_out([(both,), (parts,)], [4, 4])[0] == torch.float16


def test_features_side_by_side_are_expanded() -> None:
    values, column = small("int8", 3), np.ones((3, 2), np.float16)
    rows = lay_out_features([(values, column)], [3], channels=8, most=5)
    assert rows.scales is None
    np.testing.assert_array_equal(rows.features[0].numpy(), np.concatenate([expand(values), column], axis=1))


@pytest.mark.parametrize("counts", [(5, 5), (5, 4)])
@pytest.mark.parametrize("widths", [(6,), (2, 4), (70, 3, 70)])
def test_images_of_one_shape_are_laid_out_as_others_are(widths: tuple[int, ...], counts: tuple[int, int]) -> None:
    draw = np.random.default_rng(1)
    images = [
        tuple(draw.random((n, width), np.float32).astype(kind) for width, kind in zip(widths, "efe", strict=False))
        for n in counts
    ]
    rows = lay_out_features(images, counts, channels=sum(widths), most=5)
    expected = np.zeros((2, 5, sum(widths)), np.float16)
    for row, parts in enumerate(images):
        expected[row, : counts[row]] = np.concatenate(parts, axis=1).astype(np.float16)
    assert rows.scales is None
    np.testing.assert_array_equal(rows.features.numpy(), expected, strict=True)


@DTYPES
@pytest.mark.parametrize("counts", [(5, 5), (4, 4)])
def test_codes_of_one_shape_are_laid_out_as_others_are(dtype: str, counts: tuple[int, int]) -> None:
    images = [small(dtype, 5, seed=seed) for seed in (0, 1)]
    kind, found = laid_out([(image,) for image in images], counts)
    assert kind == getattr(torch, dtype)
    np.testing.assert_array_equal(found, np.stack([expand(image)[: counts[0]] for image in images]), strict=True)


def test_without_any_image_a_batch_is_zeros() -> None:
    kind, found = laid_out([(), ()], [0, 0])
    assert kind == torch.float16
    np.testing.assert_array_equal(found, np.zeros((2, 1, 6), np.float16), strict=True)


def test_codes_arrive_from_a_worker() -> None:
    worker, receiver = WorkerBuffers(0), ReceivedBuffers()
    codes = worker.take((2, 3), room=100, dtype=torch.int8)
    codes[:] = torch.arange(-3, 3).view(2, 3)
    sent = worker.send(codes)
    receiver.add(0, worker.new())
    assert not isinstance(sent, torch.Tensor)
    received = receiver.receive(sent)
    assert received.dtype == torch.int8
    assert received.tolist() == [[-3, -2, -1], [0, 1, 2]]
