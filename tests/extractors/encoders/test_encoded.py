"""A detector's boxes with features of an encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vilbert.extractors.extractor import DetectorSettings, ExtractorError, ExtractorSettings, build_extractor
from vilbert.extractors.selection import SelectionSettings

from ..detectors.transformers.tiny_models import save_model
from .tiny_encoders import save_encoder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the folders of a detector and an encoder."""
    return {
        "weights": save_model("detr", tmp_path_factory.mktemp("detr")),
        "encoder": save_encoder("dinov2", tmp_path_factory.mktemp("dinov2")),
    }


def build(folders: dict[str, Path], **changes: Any) -> Any:
    values: dict[str, Any] = {"detector": "transformers", "device": "cpu", **folders, **changes}
    settings = ExtractorSettings(
        detector=DetectorSettings(**values),
        selection=SelectionSettings(boxes="4-10"),
    )
    return build_extractor(settings)


IMAGES = [np.random.default_rng(seed).integers(0, 256, (60, 80, 3)).astype(np.uint8) for seed in range(2)]


def test_the_encoders_feature_replaces_the_detectors_or_follows_it(folders: dict[str, Path]) -> None:
    plain, replaced, both = (
        build(folders, **changes)
        for changes in ({"encoder": None}, {"encoder_feature": "replace"}, {"encoder_feature": "concat"})
    )
    assert [it.feature_dim for it in (plain, replaced, both)] == [32, 32, 64]
    assert len({str(it.fingerprint()) for it in (plain, replaced, both)}) == 3
    for ours, encoded, joined in zip(*(it.extract(IMAGES, [None] * 2) for it in (plain, replaced, both)), strict=True):
        assert (ours.boxes == encoded.boxes).all()
        assert (ours.class_probs == joined.class_probs).all()
        assert (joined.features == np.concatenate([ours.features, encoded.features], axis=1)).all()
        assert not (ours.features == encoded.features).any(axis=1).all()


def test_the_feature_of_a_box_is_the_same_given_or_detected(folders: dict[str, Path]) -> None:
    extractor = build(folders)
    detected = extractor.extract(IMAGES, [None] * 2)
    for regions, image in zip(detected, IMAGES, strict=True):
        (given,) = extractor.extract([image], [regions.boxes])
        assert (given.boxes == regions.boxes).all()
        assert given.features.astype(float) == pytest.approx(regions.features.astype(float), abs=2e-3)
        assert (given.object_ids == regions.object_ids).all()  # the query that overlaps most is its own


def test_given_boxes_have_no_feature_of_the_detector_to_concatenate(folders: dict[str, Path]) -> None:
    with pytest.raises(ExtractorError, match="--encoder-feature replace"):
        build(folders, encoder_feature="concat").extract(IMAGES[:1], [np.array([[0, 0, 9, 9]], np.float32)])


def test_settings_of_an_encoder_want_an_encoder() -> None:
    with pytest.raises(ValueError, match="--encoder-size requires --encoder"):
        DetectorSettings(encoder_size=64)
    for size in (1, 100_000_000):
        with pytest.raises(ValueError, match="--encoder-size"):
            DetectorSettings(encoder="a/b", encoder_size=size)


def test_any_detector_takes_an_encoder(folders: dict[str, Path]) -> None:
    extractor = build({"encoder": folders["encoder"]}, detector="shapes", encoder_size=80)
    (regions,) = extractor.extract(IMAGES[:1], [np.array([[0, 0, 9, 9], [3, 3, 60, 50]], np.float32)])
    assert regions.features.shape == (2, 32)
    assert regions.class_probs is not None
