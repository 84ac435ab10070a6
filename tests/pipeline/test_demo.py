"""The demo: its commands are ones that anybody can give, and it runs to its end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.cli import COMMANDS, parse
from pipeline.demo import DemoSettings, commands, demo, question, run, summary


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    """Return the folder of a demo that has drawn its scenes, as far as its last words want them."""
    document = tmp_path / "shapes" / "vqa" / "v2_OpenEnded_mscoco_val2014_questions.json"
    document.parent.mkdir(parents=True)
    document.write_text(json.dumps({"questions": [{"image_id": 3, "question": "What is it?", "question_id": 30}]}))
    return tmp_path


def test_its_commands_are_those_of_the_command_line(asked: Path) -> None:
    for name, *arguments in [*commands(asked, 10), question(asked)]:
        assert name in COMMANDS
        parse(name, arguments)


def test_it_goes_from_drawing_to_a_report(tmp_path: Path) -> None:
    assert [" ".join(command[: 1 + COMMANDS[command[0]].of_a_task]) for command in commands(tmp_path, 10)] == [
        "shapes", "manifest", "extract", "verify", "stats", "inspect", "pretrain", "finetune vqa", "evaluate vqa",
        "evaluate vqa", "report",
    ]  # fmt: skip


def test_what_one_command_writes_the_next_reads(tmp_path: Path) -> None:
    written = {tmp_path / "shapes"}
    for command in commands(tmp_path, 10):
        inside = {Path(text.split(":")[0]) for text in command if text.startswith(str(tmp_path))}
        outputs = {Path(command[command.index(name) + 1]) for name in ("--output", "--image") if name in command}
        made_here = outputs if command[0] != "manifest" else {tmp_path / "shapes.parquet"}
        for path in inside - made_here:
            assert any(path == one or one in path.parents for one in written), command
        written |= made_here


def test_the_last_words_have_accuracy_blind_accuracy_and_where_to_look(asked: Path) -> None:
    (asked / "pretrained").mkdir()
    learnt = {
        "alignment_accuracy": 0.91, "masked_image_accuracy": 0.52, "masked_image_majority": 0.16,
        "masked_lm_accuracy": 0.73,
    }  # fmt: skip
    (asked / "pretrained" / "evaluation.json").write_text(json.dumps({"figures": learnt}))
    (asked / "vqa-val.figures.json").write_text(json.dumps({"accuracy": 0.942}))
    (asked / "vqa-val-blind.figures.json").write_text(json.dumps({"accuracy": 0.417}))
    said = summary(asked, 123)
    for part in ("123 scenes", "in 91%", "in 52%", "16%", "in 73%", "94%", "42%", f"{asked}/report.html"):
        assert part in said
    photograph = asked / "shapes" / "val2014" / "COCO_val2014_000000000003.jpg"
    told = f"  vilbert predict vqa --checkpoint {asked}/vqa --image {photograph} --question 'What is it?'\n"
    assert told in said
    assert max(len(line.replace(str(asked), "demo")) for line in said.splitlines() if "predict" not in line) <= 120


@pytest.mark.ray
@pytest.mark.slow
def test_it_ends_with_a_report_and_says_what_happened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "demo"
    assert demo(DemoSettings(output=output, scenes=20)) == 0
    for made in (
        "features/dataset.json",
        "regions.png",
        "pretrained/report.html",
        "vqa/final/task.json",
        "report.html",
    ):
        assert (output / made).stat().st_size > 0
    said = capsys.readouterr().out.splitlines()
    assert any("belongs to a picture" in line for line in said[-20:])


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert demo(DemoSettings(output=tmp_path, scenes=20)) == 2
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_where_ray_does_not_start_the_demo_continues_with_the_local_backend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ray = pytest.importorskip("ray")

    def init(**_: object) -> None:
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "init", init)
    shapes, manifest, features, *_ = commands(tmp_path, 10)
    assert [run(shapes), run(manifest)] == [0, 0]
    assert run(features) == 0
    assert (tmp_path / "features" / "dataset.json").is_file()
    said = capsys.readouterr()
    assert "timed out during startup" in said.err
    assert "local backend" in said.out
    assert f"$ vilbert {' '.join(features)} --backend local" in said.out
