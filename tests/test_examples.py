"""The scripts of examples/ run as they are, on a few generated scenes."""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vilbert.extractors.extractor import ExtractorSettings, build_extractor
from vilbert.pipeline.shapes.render import jpeg
from vilbert.pipeline.shapes.scene import make_scene

from .pipeline.predict.tiny_predictor import DETECTOR, SELECTION, write_model

ROOT = Path(__file__).resolve().parents[1]
SCENES = 6


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a few images and their captions."""
    folder = tmp_path_factory.mktemp("examples")
    (folder / "photographs").mkdir()
    for number in range(SCENES):
        scene = make_scene(0, number)
        (folder / f"photographs/{number}.jpg").write_bytes(jpeg(scene))
        caption = " and ".join(f"a {item.colour} {item.shape}" for item in scene.objects)
        (folder / f"photographs/{number}.txt").write_text(caption)
    return folder


@pytest.fixture
def run(
    scenes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[str, str]]:
    """Return what runs a script of examples/ in the folder and returns what it printed."""
    monkeypatch.chdir(scenes)
    monkeypatch.syspath_prepend(str(ROOT / "examples"))

    def run_script(*command: str, status: int = 0) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", list(command))
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / "examples" / command[0]), run_name="__main__")
        printed = capsys.readouterr()
        assert ended.value.code == status, printed.err
        return printed.out, printed.err

    return run_script


def test_features_are_extracted_and_read_and_a_model_is_trained_and_resumed(scenes: Path, run: Any) -> None:
    printed, _ = run("features.py", "photographs", "features", "--detector", "shapes")
    assert re.findall(r"^(\d): \d+ regions, features \(\d+, 256\)", printed, re.MULTILINE) == list(map(str, range(6)))
    printed, _ = run("train.py", "features", "run", "--steps", "4")
    assert re.findall(r"^step (\d): loss \d+\.\d+$", printed, re.MULTILINE) == ["1", "2", "3", "4"]
    assert "run/final: " in printed
    assert len((scenes / "run/sessions.jsonl").read_text().splitlines()) >= 2  # it was resumed

    loop = ("own_loop.py", "features", "run/final", "--steps", "2", "--state", "loop.json")
    positions = [re.findall(r"^position (\d+): loss", run(*loop)[0], re.MULTILINE) for _ in range(2)]
    assert positions == [["4", "8"], ["12", "16"]]
    pytest.importorskip("accelerate", reason="the Trainer of transformers needs accelerate")
    for steps in (4, 6):
        printed, _ = run("hf_trainer.py", "features", "run/final", "trainer", "--steps", str(steps))
        assert len(re.findall(r"^step \d: loss \d+\.\d+$", printed, re.MULTILINE)) == steps
        assert f"position {4 * steps}\n" in printed  # steps of a resumed run read no batch twice


def test_a_model_is_asked_and_a_photograph_that_is_missing_does_not_stop_the_others(scenes: Path, run: Any) -> None:
    extractor = build_extractor(ExtractorSettings(detector=DETECTOR, selection=SELECTION))
    write_model(scenes / "vqa", "vqa", extractors=[extractor.fingerprint()])
    printed, errors = run("ask.py", "vqa", "what colour is the star", "photographs/0.jpg", "none.jpg", status=1)
    assert printed.startswith("photographs/0.jpg: ")
    assert len(re.findall(r"^  [01]\.\d{3}  answer \d+$", printed, re.MULTILINE)) == 3
    assert "none.jpg" in errors
