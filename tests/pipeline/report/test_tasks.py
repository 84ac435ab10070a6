"""`vilbert report` shows a model of every task: metrics, errors first, right answers, how it was made."""

from __future__ import annotations

import json
import re
import shutil
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from vilbert.pipeline.cli import main
from vilbert.pipeline.report.page import SKIPPED
from vilbert.pipeline.tasks.refer.task import RIGHT_ABOVE
from vilbert.pipeline.tasks.registry import TASKS

from ..predict.tiny_predictor import OPTIONS, write_features, write_model, write_scenes
from ..tasks.small_tasks import write_json, write_lines

FOLDERS = {
    "vqa": "vqa", "gqa": "gqa", "vcr-qa": "vcr1annots", "vcr-qar": "vcr1annots", "refcoco": "refer/refcocog",
    "refcoco+": "refer/refcocog", "refcocog": "refer/refcocog", "retrieval": "karpathy", "retrieval-coco": "karpathy",
    "captioning": "karpathy", "nlvr2": "nlvr2", "snli-ve": "snli-ve",
}  # fmt: skip
LABELS = {"vqa": ["yes", "no", "0", "1", "2", "3", "red", "blue", "green", "circle", "small", "large"]}
SPLITS = {"nlvr2": "dev", "snli-ve": "dev", "gqa": "val"}
TESTED = [task for task in TASKS if task not in ("refcoco", "refcoco+", "retrieval-coco")]
"""One task of each that share a module."""

