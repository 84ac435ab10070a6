"""docs/extending/task.md: its package outside the repository is a task, trained, evaluated, asked and reported."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from vilbert.pipeline.cli import main, parse
from vilbert.plugins import all_entry_points

from .extending_pages import install_page, vilbert
from .pipeline.predict.tiny_predictor import OPTIONS, SIZES, write_features, write_scenes


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The package of the page on sys.path."""
    folder = install_page("task.md", tmp_path_factory.mktemp("outside") / "packages")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        all_entry_points.cache_clear()
        yield folder
    all_entry_points.cache_clear()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, package: Path) -> Path:
    """Scenes, their features, questions about them, and a model that `vilbert finetune toy` trained for two steps."""
    folder = tmp_path_factory.mktemp("toy")
    write_scenes(folder / "shapes")
    write_features(folder / "shapes", folder / "features")
    (folder / "model.json").write_text(json.dumps(SIZES))
    (folder / "questions").mkdir()
    for split in ("train", "val"):
        ids = [int(path.stem.rpartition("_")[2]) for path in (folder / "shapes" / f"{split}2014").glob("*.jpg")]
        rows = [
            {"id": f"{image}-{shape}", "image_id": str(image), "question": f"is there a {shape}", "answer": answer}
            for image in sorted(ids)
            for shape, answer in (("star", "yes"), ("ring", "no"))
        ]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "questions" / f"toy_{split}.jsonl").write_text(lines)
    trained = [
        "finetune", "toy", str(folder / "features"), "--annotations", str(folder / "questions"), "--output",
        str(folder / "run"), "--init-from", "none", "--tokenizer", "new", "--model", str(folder / "model.json"),
        "--max-steps", "2", "--batch-size", "4", "--num-workers", "0", "--device", "cpu", "--tracker", "none",
    ]  # fmt: skip
    assert main(trained) == 0
    return folder


def test_the_model_is_trained_with_the_recipe_of_the_package(folder: Path) -> None:
    run = json.loads((folder / "run" / "run.json").read_text())["settings"]
    assert (run["task"], run["learning_rate"], run["max_tokens"]) == ("toy", 4e-5, 16)
    card = json.loads((folder / "run" / "final" / "task.json").read_text())
    assert card["task"] == "toy"
    evaluation = json.loads((folder / "run" / "evaluation.json").read_text())["figures"]
    assert 0 <= evaluation["accuracy"] <= 1


def test_the_model_is_evaluated_and_reported(folder: Path) -> None:
    results, page = folder / "results.json", folder / "report.html"
    questions = ["--annotations", str(folder / "questions"), "--checkpoint", str(folder / "run")]
    more = ["--output", str(results), "--num-workers", "0", "--device", "cpu"]
    assert main(["evaluate", "toy", str(folder / "features"), *questions, *more]) == 0
    rows = json.loads(results.read_text())
    assert len(rows) == 2 * len(list((folder / "shapes" / "val2014").glob("*.jpg")))
    assert {row["answer"] for row in rows} <= {"yes", "no"}
    report = ["report", str(folder / "features"), *questions, "--results", str(results), "--output", str(page)]
    assert main([*report, *OPTIONS]) == 0
    assert "Guessing is right in 50%." in page.read_text()


@pytest.mark.slow
def test_the_model_is_asked_in_a_process_of_its_own(folder: Path, package: Path) -> None:
    photograph = next((folder / "shapes" / "val2014").glob("*.jpg"))
    asked = ("predict", "toy", "--checkpoint", folder / "run", "--image", photograph, "--question", "is there a star")
    done = vilbert(*asked, "--json", "--device", "cpu", packages=package, cwd=folder)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert {found["answer"] for found in row["ranked"]} == {"yes", "no"}


def test_help_shows_the_options_of_the_task(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["predict", "toy", "--help"])
    shown = capsys.readouterr().out
    assert "--question" in shown
    assert "--phrase" not in shown
    with pytest.raises(SystemExit):
        main(["finetune", "toy", "--help"])
    shown = capsys.readouterr().out
    assert "--given-data" not in shown
    assert "--min-answer-count" not in shown
    assert main(["finetune", "tox"]) == 2
    assert "did you mean toy?" in capsys.readouterr().err


def test_a_task_of_a_multitask_run(folder: Path) -> None:
    tasks = folder / "tasks.json"
    tasks.write_text(json.dumps([{"task": "toy", "annotations": str(folder / "questions")}]))
    settings = parse(
        "finetune multitask",
        [str(folder / "features"), "--tasks", str(tasks), "--output", str(folder / "many"), "--init-from", "i"],
    )
    assert [entry.settings.task for entry in settings.entries()] == ["toy"]
