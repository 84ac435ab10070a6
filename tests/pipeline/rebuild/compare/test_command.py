"""The command as a whole: which images are compared, verdicts, exit status, report."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vilbert.manifests.manifest import ManifestWriter
from vilbert.manifests.record import ImageRecord
from vilbert.pipeline.cli import main
from vilbert.pipeline.rebuild.compare.detector import RunningDetector, recorded_settings
from vilbert.pipeline.shards.keys import sample_key
from vilbert.pipeline.shards.sample import Sample

from .conftest import BOXES, SIZES, Look, Write, causes, pixels_of, with_regions

MATCHED = {"name": "matched", "option": "--min-matched", "value": 1.0, "bound": 0.99, "holds": True}


def test_a_run_with_another_batch_size_is_identical(
    detector: RunningDetector, found: list[Sample], write: Write, look: Look
) -> None:
    a = write("a", found, detector.facts)
    for batch_size in (1, 4):
        status, document = look(a, "detector:shapes", batch_size=batch_size)
        assert (status, document["verdict"]) == (0, "identical")
        assert document["regions"] == {
            "a": BOXES * len(SIZES),
            "b": BOXES * len(SIZES),
            "matched": BOXES * len(SIZES),
            "matched_fraction": 1.0,
            "min_iou": 0.5,
            "mean_iou": 1.0,
        }
        assert document["recorded_settings"] == []


def test_images_are_paired_by_id_whatever_the_order(found: list[Sample], write: Write, look: Look) -> None:
    a, b = write("a", found), write("b", [*found[:1:-1], *found[:1]])
    status, document = look(a, b)
    assert (status, document["verdict"]) == (0, "identical")
    assert document["images"]["compared"] == len(found) - 1
    assert (document["images"]["only_in_a"], document["images"]["only_in_b"]) == (1, 0)


def test_a_sample_of_the_images_does_not_depend_on_the_order(found: list[Sample], write: Write, look: Look) -> None:
    other = with_regions(found, lambda it: {"features": it.features[::-1]})
    a, b, backwards = write("a", found), write("b", other), write("c", other[::-1])
    chosen = [look(a, name, limit=3, worst=10)[1] for name in (b, backwards)]
    ids = [sorted(image["image_id"] for image in document["worst_images"]) for document in chosen]
    assert ids[0] == ids[1]
    assert len(ids[0]) == 3
    assert chosen[0]["images"]["sampled"]
    another = look(a, b, limit=3, worst=10, seed=1)[1]["worst_images"]
    assert sorted(image["image_id"] for image in another) != ids[0]


def test_two_detectors_are_compared_over_a_manifest(photographs: list[Path], look: Look, tmp_path: Path) -> None:
    with ManifestWriter(tmp_path / "m.parquet") as writer:
        writer.write([ImageRecord(f"p{number}", str(path)) for number, path in enumerate(photographs[:2])])
        writer.write([ImageRecord("gone", str(tmp_path / "gone.png"))])
        writer.commit()
    (tmp_path / "fewer.yaml").write_text("detector: shapes\nboxes: 30\n")
    status, document = look(
        "detector:shapes",
        str(tmp_path / "fewer.yaml"),
        manifest=tmp_path / "m.parquet",
        min_matched=0.8,
        diagnose=False,
    )
    assert status == 0
    assert document["images"]["compared"] == 2
    assert document["images"]["skipped"] == {"A: missing_file": 1}
    assert (document["regions"]["a"], document["regions"]["b"]) == (72, 60)
    assert document["features"]["equal_fraction"] == 1.0


def test_a_published_file_is_compared_with_a_data_set(
    found: list[Sample], write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = write("a", found)
    assert main(["export", a, "--output", str(tmp_path / "b.tsv"), "--to", "lxmert-tsv"]) == 0
    capsys.readouterr()
    assert main(["compare", a, str(tmp_path / "b.tsv")]) == 0
    printed = capsys.readouterr().out
    assert "6 compared, 0 differ" in printed
    assert "100 % matched" in printed


def test_the_report_is_one_page_with_the_most_different_images(
    found: list[Sample], write: Write, tmp_path: Path, look: Look
) -> None:
    named = [
        replace(sample, key=sample_key(f"<b>{number}"), meta={**sample.meta, "image_id": f"<b>{number}"})
        for number, sample in enumerate(found)
    ]
    other = with_regions(named, lambda it: {"features": np.roll(it.features, 1, axis=0)})
    page = tmp_path / "out.html"
    look(write("a", named), write("b", other), report=page, worst=2)
    text = page.read_text(encoding="utf-8")
    assert len(text.encode()) < 3_000_000
    assert text.count('class="image"') == 2
    assert text.count("data:image/jpeg;base64,") == 2
    assert text.count('class="other"') > 2 * BOXES
    assert "Features shuffled within an image" in text
    assert not re.search(r'(?:src|href)="(?!data:|#)', text)
    assert "<b>" not in text.replace("<b></b>", "")


def test_a_report_without_photographs_shows_the_boxes(
    found: list[Sample], write: Write, tmp_path: Path, look: Look
) -> None:
    nowhere = [replace(sample, meta={"image_id": sample.meta["image_id"]}) for sample in found]
    other = with_regions(nowhere, lambda it: {"features": it.features[::-1]})
    look(write("a", nowhere), write("b", other), report=tmp_path / "out.html", worst=1)
    text = (tmp_path / "out.html").read_text(encoding="utf-8")
    assert "The photograph is not at hand." in text
    assert 'class="paper"' in text


def test_a_photograph_of_another_size_is_not_run(
    detector: RunningDetector, found: list[Sample], write: Write, tmp_path: Path, look: Look
) -> None:
    path = tmp_path / "small.png"
    Image.fromarray(pixels_of(0)[:100, :100]).save(path)
    changed = replace(found[0], meta={"image_id": "scene 0", "uri": str(path)})
    _, document = look(write("a", [changed, *found[1:]], detector.facts), "detector:shapes")
    assert document["images"]["skipped"] == {"B: corrupt": 1}
    assert "the image is 100 by 100 pixels" in document["images"]["first_skipped"]


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["nowhere", "detector:shapes"], 2, "no such file or folder"),
        (["{a}", "detector:shap"], 2, "no detector 'shap'; did you mean shapes"),
        (["{a}", "bad.yaml"], 2, "'wieghts' is not an option of a detector"),
        (["{a}", "absent.yaml"], 2, "cannot be read"),
        (["{a}", "list.yaml"], 2, "expected a mapping"),
        (["{a}", "type.yaml"], 2, "boxes"),
        (["{a}", "{other}"], 1, "no image of"),
        (["{a}", "{cut}"], 1, "000000.tar"),
        (["{a}", "{b}", "--report", "no/folder/out.html"], 2, "the folder no"),
        (["{a}", "detector:butd-r101"], 2, "needs your own files; write its options"),
    ],
)
def test_mistakes_are_named(
    arguments: list[str],
    status: int,
    said: str,
    found: list[Sample],
    write: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    renamed = [
        replace(sample, key=f"other{number}", meta={**sample.meta, "image_id": f"other{number}"})
        for number, sample in enumerate(found)
    ]
    places = {"a": write("a", found), "b": write("b", found), "other": write("other", renamed)}
    places["cut"] = write("cut", found)
    with (Path(places["cut"]) / "shards" / "000000.tar").open("r+b") as file:
        file.truncate(5000)
    Path("bad.yaml").write_text("wieghts: x\n")
    Path("list.yaml").write_text("- 1\n")
    Path("type.yaml").write_text("boxes: [1, 2]\n")
    assert main(["compare", *(argument.format(**places) for argument in arguments)]) == status
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["x", "x"], "A and B are both x"),
        (["detector:shapes", "a.yaml"], "give --manifest"),
        (["a", "b", "--detector", "shapes"], "give detector:NAME"),
        (["a", "b", "--min-iou", "0"], "must be above 0"),
        (["a", "b", "--report", "a/dataset.json"], "name a file that ends in .html"),
    ],
)
def test_wrong_usage_ends_with_status_2(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["compare", *arguments])
    printed = " ".join(re.sub("[─│╭╮╰╯]", " ", capsys.readouterr().err).split())
    assert said in printed


def test_no_cause_is_named_where_nothing_differs(found: list[Sample], write: Write, look: Look) -> None:
    _, document = look(write("a", found), write("b", found))
    assert causes(document) == []
    assert document["bounds"][0] == MATCHED
    assert document["diagnosis"] is None
    assert document["worst_images"] == []


@pytest.mark.parametrize("facts", [{"encoder": {"size": 64}}, {"model_type": "resnet"}])
def test_a_detector_with_an_encoder_is_not_built_without_it(detector: RunningDetector, facts: dict[str, Any]) -> None:
    assert recorded_settings(detector.facts, "cpu").detector.detector == "shapes"
    with pytest.raises(ValueError, match="needs your own files"):
        recorded_settings({**detector.facts, **facts}, "cpu")
