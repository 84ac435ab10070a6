"""The command as a user runs it: manifests and reports of every kind, what is refused, and how much memory it takes."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vilbert.manifests.build import ManifestSettings, build_manifest, report_path
from vilbert.manifests.manifest import Manifest, content_hash
from vilbert.manifests.record import ImageRecord, ManifestError

REPOSITORY = Path(__file__).resolve().parents[2]
COCO10 = REPOSITORY / "../shared/data/coco10"


def build(tmp_path: Path, *sources: Path, **options: Any) -> tuple[list[ImageRecord], dict[str, Any]]:
    output = options.pop("output", tmp_path / "out" / "m.parquet")
    assert build_manifest(ManifestSettings(sources=sources, output=output, **options)) == 0
    manifest = Manifest.open(output)
    report = json.loads(report_path(output).read_text())
    rows = manifest.read(0, manifest.rows)
    assert report["manifest"] == {"file": output.name, "rows": len(rows), "hash": content_hash(rows)}
    return rows, report


def counts(report: dict[str, Any]) -> dict[str, int]:
    return {name: issue["count"] for side in ("left_out", "kept") for name, issue in report[side].items()}


def vilbert(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "vilbert.pipeline.cli", "manifest", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd)


@pytest.fixture
def tsv(tmp_path: Path) -> Path:
    path = tmp_path / "cc.tsv"
    path.write_text("".join(f"http://x/{i % 40}.jpg\tcaption {i}\n" for i in range(50)))
    return path


def test_every_input_row_is_a_row_or_counted(tmp_path: Path, tsv: Path, caplog: pytest.LogCaptureFixture) -> None:
    with open(tsv, "a") as file:
        file.write("no url\there\nhttp://x/50.jpg\t\n")
    caplog.set_level(logging.INFO)
    rows, report = build(tmp_path, tsv)
    left_out = sum(issue["count"] for issue in report["left_out"].values())
    assert len(rows) + left_out == 52
    assert counts(report) == {"malformed-row": 1, "duplicate-uri": 10, "empty-caption": 1}
    assert report["sources"] == [{"path": str(tsv), "kind": "conceptual-captions", "rows": 51}]
    assert "row 40 has the uri of row 0" in report["kept"]["duplicate-uri"]["examples"][0]
    assert "1 malformed-row (left out)" in caplog.text
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["m.parquet", "m.report.json"]


def test_many_examples_are_cut_and_counts_are_not(tmp_path: Path) -> None:
    (tmp_path / "cc.tsv").write_text("http://x/1.jpg\tsame\n" * 5000)
    _, report = build(tmp_path, tmp_path / "cc.tsv")
    assert report["kept"]["duplicate-uri"]["count"] == 4999
    assert len(report["kept"]["duplicate-uri"]["examples"]) == 10


def test_same_rows_same_hash(tmp_path: Path, tsv: Path) -> None:
    headed = tmp_path / "headed.tsv"
    headed.write_text("url\tcaption\n" + tsv.read_text())
    hashes = set()
    for i, source in enumerate((tsv, tsv, headed)):
        hashes.add(build(tmp_path, source, output=tmp_path / f"{i}.parquet")[1]["manifest"]["hash"])
    assert len(hashes) == 1
    headed.write_text(headed.read_text().replace("caption 7\n", "caption 8\n"))
    assert build(tmp_path, headed, output=tmp_path / "n.parquet")[1]["manifest"]["hash"] not in hashes


def jsonl(path: Path, ids: list[str]) -> Path:
    path.write_text(
        "".join(f'{{"image_id": "{name}", "uri": "http://x/{i}", "caption": "{i}"}}\n' for i, name in enumerate(ids))
    )
    return path


def test_duplicate_ids_are_refused_with_examples(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "t.jsonl", ["a", "b", "a", "c", "a"])
    with pytest.raises(
        ManifestError, match=r"2 rows repeat .*'a' in rows 0 and 2; 'a' in rows 0 and 4.*--duplicate-ids first"
    ):
        build(tmp_path, source)
    assert list((tmp_path / "out").iterdir()) == [], "a refusal leaves nothing behind"


def test_duplicate_ids_first_keeps_the_first(tmp_path: Path) -> None:
    rows, report = build(tmp_path, jsonl(tmp_path / "t.jsonl", ["a", "b", "a", "c", "a"]), duplicate_ids="first")
    assert [(row.image_id, row.captions) for row in rows] == [("a", ("0",)), ("b", ("1",)), ("c", ("3",))]
    assert counts(report) == {"duplicate-id": 2}


def test_the_same_source_twice(tmp_path: Path, tsv: Path) -> None:
    with pytest.raises(ManifestError, match="50 rows repeat"):
        build(tmp_path, tsv, tsv)
    rows, report = build(tmp_path, tsv, tsv, duplicate_ids="first")
    assert len(rows) == 50
    assert counts(report) == {"duplicate-id": 50, "duplicate-uri": 10}
    assert [source["rows"] for source in report["sources"]] == [50, 50]


def test_several_sources_in_order_with_limit(tmp_path: Path, tsv: Path) -> None:
    other = jsonl(tmp_path / "t.jsonl", ["a", "b", "c"])
    rows, report = build(tmp_path, other, tsv, limit=5, split="dev")
    assert [row.image_id for row in rows][:3] == ["a", "b", "c"]
    assert len(rows) == 5
    assert {row.split for row in rows} == {"dev"}
    assert [source["rows"] for source in report["sources"]] == [3, 2]
    assert len(build(tmp_path, other, tsv, limit=3, overwrite=True)[0]) == 3


def test_exclusion_and_given_boxes(tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("b\nzz\n")
    (tmp_path / "boxes.jsonl").write_text(
        '{"image_id": "a", "boxes": [[0, 0, 1, 1]]}\n{"image_id": "b", "boxes": [[0, 0, 1, 1]]}\n'
    )
    source = jsonl(tmp_path / "t.jsonl", ["a", "b", "c"])
    rows, report = build(tmp_path, source, exclude_ids=tmp_path / "ids.txt", given_boxes=tmp_path / "boxes.jsonl")
    assert [(row.image_id, row.boxes_xyxy) for row in rows] == [("a", ((0.0, 0.0, 1.0, 1.0),)), ("c", None)]
    assert counts(report) == {
        "excluded-id": 1,
        "unmatched-exclusion": 1,
        "no-given-boxes": 1,
        "boxes-without-image": 1,
    }


def test_folder_of_images(tmp_path: Path) -> None:
    for name in ("a.jpg", "b/c.png"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).touch()
    rows, report = build(tmp_path, tmp_path / "images")
    assert [row.image_id for row in rows] == ["a", "b/c"]
    assert report["sources"][0]["kind"] == "folder"


@pytest.mark.skipif(not COCO10.is_dir(), reason="the ten photographs are not there")
def test_the_ten_photographs_from_the_command_line(tmp_path: Path) -> None:
    result = vilbert("captions_sample.json", "--images", "images", "--output", tmp_path / "m.parquet", cwd=COCO10)
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""
    manifest = Manifest.open(tmp_path / "m.parquet")
    rows = manifest.read(0, manifest.rows)
    assert len(rows) == 10
    assert all(len(row.captions) == 2 and os.path.isabs(row.uri) and Path(row.uri).is_file() for row in rows)


def test_refusals(tmp_path: Path, tsv: Path) -> None:
    (tmp_path / "both.tsv").write_text("http://x/1\thttp://x/2\n")
    (tmp_path / "dirt.tsv").write_text("url\tcaption\nx\ty\n")
    (tmp_path / "text").write_text("hello\n")
    os.mkfifo(tmp_path / "pipe")
    table = jsonl(tmp_path / "t.jsonl", ["a"])
    for source, options, message in [
        (tmp_path / "none.tsv", {}, "no such file or folder"),
        (tmp_path / "both.tsv", {}, "cannot tell"),
        (tmp_path / "text", {}, "--kind"),
        (tmp_path / "dirt.tsv", {}, r"no rows in(.|\n)*malformed-row"),
        (tmp_path, {"kind": "coco"}, "is a folder"),
        (tsv, {"kind": "folder"}, "is a file"),
        (tsv, {"kind": "coco"}, "not valid JSON"),
        (tsv, {"images": tmp_path}, "has no effect on conceptual-captions"),
        (table, {"images": tmp_path / "none"}, "--images"),
        (tmp_path / "pipe", {}, "not a regular file or folder"),
        (tsv, {"exclude_ids": tmp_path / "none"}, "--exclude-ids"),
        (tsv, {"given_boxes": tmp_path / "none"}, "--given-boxes"),
        (tsv, {"output": tsv / "m.parquet"}, "cc.tsv"),
    ]:
        with pytest.raises(ManifestError, match=message):
            build(tmp_path, source, **options)
        assert not list(tmp_path.glob("out/*"))


def test_existing_output_is_kept_unless_told(tmp_path: Path, tsv: Path) -> None:
    build(tmp_path, tsv, output=tmp_path / "m.parquet")
    before = (tmp_path / "m.parquet").read_bytes()
    with pytest.raises(ManifestError, match="--overwrite"):
        build(tmp_path, tsv, output=tmp_path / "m.parquet", limit=1)
    with pytest.raises(ManifestError, match="no such file"):
        build(tmp_path, tmp_path / "none", output=tmp_path / "m.parquet", overwrite=True)
    assert (tmp_path / "m.parquet").read_bytes() == before
    assert len(build(tmp_path, tsv, output=tmp_path / "m.parquet", limit=1, overwrite=True)[0]) == 1


@pytest.mark.parametrize(
    "arguments", [[], ["cc.tsv"], ["cc.tsv", "--output", "m.tsv"], ["cc.tsv", "--output", "m.parquet", "--limit", "0"]]
)
def test_usage_errors_exit_2_without_a_traceback(tmp_path: Path, arguments: list[str]) -> None:
    result = vilbert(*arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert result.stderr


@pytest.mark.slow
def test_memory_does_not_grow_with_rows(tmp_path: Path) -> None:
    """Peak memory at 300 000 rows is within 40 MB of that at 60 000, which a list of the rows would exceed by far."""
    program = (
        "import resource, sys; from pathlib import Path; from vilbert.manifests.build import *\n"
        "build_manifest(ManifestSettings(sources=(Path(sys.argv[1]),), output=Path(sys.argv[2])))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    peaks = []
    for rows in (60_000, 300_000):
        source = tmp_path / f"{rows}.tsv"
        with open(source, "w") as file:
            file.writelines(f"http://example.com/{i}.jpg\t{'a caption of some words ' * 4}{i}\n" for i in range(rows))
        command = [sys.executable, "-c", program, str(source), str(tmp_path / f"{rows}.parquet")]
        peaks.append(int(subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY).stdout))
    assert peaks[1] - peaks[0] < 40 * 1024


def test_a_box_format_is_of_the_given_boxes_where_the_source_holds_none(tmp_path: Path) -> None:
    image = {"filename": "1.jpg", "split": "train", "sentids": [0], "sentences": [{"raw": "a circle"}]}
    (tmp_path / "dataset_shapes.json").write_text(json.dumps({"images": [image], "dataset": "shapes"}))
    (tmp_path / "images").mkdir()
    Image.new("RGB", (64, 32)).save(tmp_path / "images/1.jpg")
    (tmp_path / "boxes.jsonl").write_text('{"image_id": "1", "boxes": [[0.25, 0.25, 0.5, 0.5]]}\n')
    source = tmp_path / "dataset_shapes.json"
    options: dict[str, Any] = {"images": tmp_path / "images", "box_format": "xyxy-normalized"}
    with pytest.raises(ManifestError, match="--box-format: has no effect on karpathy without --given-boxes"):
        build(tmp_path, source, **options)
    rows, _ = build(tmp_path, source, **options, given_boxes=tmp_path / "boxes.jsonl")
    assert [record.boxes_xyxy for record in rows] == [((16.0, 8.0, 32.0, 16.0),)]
