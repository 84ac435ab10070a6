"""What is kept of a distribution over classes, and how near the rebuilt one is to it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vilbert.extractors.soft_labels import dense_labels, top_classes


def softmax(seed: int, regions: int, classes: int, sharpness: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(regions, classes, generator=generator) * sharpness).softmax(dim=1)


def stored_top_classes(probs: torch.Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the most probable classes in the dtypes of `Regions`."""
    class_ids, class_probs = top_classes(probs, k)
    return class_ids.numpy().astype(np.uint16), class_probs.numpy().astype(np.float16)


@given(
    st.integers(0, 2**31),
    st.sampled_from([2, 3, 20, 91, 1601]),
    st.integers(1, 100),
    st.sampled_from([0.0, 0.1, 1.0, 3.0, 10.0, 50.0]),
)
def test_rebuilt_distribution_is_within_the_documented_bound(seed: int, classes: int, k: int, sharpness: float) -> None:
    probs = softmax(seed, 4, classes, sharpness)
    class_ids, class_probs = stored_top_classes(probs, k)
    labels = dense_labels(class_ids, class_probs, classes)
    kept = min(k, classes)
    true = probs.double().numpy()
    lost = 1 - np.take_along_axis(true, class_ids.astype(np.int64), axis=1).sum(axis=1)
    bound = 2 * lost + 2 * (2**-11 + kept * 2**-25)

    assert labels.dtype == np.float32
    assert labels.shape == (4, classes)
    assert (labels >= 0).all()
    np.testing.assert_allclose(labels.sum(axis=1, dtype=np.float64), 1, atol=1e-6)
    assert (np.abs(labels - true).sum(axis=1) <= bound + 2e-6).all()  # the float32 softmax does not sum to 1 exactly


@given(st.integers(0, 2**31), st.integers(1, 40), st.integers(1, 60))
def test_most_probable_first_and_of_equals_the_lower_id(seed: int, classes: int, k: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    probs = torch.randint(0, 4, (5, classes), generator=generator) / 4
    class_ids, class_probs = stored_top_classes(probs, k)
    for row, ids, values in zip(probs.tolist(), class_ids.tolist(), class_probs.tolist(), strict=True):
        expected = sorted(range(classes), key=lambda c: (-row[c], c))[:k]
        assert ids == expected
        assert values == [row[c] for c in expected]  # quarters are exact in float16


def test_remaining_mass_goes_to_the_other_classes_alike() -> None:
    ids, probs = np.array([[2, 0]], np.uint16), np.array([[0.5, 0.25]], np.float16)
    assert dense_labels(ids, probs, 4).tolist() == [[0.25, 0.125, 0.5, 0.125]]


def test_probabilities_rounded_to_more_than_one_are_scaled_down() -> None:
    ids, probs = np.array([[0, 1]], np.uint16), np.array([[0.9995, 0.0006]], np.float16)
    assert probs.astype(np.float64).sum() > 1
    labels = dense_labels(ids, probs, 3)
    assert labels[0, 2] == 0
    assert labels.sum() == pytest.approx(1, abs=1e-7)


def test_no_regions() -> None:
    class_ids, class_probs = stored_top_classes(torch.zeros(0, 91), 20)
    assert dense_labels(class_ids, class_probs, 91).shape == (0, 91)


def test_a_class_beyond_the_distribution_is_refused() -> None:
    with pytest.raises(ValueError, match="class id 91 in a distribution over 91 classes"):
        dense_labels(np.array([[91]], np.uint16), np.array([[1]], np.float16), 91)