BLIND = ("vcr-qa", "retrieval", "nlvr2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with scenes, their regions, and annotation files of every task about them."""
    folder = tmp_path_factory.mktemp("reports")
    photographs = write_scenes(folder / "shapes")
    write_features(folder / "shapes", folder / "features")
    images = [int(path.stem.rpartition("_")[2]) for path in photographs]
    answers = ("yes", "no", "left")
    rows = {
        f"{image:08}": {"question": "Is there a red ring?", "imageId": str(image), "answer": answers[at % 3]}
        for at, image in enumerate(images)
    }  # fmt: skip
    write_json(folder / "shapes" / "gqa" / "val_balanced_questions.json", rows)
    labels = ("entailment", "neutral", "contradiction")
    write_lines(folder / "shapes" / "snli-ve" / "snli_ve_dev.jsonl", [
        {"pairID": f"{image}", "Flikr30kID": f"{image}.jpg", "sentence2": "a red ring", "gold_label": labels[at % 3]}
        for at, image in enumerate(images)
    ])  # fmt: skip
    pairs = folder / "pairs"
    pairs.mkdir()
    for at, path in enumerate(photographs[:8]):
        shutil.copy(path, pairs / f"dev-{at // 2}-0-img{at % 2}.jpg")
    write_lines(folder / "shapes" / "nlvr2" / "dev.json", [
        {"identifier": f"dev-{at}-0-0", "sentence": "a ring left of a star", "label": str(at % 2 == 0)}
        for at in range(4)
    ])  # fmt: skip
    manifest = str(folder / "pairs.parquet")
    assert main(["manifest", str(pairs), "--output", manifest]) == 0
    assert main(["extract", manifest, "--output", str(folder / "two"), "--backend", "local", *OPTIONS]) == 0
    return folder


def asked(folder: Path, task: str) -> list[str]:
    data = folder / ("two" if task == "nlvr2" else "features")
    return [
        *(str(data), "--annotations", str(folder / "shapes" / FOLDERS[task]), "--checkpoint", str(folder / task)),
        *("--split", SPLITS.get(task, "train")),
    ]


def write_report(folder: Path, task: str) -> str:
    """Evaluate a model of random parameters with and without blindness and return its page."""
    card = write_model(folder / task, task) / "final" / "task.json"
    if task in LABELS:
        card.write_text(json.dumps({**json.loads(card.read_text()), "labels": LABELS[task]}))
    quick = [] if task.startswith("retrieval") else ["--num-workers", "0"]
    quick += ["--max-tokens", "6", "--method", "greedy"] if task == "captioning" else []
    blind = [("blind", ["--blind"])] if task in BLIND else []
    for name, more in (("seeing", []), *blind):
        results = str(folder / task / f"{name}.out")
        assert (
            main(["evaluate", task, *asked(folder, task), "--device", "cpu", "--output", results, *quick, *more]) == 0
        )
    page = folder / task / "page.html"
    arguments = ["--results", str(folder / task / "seeing.out")]
    arguments += ["--blind-results", str(folder / task / "blind.out")] if blind else []
    assert main(["report", *asked(folder, task), *arguments, "--output", str(page), "--images", "4", *OPTIONS]) == 0
    return page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "task", [pytest.param(task, marks=pytest.mark.slow) if task == "captioning" else task for task in TESTED]
)
def test_every_task_has_a_report(folder: Path, task: str) -> None:
    html = write_report(folder, task)
    outside = unescape(html.split("<iframe")[0])
    figures: dict[str, float] = json.loads((folder / task / "seeing.figures.json").read_text())
    for name, value in figures.items():
        if name not in SKIPPED:
            assert f"<td>{name.replace('_', ' ')}</td>" in outside
        else:
            assert (f"<td>{SKIPPED[name]}</td>" in outside) == (value != 0)  # blind evaluations skip the same items
    main = {"retrieval": "image_retrieval_r1", "captioning": "cider"}.get(task, "accuracy")
    text = f"{figures[main]:.4g}" if task == "captioning" else f"{figures[main]:.1%}"
    rows = re.findall("<tr><td>(.*?)</td><td>(?:<span.*?</span>)?(.*?)</td>", outside)
    assert rows[0] == (main.replace("_", " "), text)
    assert not [value for name, value in rows if name in ("loss", *SKIPPED.values()) and "%" in value]
    headings = re.findall("<h2>(.*?)</h2>", outside)
    kinds = ("Captions that are least like people's", "Other captions") if task == "captioning" else (
        "Errors", "Right answers")  # fmt: skip
    shown = [heading for heading in headings if heading in kinds]
    assert shown == [kind for kind in kinds if kind in shown] != []
    if task != "captioning":
        verdicts = [re.findall('class="verdict">(.*?)<', part)
                    for part in outside.split("<h2>") if part.startswith(kinds)]  # fmt: skip
        for heading, said in zip(shown, verdicts, strict=True):
            assert said
            assert all(("✓" in it) == (heading == "Right answers") for it in said if "%" not in it)
    assert ("shown another image" in outside) == (task in BLIND)
    assert outside.count("data:image/jpeg") >= (1 if task != "nlvr2" else 2)
    assert "vilbert report" in html
    assert "cores usable" in html
    assert len(html) < 3_000_000
    assert not re.search(r"""(src|href)\s*=\s*["'](?!#|data:)|url\((?!#)|@import""", unescape(html))


def test_a_phrase_has_the_true_box_and_the_model_s_with_their_overlap(folder: Path) -> None:
    html = write_report(folder, "refcocog")
    rows: list[dict[str, Any]] = json.loads((folder / "refcocog" / "seeing.out").read_text())
    for part in html.split("<h2>"):
        if part.startswith(("Errors", "Right answers")):
            overlaps = re.findall(r"overlaps people&#39;s by (\d\.\d\d)", part)
            assert overlaps
            assert {*overlaps} <= {f"{row['iou']:.2f}" for row in rows}
            assert all((float(it) > RIGHT_ABOVE) == part.startswith("Right") for it in overlaps)


def test_a_task_that_the_model_lacks_and_a_file_of_another_task_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_model(folder / "gqa", "gqa")
    (folder / "of_vqa.json").write_text('[{"question_id": 1, "answer": "yes"}]')
    arguments = ["report", *asked(folder, "gqa"), *OPTIONS, "--results", str(folder / "of_vqa.json")]
    assert main(arguments) == 2
    assert "evaluate gqa --output" in capsys.readouterr().err
    assert main([*arguments, "--task", "vqa"]) == 2
    assert "was trained for gqa, not vqa" in capsys.readouterr().err
