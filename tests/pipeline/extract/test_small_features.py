"""`--feature-dtype int8`: what is extracted, and images whose features it does not hold precisely."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vilbert.pipeline.errors import FingerprintError
from vilbert.pipeline.extract.run import extract
from vilbert.pipeline.extract.settings import ExtractSettings
from vilbert.pipeline.shards.checks.verify import examine
from vilbert.pipeline.shards.dataset import read_dataset
from vilbert.pipeline.shards.open_dataset import open_dataset
from vilbert.pipeline.shards.small_features import LEAST_COSINE

Make = Callable[..., ExtractSettings]


def test_extracted_features_are_those_of_float16_within_the_bound(settings_for: Make, tmp_path: Path) -> None:
    for name, dtype in (("half", "float16"), ("small", "int8")):
        assert extract(settings_for(name, feature_dtype=dtype, limit=5)) == 0
        assert examine(tmp_path / name, deep=True).findings == ()
    info = read_dataset(tmp_path / "small")
    assert (info.format, info.fields["features"]["dtype"], info.fingerprint_fields["format"]) == (3, "int8", 3)
    assert read_dataset(tmp_path / "half").format == 1
    with open_dataset(tmp_path / "half") as exact, open_dataset(tmp_path / "small") as read:
        assert len(exact) == len(read) > 0
        for half, small in zip(exact, read, strict=True):
            a, b = (sample.regions.features.astype(np.float64) for sample in (half, small))
            cosines = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
            assert cosines.min() >= LEAST_COSINE["int8"]
            np.testing.assert_array_equal(half.regions.boxes, small.regions.boxes)
    with pytest.raises(FingerprintError, match="feature_dtype"):
        extract(settings_for("small", limit=5))


def test_imprecise_images_are_failures(settings_for: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LEAST_COSINE, "int8", 1.0)
    assert extract(settings_for("small", feature_dtype="int8", limit=5)) == 1
    info = read_dataset(tmp_path / "small")
    assert info.totals.failures == {"empty": 1, "feature_precision": 4}
    assert info.totals.samples == 0


def test_a_column_has_float16_features(settings_for: Make) -> None:
    with pytest.raises(ValueError, match="a column has float16 features"):
        settings_for("column", feature_dtype="int8", column="dino")
