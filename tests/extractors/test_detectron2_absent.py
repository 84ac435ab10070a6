"""The detectron2 extractor where detectron2 is not installed."""

from __future__ import annotations

import sys

import pytest

from vilbert.extractors.extractor import DetectorSettings, ExtractorError, ExtractorSettings, build_extractor


def test_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "detectron2", None)
    detector = DetectorSettings(detector="detectron2", config_file="C4.yaml", weights="random")
    with pytest.raises(ExtractorError, match=r"cannot import detectron2 .*vilbert-pipeline\[detectron2\].*PYTHONPATH"):
        build_extractor(ExtractorSettings(detector=detector))
