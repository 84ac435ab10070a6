"""A loss that is no finite number is traced to the sample whose inputs are none, or inputs are said to be finite."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from vilbert.extractors.regions import Regions
from vilbert.pipeline.cli import main
from vilbert.pipeline.train.engine.bad_inputs import explain_inputs, not_finite_images

from ..conftest import CLASS_NAMES, draw_regions
from ..tiny_runs import MODEL, pretrain_arguments


@dataclass
class Part:
    features: torch.Tensor
    locations: torch.Tensor
    image_ids: tuple[str, ...]
    unread: int = 0

    def pin_memory(self) -> Part:
        return self


def part() -> Part:
    return Part(torch.zeros(3, 2, 4, dtype=torch.float16), torch.zeros(3, 2, 5), ("a", "b"))


def test_images_with_features_or_boxes_that_are_no_numbers_are_named() -> None:
    assert not_finite_images(part()) == []
    for name, value in (("features", torch.inf), ("features", torch.nan), ("locations", torch.nan)):
        bad = part()
        getattr(bad, name)[1, 1, 3] = value
        assert not_finite_images(bad) == ["b"]
    padding = part()
    padding.features[2] = torch.nan  # a row that stands for no image
    assert not_finite_images(padding) == []


def test_what_is_said_names_places_as_far_as_they_are_known() -> None:
    said = explain_inputs(["x", "y", "x"], 3, lambda step, wanted: {"x": f"s{step}.tar, key x"}, ["d1", "d2"])
    assert said.startswith("The features or boxes of 2 of them hold NaN or infinities: x (s3.tar, key x); y. ")
    assert said.endswith("`vilbert verify d1 --deep`; `vilbert verify d2 --deep`")
    assert "All features and boxes of the step are finite" in explain_inputs([], 3, None, ["d1"])


@pytest.mark.parametrize("more", [[], ["--non-finite", "skip"]])
def test_pretraining_names_shard_and_key_of_a_sample_of_nan(
    tmp_path: Path,
    make_dataset: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    more: list[str],
) -> None:
    def draw(row: int) -> Regions:
        drawn = draw_regions(0, row, 4, feature_dim=8, top_classes=3, classes=len(CLASS_NAMES))
        if row == 7:
            drawn.features[2, 3] = np.nan
        return drawn

    data = make_dataset(tmp_path / "a", samples=12, shard_size=5, draw=draw)
    (tmp_path / "model.json").write_text(json.dumps(MODEL))
    sizes = {"steps": 30 if more else 3, "batch_size": 12, "eval_every": 100, "save_every": 100}
    command = pretrain_arguments([data], tmp_path / "run", tmp_path / "model.json", **sizes)
    status = main([*command, "--eval-split", "none", *more])
    assert status == 1 or more  # a step that masks the region is finite
    said = capsys.readouterr().err + caplog.text
    assert f"1 of them hold NaN or infinities: photo.0007 ({data}/shards/000001.tar, key row7)" in said
    assert f"Run `vilbert verify {data} --deep`" in said
    assert "lower --learning-rate" not in said


def test_a_rate_that_is_too_high_is_told_after_the_data(
    tmp_path: Path, make_dataset: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_dataset(tmp_path / "a", samples=12, shard_size=5)
    (tmp_path / "model.json").write_text(json.dumps(MODEL))
    sizes = {"steps": 20, "batch_size": 12, "eval_every": 100, "save_every": 100}
    command = pretrain_arguments([data], tmp_path / "run", tmp_path / "model.json", **sizes)
    assert main([*command, "--eval-split", "none", "--learning-rate", "1e30", "--warmup", "0"]) == 1
    said = capsys.readouterr().err
    assert "All features and boxes of the step are finite" in said
    assert said.index("vilbert verify") < said.index("lower --learning-rate")
