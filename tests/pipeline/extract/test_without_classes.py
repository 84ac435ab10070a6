"""From images to a pre-trained model without soft labels: patches of an encoder, and a detector without a softmax."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vilbert.extractors.extractor import DetectorSettings
from vilbert.pipeline.cli import main
from vilbert.pipeline.extract.run import extract
from vilbert.pipeline.extract.settings import ExtractSettings
from vilbert.pipeline.shards.dataset import read_dataset

from ...extractors.detectors.transformers.tiny_models import save_model
from ...extractors.encoders.tiny_encoders import save_encoder
from ..train.tiny_runs import MODEL, pretrain_arguments

Make = Callable[..., ExtractSettings]


@pytest.mark.parametrize(
    ("detector", "save", "fields"),
    [
        ("vit", lambda folder: save_encoder("vit", folder), {"boxes", "features"}),
        (
            "transformers",
            lambda folder: save_model("rt_detr_v2", folder),
            {"boxes", "features", "object_ids", "object_scores"},
        ),
    ],
)
def test_regions_are_extracted_verified_and_pretrained_on(
    detector: str,
    save: Callable[[Path], Path],
    fields: set[str],
    settings_for: Make,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made: dict[str, Any] = {"detector": detector, "weights": save(tmp_path / "weights"), "device": "cpu"}
    settings = settings_for("features", detector=DetectorSettings(**made), limit=10)
    assert extract(settings) == 0
    assert set(read_dataset(tmp_path / "features").fields) == fields
    assert main(["verify", str(tmp_path / "features"), "--deep"]) == 0

    (tmp_path / "model.json").write_text(json.dumps(MODEL))
    run = tmp_path / "run"
    arguments = pretrain_arguments(
        [tmp_path / "features"], run, tmp_path / "model.json", steps=2, batch_size=4, eval_every=2, save_every=2
    )
    assert main([*arguments, "--eval-split", "held-out"]) == 0
    assert json.loads((run / "final" / "config.json").read_text())["visual_target"] == 1
    assert main([*arguments, "--output", str(tmp_path / "other"), "--visual-target", "classes"]) == 2
    assert "give --visual-target regression or nce" in capsys.readouterr().err
