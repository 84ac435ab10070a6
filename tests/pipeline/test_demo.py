"""The demo: its commands are ones that anybody can give, and it runs to its end."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vilbert.pipeline.cli import COMMANDS, main, parse
from vilbert.pipeline.demo import Stage, question, run, stages, summary
from vilbert.pipeline.demo_progress import remaining_seconds
from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.shards.location.lock import exclusive_writer

HALF_WAY = {"extract": 4.0, "pretrain": 1.0, "finetune": 1.0}
"""Seconds into a stage; the others take less than one."""


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    """Return the folder of a demo that has drawn its scenes, as far as its last words want them."""
    document = tmp_path / "shapes" / "vqa" / "v2_OpenEnded_mscoco_val2014_questions.json"
    document.parent.mkdir(parents=True)
    document.write_text(json.dumps({"questions": [{"image_id": 3, "question": "What is it?", "question_id": 30}]}))
    return tmp_path


def commands(output: Path, scenes: int) -> list[list[str]]:
    return [stage.command for stage in stages(output, scenes)]


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


def write_figures(folder: Path) -> None:
    (folder / "pretrained").mkdir()
    learnt = {
        "alignment_accuracy": 0.91, "masked_image_accuracy": 0.52, "masked_image_majority": 0.16,
        "masked_lm_accuracy": 0.73,
    }  # fmt: skip
    (folder / "pretrained" / "evaluation.json").write_text(json.dumps({"figures": learnt}))
    (folder / "vqa-val.figures.json").write_text(json.dumps({"accuracy": 0.942}))
    (folder / "vqa-val-blind.figures.json").write_text(json.dumps({"accuracy": 0.417}))


FIGURES = ("pretrained/evaluation.json", "vqa-val.figures.json", "vqa-val-blind.figures.json")
QUESTIONS = "shapes/vqa/v2_OpenEnded_mscoco_val2014_questions.json"


@pytest.mark.parametrize("name", [*FIGURES, QUESTIONS])
@pytest.mark.parametrize(
    "content",
    [
        *("", "[]", "{}", "3", '{"figures": 3, "accuracy": "x", "questions": [3]}', "[" * 100_000, '"\\ud83d"'),
        *('{"figures": {}, "accuracy": true, "questions": []}', '{"questions": [{"image_id": "3", "question": "a"}]}'),
        '{"questions": {"0": {}}}',
        '{"figures": 3, "accuracy": 1' + "0" * 400 + "}",
        None,
    ],
)
def test_a_damaged_file_of_a_finished_demo_is_named(asked: Path, name: str, content: str | None) -> None:
    write_figures(asked)
    (asked / name).unlink()
    if content is not None:
        (asked / name).write_text(content)
    with pytest.raises(RefusedError, match=r"cannot be read: .*--overwrite") as error:
        summary(asked, 123)
    assert str(error.value).startswith(f"{asked / name}: ")


def test_the_last_words_have_accuracy_blind_accuracy_and_where_to_look(asked: Path) -> None:
    write_figures(asked)
    said = summary(asked, 123)
    for part in ("123 scenes", "91% accuracy", "in 52%", "16%", "in 73%", "94%", "42%", f"{asked}/report.html"):
        assert part in said
    photograph = asked / "shapes" / "val2014" / "COCO_val2014_000000000003.jpg"
    told = f"  vilbert predict vqa --checkpoint {asked}/vqa --image {photograph} --question 'What is it?'\n"
    assert told in said
    assert max(len(line.replace(str(asked), "demo")) for line in said.splitlines() if "predict" not in line) <= 120


def test_a_small_demo_leaves_out_what_was_not_measured(asked: Path) -> None:
    write_figures(asked)
    (asked / "pretrained" / "evaluation.json").write_text(json.dumps({"figures": {"alignment_accuracy": 0.5}}))
    said = summary(asked, 20)
    assert "matches an image with 50%" in said
    assert "masked" not in said


@pytest.mark.ray
@pytest.mark.slow
def test_interrupted_in_every_stage_it_ends_with_a_report(tmp_path: Path) -> None:
    output = tmp_path / "demo"
    command = [sys.executable, "-u", "-m", "vilbert.pipeline.cli", "demo", "--output", str(output), "--scenes", "20"]
    names = [stage.name for stage in stages(output, 20)]
    interrupted = 0
    for number, name in enumerate(names, start=1):
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            assert process.stdout is not None
            said: list[str] = []
            for line in process.stdout:
                said.append(line)
                if line.startswith(f"[{number}/{len(names)}] {name}: elapsed"):
                    process.stdout.readline()
                    time.sleep(HALF_WAY.get(name, 0.05))
                    process.send_signal(signal.SIGINT)
        text = "".join(said)
        assert "Traceback" not in text
        # Python ends itself by the signal where a library ran the code that it came in; a shell shows 130 for both.
        assert process.returncode in (0, 130, -signal.SIGINT), text
        assert process.returncode == 0 or "was interrupted; run the same command again" in text
        interrupted += process.returncode != 0
        skipped = [name for name in names if f"] {name}: already finished, skipped" in text]
        assert skipped == names[: len(skipped)]
    assert interrupted >= 6  # the shortest stages can end before the signal comes
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for made in (
        "features/dataset.json",
        "regions.png",
        "pretrained/report.html",
        "vqa/final/task.json",
        "report.html",
    ):
        assert (output / made).stat().st_size > 0
    assert "matches an image" in done.stdout


def started(output: Path, *options: str, scenes: int = 20) -> int:
    """Run the command and return its exit status."""
    return main(["demo", "--output", str(output), "--scenes", str(scenes), *options])


class Commands:
    """Takes the place of the commands: writes down which were run, and ends them as it is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ran: list[str] = []
        self.ends: dict[str, int] = {}
        monkeypatch.setattr("vilbert.pipeline.demo.run", self.run)
        monkeypatch.setattr("vilbert.pipeline.demo.summary", lambda output, scenes: f"See {output}/report.html")

    def run(self, stage: Stage) -> int:
        self.ran.append(stage.command[0])
        return self.ends.get(stage.command[0], 0)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Commands:
    return Commands(monkeypatch)


