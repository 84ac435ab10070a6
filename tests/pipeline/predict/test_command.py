"""`vilbert predict`: what it prints, draws and writes, and what it refuses."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from PIL import Image

from vilbert.pipeline.cli import main
from vilbert.pipeline.tasks.vqa import spec as vqa_spec

from .tiny_predictor import OPTIONS, write_model, write_scenes

TASKS = ("vqa", "refcocog", "retrieval", "captioning", "vcr-qa", "vcr-qar", "nlvr2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a tiny model of some tasks, each in a folder of its name, and photographs 0.jpg to 2.jpg."""
    folder = tmp_path_factory.mktemp("predict")
    for number, path in enumerate(write_scenes(folder / "shapes")[:3]):
        path.rename(folder / f"{number}.jpg")
    for task in TASKS:
        write_model(folder / task, task)
    return folder


def predict(folder: Path, task: str, *arguments: str, images: int = 1, checkpoint: str | None = None) -> int:
    photographs = [str(folder / f"{number}.jpg") for number in range(images)]
    run = str(folder / (checkpoint or task))
    return main(["predict", task, "--checkpoint", run, "--image", *photographs, *arguments, *OPTIONS])


def test_answers_come_with_probabilities_best_first(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict(folder, "vqa", "--question", "what colour is the ring", "--top", "3", images=2) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line for line in said if line.endswith("what colour is the ring")] == [said[0], said[4]]
    chances = [float(line.split()[0]) for line in said[1:4]]
    assert chances == sorted(chances, reverse=True)
    assert all(line.split()[1] == "answer" for line in said[1:4])


