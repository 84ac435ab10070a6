"""`vilbert report`: the page of a tiny model of VQA, from files to what a person sees."""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import sys
from html import unescape
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vilbert.pipeline.cli import main
from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.report.choice import evenly
from vilbert.pipeline.report.content import read_evaluation
from vilbert.pipeline.tasks.registry import TaskFiles, open_task
from vilbert.pipeline.train.run.journal import Journal

from ..predict.tiny_predictor import OPTIONS, write_features, write_model, write_scenes

IMAGES, QUESTIONS = 3, 5
LABELS = ["yes", "no", "0", "1", "2", "3", "red", "blue", "green", "circle", "small", "large"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with scenes, their regions, a tiny model, its answers with and without blindness, and a page."""
    folder = tmp_path_factory.mktemp("report")
    write_scenes(folder / "shapes")
    write_features(folder / "shapes", folder / "features")
    card = write_model(folder / "run", "vqa") / "final" / "task.json"
    card.write_text(json.dumps({**json.loads(card.read_text()), "labels": LABELS}))
    for run in ("run", "before"):
        (folder / run).mkdir(exist_ok=True)
        journal = Journal(folder / run, resumed_at=None)
        for step in (1, 2, 3):
            journal.write("train", step, {"loss": 3.0 / step})
        journal.close()
    for name, more in (("seeing", ()), ("blind", ("--blind",))):
        arguments = ["--split", "train", "--output", str(folder / f"{name}.json"), "--num-workers", "0", *more]
        assert main(["evaluate", "vqa", *asked(folder), "--device", "cpu", *arguments]) == 0
    assert report(folder) == 0
    return folder


def asked(folder: Path) -> list[str]:
    annotations = str(folder / "shapes" / "vqa")
    return [str(folder / "features"), "--annotations", annotations, "--checkpoint", str(folder / "run")]


def report(folder: Path, **changes: str) -> int:
    options = {
        "split": "train", "results": str(folder / "seeing.json"), "blind-results": str(folder / "blind.json"),
        "pretrained": str(folder / "before"), "images": str(IMAGES), "questions": str(QUESTIONS),
        "output": str(folder / "page" / "report.html"),
    } | changes  # fmt: skip
    return main(
        ["report", *asked(folder), *(text for it in options.items() for text in ("--" + it[0], it[1])), *OPTIONS]
    )


def page(folder: Path) -> str:
    return (folder / "page" / "report.html").read_text(encoding="utf-8")


def pictures(html: str) -> list[Image.Image]:
    found = re.findall(r"data:image/jpeg;base64,([\w+/=]+)", html)
    return [Image.open(io.BytesIO(base64.b64decode(one))).convert("RGB") for one in found]


def scene(folder: Path, image_id: str) -> Image.Image:
    return Image.open(folder / "shapes" / "train2014" / f"COCO_train2014_{int(image_id):012}.jpg").convert("RGB")


def test_pictures_are_the_scenes_with_boxes_drawn(folder: Path) -> None:
    outside = page(folder).split("<iframe")[0]
    assert len(ids(outside)) == len(pictures(outside)) == IMAGES
    for image_id, drawn in zip(ids(outside), pictures(outside), strict=True):
        resized = scene(folder, image_id).resize(drawn.size, Image.Resampling.BICUBIC)
        changed = np.abs(np.asarray(drawn, dtype=int) - np.asarray(resized, dtype=int)).max(2) > 60
        assert 0.002 < changed.mean() < 0.3


def ids(html: str) -> list[str]:
    return re.findall(r"<figcaption>image (\d+)<", html)


def test_questions_stand_with_the_evaluation_s_answers_errors_first(folder: Path) -> None:
    html = unescape(page(folder).split("<iframe")[0])
    document = "v2_OpenEnded_mscoco_train2014_questions.json"
    questions: list[dict[str, Any]] = json.loads((folder / "shapes" / "vqa" / document).read_text())["questions"]
    answers = {row["question_id"]: row["answer"] for row in json.loads((folder / "seeing.json").read_text())}
    blind = {row["question_id"]: row["answer"] for row in json.loads((folder / "blind.json").read_text())}
    groups = html.split('<div class="group">')[1:]
    assert len(groups) == IMAGES
    for image, group in zip(ids(html), groups, strict=True):
        blocks = re.findall(r'<div class="asked.*?</div>', group, re.DOTALL)
        assert 1 <= len(blocks) <= QUESTIONS
        of_image = [row for row in questions if row["image_id"] == int(image)]
        for block in blocks:
            said = [
                row
                for row in of_image
                if f'"question">{row["question"]}<' in block
                and f"</span> {answers[row['question_id']]}</p>" in block
                and f"the model says: {blind[row['question_id']]}," in block
            ]
            assert said, block
    assert html.index("<h2>Errors</h2>") < html.index("<h2>Right answers</h2>")
    errors, right = html.split("<h2>Right answers</h2>")
    assert 'class="asked right"' not in errors
    assert 'class="asked"' not in right


def test_accuracy_is_that_of_the_evaluations(folder: Path) -> None:
    figures = [json.loads((folder / f"{name}.figures.json").read_text())["accuracy"] for name in ("seeing", "blind")]
    assert f"accuracy {figures[0]:.1%}; {figures[1]:.1%} when it is shown another image" in page(folder)


def test_without_the_file_of_metrics_they_are_those_of_the_answers(folder: Path, tmp_path: Path) -> None:
    task: Any = open_task(
        "vqa", TaskFiles(folder=folder / "shapes" / "vqa", seed=0, labels=tuple(LABELS)), "train", like=None
    )
    results = tmp_path / "seeing.json"
    results.write_bytes((folder / "seeing.json").read_bytes())
    written = json.loads((folder / "seeing.figures.json").read_text())
    assert read_evaluation(results, task).metrics["accuracy"] == pytest.approx(written["accuracy"])
    (tmp_path / "seeing.figures.json").write_text('{"accuracy": "high"}')
    with pytest.raises(RefusedError, match=r"seeing\.figures\.json"):
        read_evaluation(results, task)


def test_curves_of_both_runs_are_drawn(folder: Path) -> None:
    assert page(folder).count("<svg") == page(folder).count("</svg>") == 2


def test_attention_is_shown_of_one_of_the_questions(folder: Path) -> None:
    outside, inside = page(folder).split("<iframe")
    (title,) = re.findall("<h1>(.*?)</h1>", unescape(inside))
    assert f'"question">{title}<' in outside
    (photograph,) = pictures(unescape(inside))
    about = [
        scene(folder, image)
        for image, block in zip(ids(outside), outside.split('<div class="group">')[1:], strict=True)
        if f">{title}<" in block
    ]
    assert any(
        one.size == photograph.size and np.abs(np.asarray(one, int) - np.asarray(photograph, int)).mean() < 8
        for one in about
    )


def test_nothing_comes_from_elsewhere_and_the_page_is_small(folder: Path) -> None:
    html = unescape(page(folder))
    assert not re.search(r"""(src|href)\s*=\s*["'](?!#|data:)|url\((?!#)|@import""", html)
    assert len(html) < 3_000_000


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"results": "gone.json"}, "gone.json: is not a file of"),
        ({"split": "val"}, "has no prediction for this split"),
        ({"task": "gqa"}, "was trained for vqa, not gqa"),
        ({"task": "vqaa"}, "no such task"),
        ({"split": "test"}, "its answers are not public"),
        ({"output": "page.pdf"}, "--output page.pdf"),
        ({"images": "0"}, "--images 0"),
    ],
)
def test_what_cannot_be_shown_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, str], said: str
) -> None:
    try:
        status = report(folder, **changes)
    except SystemExit as left:
        status = int(str(left.code))
    assert status == 2
    assert said in " ".join(capsys.readouterr().err.split())


@given(count=st.integers(1, 12), of=st.integers(1, 40))
def test_pictures_are_taken_evenly(count: int, of: int) -> None:
    images = [str(number) for number in range(of)]
    taken = [int(image) for image in evenly(images, count)]
    assert len(taken) == min(count, of)
    steps = {second - first for first, second in pairwise(taken)}
    assert not steps or (min(steps) > 0 and max(steps) - min(steps) <= 1)
    assert abs(taken[0] - (of - 1 - taken[-1])) <= 1


def test_options_are_read_without_torch() -> None:
    code = (
        "import sys; from vilbert.pipeline.cli import parse\n"
        "parse('report', ['data', '--annotations', 'vqa', '--checkpoint', 'run', '--results', 'a.json'])\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'PIL', 'matplotlib')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
