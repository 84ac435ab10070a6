"""Regions at given boxes: an image that has none is missing as one without features is, in training and evaluation."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vilbert.pipeline.cli import main
from vilbert.pipeline.finetune.run import open_items, open_task_data
from vilbert.pipeline.finetune.settings import GivenRegionsFinetuneSettings, NamedPeopleFinetuneSettings
from vilbert.pipeline.tasks.batch import make_item_batches
from vilbert.pipeline.train.engine.loop import data_names
from vilbert.pipeline.train.engine.share import Share
from vilbert.pipeline.train.examples.words import new_tokenizer
from vilbert.pipeline.train.run.folder import read_run

from ..tasks.small_tasks import CHANNELS, CLASSES, FOLDERS, PICTURES, THINGS, finetune_arguments, regions, split_of
from ..train.conftest import write_dataset_folder

LACKING = 6
"""Of the pictures the last ones, five to train and one held out."""


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("given") / "given"
    write_dataset_folder(
        folder, samples=PICTURES - LACKING, shard_size=450, feature_dim=CHANNELS, top_classes=2, class_names=CLASSES,
        splits=split_of, image_id=str, draw=regions,
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def run(small: Path, given: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    output = tmp_path_factory.mktemp("given-runs") / "run"
    assert main([*finetune_arguments(small, "vcr-qa", output, steps=1), "--given-data", str(given)]) == 0
    return output


def test_a_step_that_is_not_finite_advises_to_verify_the_given_regions_too(small: Path, given: Path, run: Path) -> None:
    training: Any = SimpleNamespace(description=read_run(run))
    assert data_names(training) == [str(small / "features"), str(given)]


def test_training_counts_them_and_stops_beyond_the_share(
    small: Path, given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    torch.set_num_threads(1)
    command = finetune_arguments(small, "vcr-qa", tmp_path / "run", steps=1)
    assert main([*command, "--given-data", str(given)]) == 0
    assert "vcr-qa, train: 5 of 750 are about images without regions in --given-data (895, 896," in caplog.text
    assert main([*command, "--given-data", str(given), "--max-missing-fraction", "0.005"]) == 2
    assert "without regions in --given-data" in capsys.readouterr().err


def test_evaluation_does_too(
    small: Path, given: Path, run: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    command = [
        "evaluate", "vcr-qa", str(small / "features"), "--given-data", str(given), "--checkpoint", str(run), "--json",
        "--annotations", str(small / FOLDERS["vcr-qa"]), "--device", "cpu", "--num-workers", "0",
    ]  # fmt: skip
    assert main(command) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["unread"], said["left_out"]) == (0, 1)
    assert "1 items have no prediction; a server may reject the file or count them as wrong" in caplog.text
    assert "vcr-qa, val: 1 of 150 are about images without regions in --given-data (894, ...)" in caplog.text
    assert "trained" not in caplog.text
    assert main([*command, "--max-missing-fraction", "0"]) == 2
    assert "more than --max-missing-fraction 0 allows" in capsys.readouterr().err
    at = command.index("--given-data")
    assert main(command[:at] + command[at + 2 :]) == 0
    assert "was trained with regions at given boxes: give --given-data" in caplog.text


def test_the_boxes_of_vcr_count_in_the_whole_images_feature(small: Path, given: Path, tmp_path: Path) -> None:
    settings = NamedPeopleFinetuneSettings(
        data=(str(small / "features"),), given_data=(str(given),), task="vcr-qa", init_from="none", model="shapes",
        tokenizer="new", annotations=small / "vcr", output=tmp_path / "run",
    )  # fmt: skip
    data = open_task_data(settings, new_tokenizer([" ".join(THINGS)]), *open_items(settings))
    (batch,) = make_item_batches(data.train, Share(rank=0, world=1, batch_size=8, accumulation=1), 0)
    assert ((batch.weights > 0) == (batch.region_mask > 0)).all()
    detected = torch.tensor(data.train.images.region_counts(batch.image_ids))
    assert (batch.region_mask.sum(1) == 2 * detected).all()


def test_true_boxes_of_expressions_are_shown_in_training_alone(small: Path, given: Path, tmp_path: Path) -> None:
    settings = GivenRegionsFinetuneSettings(
        data=(str(small / "features"),), given_data=(str(given),), task="refcocog", init_from="none", model="shapes",
        tokenizer="new", annotations=small / "refer", output=tmp_path / "run",
    )  # fmt: skip
    tokenizer = new_tokenizer([" ".join(THINGS)])
    data = open_task_data(settings, tokenizer, *open_items(settings))
    assert data.train.given is not None
    assert data.train.joined.missing == 3 * 5
    (batch,) = make_item_batches(data.train, Share(rank=0, world=1, batch_size=8, accumulation=1), 0)
    regions, counted = batch.region_mask.sum(1), (batch.weights > 0).sum(1)
    detected = torch.tensor(data.train.images.region_counts(batch.image_ids))
    assert (regions > detected).all()
    assert (counted == detected).all()  # the true boxes are no part of the whole image's feature
    torch.testing.assert_close(batch.weights.sum(1), torch.ones(len(counted)))
    assert data.held_out is not None
    assert data.held_out.given is None
    assert data.held_out.joined.missing == 0


def test_a_run_goes_on_with_the_same_boxes_wherever_they_lie(
    small: Path, given: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, moved, others = tmp_path / "run", tmp_path / "moved", tmp_path / "others"
    shutil.copytree(run, output)
    shutil.copytree(given, moved)
    command = [*finetune_arguments(small, "vcr-qa", output, steps=1), "--given-data"]
    assert main([*command, str(moved)]) == 0
    write_dataset_folder(
        others, samples=PICTURES - LACKING, shard_size=225, feature_dim=CHANNELS, top_classes=2, class_names=CLASSES,
        splits=split_of, image_id=str, draw=regions,
    )  # fmt: skip
    assert main([*command, str(others)]) == 2
    assert "data[1].records_sha256" in capsys.readouterr().err
