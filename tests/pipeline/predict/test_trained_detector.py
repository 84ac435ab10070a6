"""A model says which detector's regions it was trained on: that one is used, and another one is warned of."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vilbert.extractors.extractor import DetectorSettings, ExtractorSettings, build_extractor
from vilbert.extractors.selection import SelectionSettings
from vilbert.pipeline.cli import parse
from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.predict.predictor import Predictor
from vilbert.pipeline.predict.trained_detector import choose_extractor
from vilbert.pipeline.tasks.task_card import TaskCard

from ..tasks.small_tasks import finetune_arguments
from .tiny_predictor import DETECTOR, SELECTION, load, write_model

OTHER = SelectionSettings(boxes="5-9", confidence=0.5, nms=0.5)
TORCHVISION = {
    "extractor": "torchvision", "model": "fasterrcnn_mobilenet_v3_large_320_fpn", "feature_layer": "fc6",
    "precision": "bf16", "top_classes": 7, "selection": {"boxes": "10-100", "selection": "topk"},
}  # fmt: skip
DETECTRON2 = {"extractor": "detectron2", "feature_layer": "res5", "selection": {"boxes": "10-100"}}


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    """Return what the regions of the shapes detector depend on."""
    extractor = build_extractor(ExtractorSettings(detector=DETECTOR, selection=SELECTION))
    return dict(json.loads(json.dumps(extractor.fingerprint())))


@pytest.fixture
def model(tmp_path: Path) -> Callable[..., Path]:
    """Return what writes a tiny model that was trained on regions of some extractors."""
    return lambda *extractors: write_model(tmp_path / "run", "vqa", extractors=extractors)


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.WARNING)
    return lambda: [it.getMessage() for it in caplog.records if it.name == "vilbert.pipeline.predict.trained_detector"]


def card(*extractors: Any) -> TaskCard:
    return TaskCard(task="vqa", labels=(), max_words=16, max_regions=12, seed=0, extractors=extractors)


def asked(run: Path, *options: str) -> ExtractorSettings:
    """Return the detector and the selection that a command line of `predict` comes to."""
    line = ["vqa", "--checkpoint", str(run), "--image", "a.jpg", "--question", "what", *options]
    settings = parse("predict", line)
    return ExtractorSettings(detector=settings.detector, selection=settings.selection)


def test_by_default_it_is_the_one_of_the_training(
    facts: dict[str, Any], model: Callable[..., Path], warnings: Callable[[], list[str]]
) -> None:
    assert Predictor.load(model(facts), device="cpu").reader.extractor.fingerprint() == facts
    assert not warnings()


def test_a_final_folder_needs_nothing_else_of_its_run(facts: dict[str, Any], model: Callable[..., Path]) -> None:
    run = model(facts)
    moved = shutil.copytree(run / "final", run.parent / "moved")
    assert Predictor.load(Path(moved), device="cpu").reader.extractor.fingerprint() == facts
    assert asked(Path(moved)) == asked(run)


def test_options_go_one_by_one_over_those_of_the_training(facts: dict[str, Any], model: Callable[..., Path]) -> None:
    run = model(facts)
    known = ExtractorSettings(detector=replace(DETECTOR, device="auto"), selection=SELECTION)
    assert asked(run) == known
    usual = SelectionSettings()
    assert asked(run, "--boxes", usual.boxes) == replace(known, selection=replace(SELECTION, boxes=usual.boxes))
    assert asked(run, "--nms", "0.7") == replace(known, selection=replace(SELECTION, nms=0.7))
    assert asked(run, "--device", "cpu") == replace(known, detector=DETECTOR)
    assert asked(run, "--detector", "torchvision").detector.detector == "torchvision"
    assert asked(run, "--precision", "bf16").detector == replace(known.detector, precision="bf16")


def test_a_config_file_goes_over_them_too(facts: dict[str, Any], model: Callable[..., Path], tmp_path: Path) -> None:
    run = model(facts)
    config = tmp_path / "config.yaml"
    config.write_text(f"checkpoint: {run}\nboxes: 7\n")
    line = ["vqa", "--config", str(config), "--image", "a.jpg", "--question", "what", "--nms", "0.7"]
    assert parse("predict", line).selection == replace(SELECTION, boxes="7", nms=0.7)


def test_the_report_takes_them_too(facts: dict[str, Any], model: Callable[..., Path]) -> None:
    line = ["features", "--annotations", "vqa", "--checkpoint", str(model(facts)), "--results", "results.json"]
    settings = parse("report", line)
    assert (settings.detector, settings.selection) == (replace(DETECTOR, device="auto"), SELECTION)


def test_what_is_wrong_with_a_model_is_left_to_the_command(tmp_path: Path) -> None:
    assert asked(tmp_path / "gone") == ExtractorSettings()
    with pytest.raises(SystemExit):
        parse("predict", ["vqa", "--image", "a.jpg", "--question", "what", "--checkpoint"])


def test_a_torchvision_model_and_its_layer_are_known_again(model: Callable[..., Path]) -> None:
    wanted = ExtractorSettings(
        detector=DetectorSettings(
            torchvision_model="mobilenet_v3_large_320_fpn", feature_layer="fc6", precision="bf16", top_classes=7
        ),
        selection=SelectionSettings(boxes="10-100", selection="topk"),
    )
    assert choose_extractor(card(TORCHVISION), None, None, device="auto") == wanted
    assert asked(model(TORCHVISION)) == wanted


def test_a_detector_that_needs_files_has_to_be_given(
    model: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = model(DETECTRON2)
    with pytest.raises(RefusedError, match="give the settings of its detector, detectron2"):
        Predictor.load(run, device="cpu")
    with pytest.raises(SystemExit):
        asked(run)
    assert "--detector detectron2 needs --config-file" in " ".join(capsys.readouterr().err.split())
    found = asked(run, "--config-file", "model.yaml", "--weights", "model.pkl")
    assert (found.detector.config_file, found.selection.boxes) == ("model.yaml", "10-100")


@pytest.mark.parametrize("facts", [{**TORCHVISION, "encoder": {}}, {"extractor": "grid", "model_type": "resnet"}])
def test_an_encoder_has_to_be_given_too(facts: dict[str, Any]) -> None:
    with pytest.raises(RefusedError, match=f"give the settings of its detector, {facts['extractor']}"):
        choose_extractor(card(facts), None, None, device="auto")


def test_what_is_given_goes_over_what_the_model_knows(facts: dict[str, Any]) -> None:
    known = ExtractorSettings(detector=replace(DETECTOR, device="cuda"), selection=SELECTION)
    assert choose_extractor(card(facts), None, None, device="cuda") == known
    assert choose_extractor(card(facts), None, OTHER, device="cuda") == replace(known, selection=OTHER)
    usual = DetectorSettings()
    assert choose_extractor(card(facts), usual, None, device="cuda") == replace(known, detector=usual)


@pytest.mark.parametrize(
    "facts", [None, {"selection": {"boxes": "many"}}, {"selection": {"other": 1}}, {"top_classes": "a"}, {}]
)
def test_a_model_that_does_not_say_needs_to_be_told(facts: dict[str, Any] | None) -> None:
    unsaid = card() if facts is None else card({"extractor": "shapes", **facts} if facts else {"selection": {}})
    with pytest.raises(RefusedError, match="cannot tell how"):
        choose_extractor(unsaid, None, None, device="auto")
    assert choose_extractor(card(), DETECTOR, SELECTION, device="auto").detector == DETECTOR


def test_another_selection_is_named(
    facts: dict[str, Any], model: Callable[..., Path], warnings: Callable[[], list[str]]
) -> None:
    Predictor.load(model(facts), selection=OTHER, device="cpu")
    (said,) = warnings()
    assert "was trained on regions of other detector settings" in said
    assert 'boxes: "2-20" in the data set, "5-9" requested' in said
    assert "nms" not in said


def test_each_way_of_several_data_sets_is_compared(
    facts: dict[str, Any], model: Callable[..., Path], warnings: Callable[[], list[str]]
) -> None:
    Predictor.load(model(facts, {**facts, "precision": "bf16"}), device="cpu")
    (said,) = warnings()
    assert "precision" in said


def test_a_gpu_is_no_other_detector(
    facts: dict[str, Any], model: Callable[..., Path], warnings: Callable[[], list[str]]
) -> None:
    Predictor.load(model({**facts, "device": "cuda"}), device="cpu")
    assert not warnings()


def test_a_model_that_does_not_say_is_warned_of(model: Callable[..., Path], warnings: Callable[[], list[str]]) -> None:
    load(model())
    (said,) = warnings()
    assert "does not record the detector of the training features" in said


def test_regions_at_given_boxes_are_missed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = write_model(tmp_path / "run", "vcr-qa")
    card = json.loads((run / "final" / "task.json").read_text())
    for given_boxes in (False, True):
        (run / "final" / "task.json").write_text(json.dumps({**card, "given_boxes": given_boxes}))
        load(run)
        assert ("was trained with regions at given boxes" in caplog.text) == given_boxes


def test_a_run_writes_it_down(small: Path, tmp_path: Path) -> None:
    from vilbert.pipeline.cli import main

    assert main(finetune_arguments(small, "snli-ve", tmp_path / "run", steps=1)) == 0
    made_by = json.loads((small / "features" / "dataset.json").read_text())["fingerprint_fields"]["extractor"]
    for folder in (tmp_path / "run", tmp_path / "run" / "final"):
        assert json.loads((folder / "task.json").read_text())["extractors"] == [made_by]
