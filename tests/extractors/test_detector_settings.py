"""Options of one detector are refused with another, where they would have no effect."""

from __future__ import annotations

from typing import Any

import pytest

from vilbert.extractors.extractor import DetectorSettings


@pytest.mark.parametrize(
    ("detector", "option"),
    [
        ("torchvision", {"config_file": "x.yaml"}),
        ("shapes", {"config_file": "x.yaml"}),
        ("shapes", {"opts": ("MODEL.DEVICE", "cpu")}),
        ("shapes", {"torchvision_model": "mobilenet_v3_large_fpn"}),
        ("grid", {"feature_layer": "fc6"}),
        ("grid", {"top_classes": 5}),
        ("vit", {"weights": "x", "feature_layer": "fc6"}),
        ("vit", {"weights": "x", "top_classes": 5}),
        ("transformers", {"weights": "x", "feature_layer": "fc6"}),
    ],
)
def test_an_option_of_another_detector_is_refused(detector: Any, option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="has no effect"):
        DetectorSettings(detector=detector, **option)


def test_an_option_of_the_detector_itself_is_taken() -> None:
    settings = DetectorSettings(detector="detectron2", config_file="x.yaml", opts=("MODEL.DEVICE", "cpu"))
    assert (str(settings.config_file), settings.opts) == ("x.yaml", ("MODEL.DEVICE", "cpu"))
    settings = DetectorSettings(detector="torchvision", torchvision_model="mobilenet_v3_large_fpn")
    assert settings.torchvision_model == "mobilenet_v3_large_fpn"