def test_json_is_one_list(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict(folder, "vqa", "--question", "a ring", "a red star", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["question"] for row in rows] == ["a ring", "a red star"]
    assert all(len(row["ranked"]) == 5 for row in rows)


def test_the_place_of_a_phrase_is_drawn(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "drawn.png"
    assert predict(folder, "refcocog", "--phrase", "the left star", "--output", str(picture), "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)
    drawn = Image.open(picture).convert("RGB")
    original = Image.open(folder / "0.jpg").convert("RGB")
    scale = drawn.width // original.width
    resized = np.asarray(original.resize(drawn.size, Image.Resampling.BICUBIC), dtype=int)
    changed = np.abs(np.asarray(drawn, dtype=int) - resized).max(2) > 40
    x1, y1, x2, y2 = (round(side * scale) for side in row["box_xyxy"])
    inside = np.zeros_like(changed)
    inside[max(y1 - 4, 0) : y2 + 5, max(x1 - 4, 0) : x2 + 5] = True
    label = changed & ~inside
    assert changed[(y1 + y2) // 2, max(x1 - 4, 0) : x1 + 5].any()
    assert label.sum() < 0.1 * changed.size


def test_photographs_are_ranked_for_a_caption(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict(folder, "retrieval", "--caption", "a red ring", "--json", images=3) == 0
    (row,) = json.loads(capsys.readouterr().out)
    scores = [found["score"] for found in row["ranked"]]
    assert scores == sorted(scores, reverse=True)
    assert {Path(found["image"]).name for found in row["ranked"]} == {"0.jpg", "1.jpg", "2.jpg"}


def test_captions_are_ranked_for_a_photograph(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    captions, picture = ["a red ring", "a star", "the left heart"], tmp_path / "drawn.png"
    assert predict(folder, "retrieval", "--caption", *captions, "--json", "--output", str(picture)) == 0
    (row,) = json.loads(capsys.readouterr().out)
    scores = [found["score"] for found in row["ranked"]]
    assert scores == sorted(scores, reverse=True)
    assert sorted(found["caption"] for found in row["ranked"]) == sorted(captions)
    assert picture.exists()
    assert predict(folder, "retrieval", "--caption", *captions, "--top", "2") == 0
    first, best, second = capsys.readouterr().out.splitlines()
    assert first == str(folder / "0.jpg")
    assert [line.strip().split(maxsplit=1)[1] for line in (best, second)] == [it["caption"] for it in row["ranked"][:2]]


def test_a_ranking_is_drawn_on_its_best_photograph(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    assert predict(folder, "retrieval", "--caption", "a red ring", "--json", "--attention", str(page), images=3) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert f"retrieval, {Path(row['ranked'][0]['image']).name}" in page.read_text()


def test_a_photograph_is_described(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    arguments = ["--method", "nucleus", "--seed", "6", "--max-tokens", "4", "--attention", str(page)]
    assert predict(folder, "captioning", *arguments) == 0
    caption = capsys.readouterr().out.strip().partition("  ")[2]
    assert 1 <= len(caption.split()) <= 4
    assert f"<h1>{caption}</h1>" in page.read_text()


def test_the_best_option_is_what_attention_is_shown_of(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    arguments = ["--question", "what is left", "--option", "a ring", "the star", "--json", "--attention", str(page)]
    assert predict(folder, "vcr-qa", *arguments) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert sum(found["probability"] for found in row["ranked"]) == pytest.approx(1)
    assert f"<h1>what is left / {row['ranked'][0]['option']}</h1>" in page.read_text()


def test_a_reason_is_chosen_for_an_answer(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    asked = ["--question", "what is left", "--answer", "a ring", "--option", "it is red", "it is blue"]
    assert predict(folder, "vcr-qar", *asked, "--attention", str(page)) == 0
    first, best, _ = capsys.readouterr().out.splitlines()
    assert first.endswith("what is left  a ring")
    assert f"<h1>what is left / a ring / {best.split(maxsplit=1)[1]}</h1>" in page.read_text()


def test_a_statement_is_judged_of_two_photographs(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pages, picture = [tmp_path / "left.html", tmp_path / "right.html"], tmp_path / "both.png"
    more = ["--attention", *map(str, pages), "--output", str(picture)]
    assert predict(folder, "nlvr2", "--statement", "a red ring", *more, images=2) == 0
    first, best, other = capsys.readouterr().out.splitlines()
    assert first == f"{folder / '0.jpg'}  {folder / '1.jpg'}  a red ring"
    assert {best.split()[1], other.split()[1]} == {"true", "false"}
    assert 1 > float(best.split()[0]) > 0.5
    assert float(best.split()[0]) + float(other.split()[0]) == pytest.approx(1, abs=2e-4)
    for number, page in enumerate(pages):
        assert f"nlvr2, {number}.jpg: {'  '.join(best.split())}" in page.read_text()
    alone = tmp_path / "alone.png"
    assert predict(folder, "vqa", "--question", "a", "--output", str(alone)) == 0
    left, both = np.asarray(Image.open(alone).convert("RGB")), np.asarray(Image.open(picture).convert("RGB"))
    assert np.array_equal(both[: left.shape[0], : left.shape[1]], left)
    assert both.shape[1] > left.shape[1]


def test_one_statement_goes_with_all_pairs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = [folder / f"{number}.jpg" for number in (0, 1, 1, 0)]
    arguments = ["--image", *map(str, pairs), "--statement", "a red ring", "--json", *OPTIONS]
    assert main(["predict", "nlvr2", "--checkpoint", str(folder / "nlvr2"), *arguments]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["images"] for row in rows] == [[str(it) for it in pairs[:2]], [str(it) for it in pairs[2:]]]


@pytest.mark.parametrize(
    ("task", "arguments", "said"),
    [
        ("vqa", [], "--question: vqa needs at least one"),
        (
            "vqa",
            ["--question", "a", "--phrase", "a"],
            "--phrase: is not an option of vqa, only of refcoco, refcoco+, refcocog",
        ),
        ("refcocog", [], "--phrase: refcocog needs at least one"),
        ("vqa", ["--question", "a", "--option", "b"], "--option: is not an option of vqa, only of vcr-qa, vcr-qar"),
        ("vcr-qa", ["--question", "a"], "--option: vcr-qa needs at least one"),
        ("vcr-qar", ["--question", "a", "--option", "b"], "--answer: give one for each --question, 1; got 0"),
        ("vcr-qa", ["--question", "a", "--option", "b", "--answer", "c"], "--answer: is not an option of vcr-qa"),
        ("captioning", ["--question", "a"], "--question: is not an option of captioning"),
        ("vqa", ["--question", "a", "--beams", "2"], "--beams: is not an option of vqa, only of captioning"),
        ("vqa", ["--question", "a", "--top", "0"], "--top 0"),
        ("vqa", ["--question", "a", "--output", "out.gif"], "--output out.gif"),
        ("vqa", ["--question", "a", "b", "--attention", "out.html"], "--attention: shows one text with one photograph"),
        ("vqa", ["--question", "a", "--attention", "no/folder/out.html"], "the folder"),
        ("vqa", ["--question", "a", "--attention", "a.html", "b.html"], "of a text in vqa, 1; got 2"),
        ("vqa", ["--question", "a", "--statement", "a"], "--statement: is not an option of vqa, only of nlvr2"),
        ("nlvr2", ["--statement", "a"], "--image: nlvr2 takes photographs in pairs, left and right; got 1"),
    ],
)
def test_what_does_not_go_together_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], task: str, arguments: list[str], said: str
) -> None:
    assert status(lambda: predict(folder, task, *arguments)) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def status(run: object) -> int:
    """Return the exit status of a command, also where it leaves by SystemExit."""
    assert callable(run)
    try:
        return int(run())
    except SystemExit as left:
        return int(str(left.code))


def test_several_photographs_are_not_drawn_into_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(lambda: predict(folder, "vqa", "--question", "a", "--output", "out.png", images=2)) == 2
    assert "--output: draws one photograph" in " ".join(capsys.readouterr().err.split())


def test_numbers_that_do_not_fit_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict(folder, "vqa", "--question", "a", "b", images=3) == 2
    assert "3 images and 2 questions" in capsys.readouterr().err


def test_a_model_of_another_task_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict(folder, "vqa", "--question", "a", checkpoint="refcocog") == 2
    assert "was trained for refcocog, not vqa" in capsys.readouterr().err


def test_a_folder_without_a_model_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict(folder, "vqa", "--question", "a", checkpoint="gone") == 2
    assert "has no task.json" in capsys.readouterr().err


def test_a_broken_photograph_does_not_end_the_others(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [str(folder / name) for name in ("0.jpg", "gone.jpg", "1.jpg")]
    command = ["predict", "vqa", "--checkpoint", str(folder / "vqa"), "--image", *names, "--question", "a", *OPTIONS]
    assert main([*command, "--json"]) == 1
    said = capsys.readouterr()
    rows = json.loads(said.out)
    assert [row["image"] for row in rows] == names
    assert ["ranked" in row for row in rows] == [True, False, True]
    assert "missing_file" in rows[1]["error"]
    assert main(command) == 1
    assert [line for line in capsys.readouterr().out.splitlines() if line[0] != " "] == [
        f"{names[0]}  a",
        f"{names[2]}  a",
    ]


@pytest.mark.parametrize(
    ("task", "option", "first"),
    [("retrieval", "--caption", "caption"), ("captioning", "", "image"), ("refcocog", "--phrase", "image")],
)
def test_whatever_is_asked_a_broken_photograph_is_a_row_of_its_own(
    folder: Path, capsys: pytest.CaptureFixture[str], task: str, option: str, first: str
) -> None:
    names = [str(folder / name) for name in ("0.jpg", "gone.jpg", "1.jpg")]
    command = ["predict", task, "--checkpoint", str(folder / task), "--image", *names, "--json", *OPTIONS]
    assert main([*command, *([option, "a ring"] if option else [])]) == 1
    rows = json.loads(capsys.readouterr().out)
    assert [row["image"] for row in rows if "error" in row] == [names[1]]
    assert first in rows[0]
    whole = [row for row in rows if "error" not in row]
    assert len(whole) == (1 if task == "retrieval" else 2)
    if task == "retrieval":
        assert {it["image"] for it in whole[0]["ranked"]} == {names[0], names[2]}


def test_a_pair_with_a_broken_photograph_fails_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [str(folder / name) for name in ("0.jpg", "gone.jpg", "1.jpg", "0.jpg")]
    command = [
        "predict",
        "nlvr2",
        "--checkpoint",
        str(folder / "nlvr2"),
        "--image",
        *names,
        "--statement",
        "a",
        "--json",
    ]
    assert main([*command, *OPTIONS]) == 1
    rows = json.loads(capsys.readouterr().out)
    assert [row["images"] for row in rows] == [names[:2], names[2:]]
    assert ["error" in row for row in rows] == [True, False]


def test_folders_and_patterns_stand_for_their_images(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photographs = tmp_path / "photographs"
    (photographs / "below").mkdir(parents=True)
    for name in ("b.jpg", "a.jpg", "below/c.jpg"):
        shutil.copy(folder / "0.jpg", photographs / name)
    (photographs / "notes.txt").write_text("no image")

    def images(task: str, *arguments: str) -> list[list[str]]:
        command = ["predict", task, "--checkpoint", str(folder / task), "--image", *arguments, "--json", *OPTIONS]
        more = ["--statement", "a"] if task == "nlvr2" else ["--question", "a"]
        assert main([*command, *more]) == 0
        rows = json.loads(capsys.readouterr().out)
        return [[Path(name).name for name in row.get("images", [row.get("image")])] for row in rows]

    assert images("vqa", str(photographs)) == [["a.jpg"], ["b.jpg"], ["c.jpg"]]
    assert images("vqa", str(photographs / "*"), str(folder / "0.jpg")) == [["a.jpg"], ["b.jpg"], ["0.jpg"]]
    assert images("nlvr2", str(photographs / "?.jpg")) == [["a.jpg", "b.jpg"]]


@pytest.mark.parametrize(
    ("task", "argument", "said"),
    [
        ("vqa", "*.nothing", "contains no image"),
        ("vqa", "empty", "contains no image"),
        ("nlvr2", "three", "has 3 images; in this task a folder or pattern stands for one pair"),
        ("nlvr2", "three/a.*", "has 1 images; in this task"),
    ],
)
def test_folders_and_patterns_without_their_images_are_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], task: str, argument: str, said: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "three").mkdir()
    for name in "abc":
        (tmp_path / "three" / f"{name}.jpg").write_bytes(b"")
    text = "--statement" if task == "nlvr2" else "--question"
    command = ["predict", task, "--checkpoint", str(folder / task), "--image", str(tmp_path / argument), text, "a"]
    assert main([*command, *OPTIONS]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_a_photograph_behind_a_url_is_fetched_and_a_private_address_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/0.jpg"
        command = ["predict", "vqa", "--checkpoint", str(folder / "vqa"), "--image", url, "--question", "a", "--json"]
        assert main([*command, *OPTIONS]) == 1
        (row,) = json.loads(capsys.readouterr().out)
        assert "private_address" in row["error"]
        assert main([*command, *OPTIONS, "--allow-private-addresses"]) == 0
        (fetched,) = json.loads(capsys.readouterr().out)
        server.shutdown()
    assert fetched["image"] == url
    assert predict(folder, "vqa", "--question", "a", "--json") == 0
    (read,) = json.loads(capsys.readouterr().out)
    assert fetched["ranked"] == read["ranked"]


def test_a_broken_photograph_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "9.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    arguments = ["--image", str(folder / "9.jpg"), "--question", "a", *OPTIONS]
    assert main(["predict", "vqa", "--checkpoint", str(folder / "vqa"), *arguments]) == 1
    assert "9.jpg: cannot be used as a photograph" in capsys.readouterr().err


def test_a_pair_of_photographs_needs_two_pages(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--statement", "a", "--attention", "out.html"]
    assert status(lambda: predict(folder, "nlvr2", *arguments, images=2)) == 2
    assert "of a text in nlvr2, 2; got 1" in " ".join(capsys.readouterr().err.split())
    pairs = [str(folder / f"{number}.jpg") for number in (0, 1, 1, 2)]
    command = ["predict", "nlvr2", "--checkpoint", str(folder / "nlvr2"), "--image", *pairs, "--statement", "a"]
    for option in (["--attention", "a.html", "b.html"], ["--output", "a.png"]):
        assert status(lambda option=option: main([*command, *option])) == 2
        assert "two photographs; give no more" in " ".join(capsys.readouterr().err.split())


def test_a_seed_of_random_weights_is_no_option_of_captioning_alone(folder: Path) -> None:
    assert predict(folder, "vqa", "--question", "a", "--seed", "3") == 0


def test_help_shows_the_options_of_the_task_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert status(lambda: main(["predict", "nlvr2", "--help"])) == 0
    said = capsys.readouterr().out
    assert "--statement" in said
    assert not any(name in said for name in ("--question", "--answer", "--phrase", "--beams", "--top "))


def test_a_task_without_a_method_is_left_to_evaluate(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vqa_spec, "VQA", replace(vqa_spec.VQA, prediction=None))
    assert status(lambda: predict(folder, "vqa", "--question", "a")) == 2
    assert "vilbert evaluate vqa" in " ".join(capsys.readouterr().err.split())


def test_options_are_read_without_torch() -> None:
    code = (
        "import sys; from vilbert.pipeline.cli import parse\n"
        "parse('predict', ['vqa', '--checkpoint', 'run', '--image', 'a.jpg', '--question', 'b'])\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'PIL')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