ALL = [stage.command[0] for stage in stages(Path("demo"), 20)]


@pytest.mark.parametrize(
    "name", ["shapes", "manifest", "extract", "verify", "stats", "inspect", "pretrain", "finetune", "report"]
)
@pytest.mark.parametrize("status", [130, 1])
def test_an_interrupted_demo_resumes_at_the_stage_that_was_interrupted(
    tmp_path: Path, fake: Commands, name: str, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.ends[name] = status
    assert started(tmp_path / "demo") == status
    assert fake.ran == ALL[: ALL.index(name) + 1]
    number = ALL.index(name) + 1
    assert re.search(rf"\[{number}/11\] .*; run the same command again to resume", capsys.readouterr().err)
    fake.ends, fake.ran = {}, []
    assert started(tmp_path / "demo") == 0
    assert fake.ran == ALL[ALL.index(name) :]
    said = capsys.readouterr().out
    assert said.count("already finished, skipped") == number - 1
    assert "report.html" in said


def test_a_finished_demo_says_so_and_where_the_report_is(
    tmp_path: Path, fake: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    assert started(tmp_path / "demo") == 0
    fake.ran = []
    capsys.readouterr()
    assert started(tmp_path / "demo") == 0
    assert fake.ran == []
    said = capsys.readouterr().out
    assert "is finished" in said
    assert f"{tmp_path}/demo/report.html" in said


def test_each_stage_says_its_number_and_the_elapsed_and_remaining_time(
    tmp_path: Path, fake: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    started(tmp_path / "demo")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[")]
    assert [line.partition("]")[0] for line in lines] == [f"[{number}/11" for number in range(1, 12)]
    assert all(re.search(r"elapsed \d+:\d\d, about \d+:\d\d remaining", line) for line in lines)


def test_the_remaining_time_is_that_of_a_machine_as_fast_as_its_finished_stages() -> None:
    shares = {"first": 10.0, "second": 30.0, "third": 20.0}
    assert remaining_seconds(shares, {}, list(shares), 1) == 60
    assert remaining_seconds(shares, {"first": 25.0}, list(shares), 1) == 125
    assert remaining_seconds(shares, {"first": 25.0}, list(shares), 0.5) == 125
    assert remaining_seconds(shares, {}, list(shares), 0.5) == 30
    assert remaining_seconds(shares, dict.fromkeys(shares, 9.0), list(shares), 1) == 0


def test_a_demo_with_other_settings_is_refused_and_left_alone(
    tmp_path: Path, fake: Commands, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "demo"
    started(output)
    before = (output / "demo.json").read_bytes()
    assert started(output, scenes=30) == 2
    assert "holds a demo of 20 scenes, not 30" in capsys.readouterr().err
    monkeypatch.setattr("vilbert.pipeline.__version__", "9.9")
    assert started(output) == 2
    said = capsys.readouterr().err
    assert "this is version 9.9" in said
    assert "--overwrite" in said
    assert (output / "demo.json").read_bytes() == before


def test_overwrite_begins_a_demo_again_whatever_its_settings(tmp_path: Path, fake: Commands) -> None:
    output = tmp_path / "demo"
    started(output)
    (output / "shapes").mkdir()
    fake.ran = []
    assert started(output, "--overwrite", scenes=30) == 0
    assert fake.ran == ALL
    assert not (output / "shapes").exists()


@pytest.mark.parametrize("options", [[], ["--overwrite"]])
def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, fake: Commands, options: list[str]) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert started(tmp_path, *options) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    assert fake.ran == []


def test_a_demo_of_an_earlier_version_is_refused(
    tmp_path: Path, fake: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / ".vilbert-demo").touch()
    assert started(tmp_path) == 2
    assert "earlier version" in capsys.readouterr().err
    assert started(tmp_path, "--overwrite") == 0


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"[]", b"{", b"null", b"[" * 100_000, b"\xff"),
        b'{"version": 1, "scenes": 20, "seconds": {}}',
        b'{"version": "0.1.0", "scenes": 20, "seconds": {"draw": "x"}}',
        b'{"version": "0.1.0", "scenes": true}',
    ],
)
def test_a_damaged_state_is_refused_without_a_traceback(
    tmp_path: Path, fake: Commands, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    (tmp_path / "demo.json").write_bytes(content)
    assert started(tmp_path) == 2
    assert "demo.json" in capsys.readouterr().err
    assert fake.ran == []


def test_two_demos_do_not_write_to_one_folder(
    tmp_path: Path, fake: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    with exclusive_writer(tmp_path):
        assert started(tmp_path) == 2
    assert "is writing here" in capsys.readouterr().err
    assert fake.ran == []


def test_where_ray_does_not_start_the_demo_continues_with_the_local_backend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ray = pytest.importorskip("ray")

    def init(**_: object) -> None:
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "init", init)
    shapes, manifest, features, *_ = stages(tmp_path, 10)
    assert [run(shapes), run(manifest)] == [0, 0]
    assert run(features) == 0
    assert (tmp_path / "features" / "dataset.json").is_file()
    said = capsys.readouterr()
    assert "timed out during startup" in said.err
    assert "local backend" in said.out
    assert f"$ vilbert {' '.join(features.command)} --backend local" in said.out
