"""`vilbert score`: a column of scores, resumed after interruptions, and what is selected by it."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from vilbert.pipeline.cli import main
from vilbert.pipeline.rebuild.scores.boxes import coverage
from vilbert.pipeline.rebuild.scores.score import Scored
from vilbert.pipeline.shards.columns.info import read_column
from vilbert.pipeline.shards.columns.shard import ColumnShard
from vilbert.pipeline.shards.location.folder import LocalFolder
from vilbert.pipeline.shards.open_dataset import open_dataset
from vilbert.pipeline.shards.sample import Sample


def score(data: Path, *options: str, column: str = "quality") -> int:
    return main(["score", str(data), "--column", column, *options])


def values_of(directory: Path, name: str = "quality") -> dict[str, Any]:
    info = read_column(LocalFolder(directory / "columns" / name))
    assert info is not None
    values: dict[str, Any] = {}
    for shard in range(info.shards):
        with ColumnShard(directory / f"columns/{name}/shards/{shard:06}.tar", name=name, member="json") as opened:
            values |= {key: opened[key] for key in opened.keys}
    return values


def files_of(directory: Path) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def test_all_scores_without_a_model(photographs: Any, tmp_path: Path) -> None:
    data = photographs.directory
    before = files_of(data)
    assert score(data) == 0
    assert {name: digest for name, digest in files_of(data).items() if "columns/" not in name} == before
    assert photographs.findings(deep=True) == ()
    with open_dataset(data) as samples:
        expected = list(samples)
    values = list(values_of(data).values())
    assert len(values) == len(expected)
    for sample, value in zip(expected, values, strict=True):
        captions = sample.meta["captions"]
        assert (value["boxes"], value["captions"]) == (len(sample.regions), len(captions))
        assert value["score_mean"] == pytest.approx(float(sample.regions.object_scores.mean()), abs=1e-6)
        assert 0 < value["coverage"] <= 1
        assert 0 <= value["object_entropy"] <= 2
        assert ("words_mean" in value) == bool(captions)
    keys = list(values_of(data))
    groups = {keys[row]: (value["duplicate_of"], value["duplicates"]) for row, value in enumerate(values)}
    assert groups[keys[3]] == groups[keys[8]] == groups[keys[1]] == (keys[1], 3)
    assert groups[keys[7]] == groups[keys[2]] == (keys[2], 2)
    assert [row for row, value in enumerate(values) if value["first_of_duplicates"]] == [0, 1, 2, 4, 5, 6, 9]
    output = tmp_path / "s.parquet"
    where = "quality.first_of_duplicates and quality.boxes > 3"
    assert main(["select", str(data), "--where", where, "--output", str(output)]) == 0
    assert pq.read_metadata(output).num_rows == 7


def test_images_that_are_not_there_or_changed_are_a_problem_of_their_samples(
    photographs: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with open_dataset(photographs.directory) as samples:
        paths = [Path(str(sample.meta["uri"])) for sample in samples]
    paths[0].unlink()
    paths[4].write_bytes(paths[5].read_bytes())
    assert score(photographs.directory, "--scores", "boxes", "phash") == 0
    values = list(values_of(photographs.directory).values())
    assert [value.get("problem") for value in values[:6]] == ["missing_file", *[None] * 3, "sha256_mismatch", None]
    assert "phash" not in values[0]
    assert values[0]["boxes"] == 4
    assert "first_of_duplicates" not in values[0]
    select = ["select", str(photographs.directory), "--where", "has('quality.problem')", "--output"]
    assert main([*select, str(tmp_path / "s.parquet")]) == 0
    assert pq.read_metadata(tmp_path / "s.parquet").num_rows == 2
    for path in paths:
        path.unlink(missing_ok=True)
    assert score(photographs.directory, "--scores", "phash", column="second") == 1


def test_an_interrupted_run_resumes_behind_its_last_shard(
    photographs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = photographs.directory
    assert score(data) == 0
    expected = files_of(data / "columns/quality")
    assert main(["column", "drop", str(data), "--column", "quality"]) == 0
    from vilbert.pipeline.rebuild.scores import run

    scored: list[int] = []
    real = run.score_shard

    def interrupted(task: run.ScoreTask, shard: int) -> int:
        if shard == 2:
            raise KeyboardInterrupt
        scored.append(shard)
        return real(task, shard)

    monkeypatch.setattr(run, "score_shard", interrupted)
    assert score(data) == 130
    assert not (data / "columns/quality/column.json").exists()
    assert photographs.findings(deep=True) == ()
    monkeypatch.setattr(run, "score_shard", lambda task, shard: scored.append(shard) or real(task, shard))
    assert score(data) == 0
    assert scored == [0, 1, 2]
    assert files_of(data / "columns/quality") == expected
    assert not (data / ".plan").exists()
    assert score(data) == 0
    assert scored == [0, 1, 2]


def test_values_of_an_older_state_of_the_data_set_are_not_used(
    photographs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vilbert.pipeline.rebuild.scores import run

    from ...shards.conftest import write_small_dataset

    data, real = photographs.directory, run.score_shard

    def interrupted(task: run.ScoreTask, shard: int) -> int:
        if shard == 2:
            raise KeyboardInterrupt
        return real(task, shard)

    monkeypatch.setattr(run, "score_shard", interrupted)
    assert score(data, "--scores", "captions") == 130
    monkeypatch.setattr(run, "score_shard", real)

    def longer(row: int, sample: Sample) -> Sample:
        return dataclasses.replace(sample, meta={**sample.meta, "captions": ["one two three four five six seven"]})

    (tmp_path / "other").mkdir()
    other = write_small_dataset(tmp_path / "other", failed={}, change=longer).directory
    for path in (data / "shards").iterdir():
        path.unlink()
    for path in (*(other / "shards").iterdir(), other / "dataset.json"):
        (data / path.relative_to(other)).write_bytes(path.read_bytes())
    assert score(data, "--scores", "captions") == 0
    assert {value["words_max"] for value in values_of(data).values()} == {7}
    assert not (data / ".plan").exists()


def test_a_full_disk_names_the_file(
    photographs: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from vilbert.pipeline.rebuild.scores import run

    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(run, "write_atomic", full)
    assert score(photographs.directory, "--scores", "captions") == 1
    said = capsys.readouterr().err
    assert "000000.jsonl: cannot be written (No space left on device); free space" in said


def test_other_scores_under_the_same_name_are_refused(photographs: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert score(photographs.directory, "--scores", "boxes") == 0
    assert score(photographs.directory, "--scores", "captions") == 2
    assert "has a column quality with other values" in capsys.readouterr().err


@pytest.mark.parametrize("storage", ["tar", "lmdb"])
def test_several_processes_and_kept_images_give_the_same_values(
    make_dataset: Callable[..., Any], photographs: Any, tmp_path: Path, storage: str
) -> None:
    assert score(photographs.directory) == 0
    expected = values_of(photographs.directory)

    def keep(row: int, sample: Sample) -> Sample:
        return dataclasses.replace(sample, image=Path(str(sample.meta["uri"])).read_bytes())

    from ...shards.conftest import write_small_dataset
    from .conftest import with_photograph

    kept = write_small_dataset(
        tmp_path / "kept", failed={}, change=lambda row, it: keep(row, with_photograph(row, it)), storage=storage
    )
    document = json.loads((kept.directory / "dataset.json").read_text())
    assert "keep_images" not in document["fingerprint_fields"]
    from vilbert.pipeline.shards.dataset import fingerprint_digest, read_dataset, write_dataset

    info = read_dataset(kept.directory)
    fields = {**info.fingerprint_fields, "keep_images": True}
    info = dataclasses.replace(info, fingerprint_fields=fields, fingerprint=fingerprint_digest(fields))
    write_dataset(kept.directory, info)
    for path in (tmp_path / "kept/images").iterdir():
        path.unlink()
    workers = ["--num-workers", "2"] if storage == "tar" else []
    assert score(kept.directory, *workers) == 0
    assert values_of(kept.directory) == expected


def brightness(settings: Any) -> Any:
    """Return a score as another package would have it."""

    class Brightness:
        needs_images, uses_model, fields = True, False, ("brightness",)

        def fingerprint(self) -> dict[str, Any]:
            return {"version": 1}

        def score(self, samples: Sequence[Scored]) -> list[dict[str, Any]]:
            return [{"brightness": float(it.pixels.mean())} if it.pixels is not None else {} for it in samples]

    return Brightness()


def test_a_score_of_another_package(
    photographs: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = ModuleType("bright_package")
    module.brightness = brightness  # type: ignore[attr-defined]
    module.__file__ = __file__
    monkeypatch.setitem(sys.modules, "bright_package", module)
    assert score(photographs.directory, "--scores", "bright_package:brightness", "boxes") == 0
    info = read_column(LocalFolder(photographs.directory / "columns/quality"))
    assert info is not None
    assert info.fingerprint_fields["scores"]["bright_package:brightness"]["source"]["module"] == "bright_package"
    assert all(0 < value["brightness"] < 255 for value in values_of(photographs.directory).values())
    assert score(photographs.directory, "--scores", "bright_package:nothing", column="b") == 2
    assert "bright_package:nothing cannot be imported" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        score(photographs.directory, "--scores", "phas", column="b")
    assert "did you mean phash" in " ".join(capsys.readouterr().err.replace("│", "").split())


def test_what_is_refused_before_anything_is_read(photographs: Any, capsys: pytest.CaptureFixture[str]) -> None:
    for options, said in (
        (["--scores", "clip"], "needs --clip-model"),
        (["--scores", "aesthetic", "--clip-model", "x"], "needs --aesthetic-head"),
    ):
        assert score(photographs.directory, *options) == 2
        assert said in capsys.readouterr().err
    assert score(photographs.directory, column="base") == 2


def test_language(photographs: Any, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("py3langid", reason="the extra `language` is not installed")
    assert score(photographs.directory, "--scores", "language") == 0
    with open_dataset(photographs.directory) as samples:
        captions = {sample.key: sample.meta["captions"] for sample in samples}
    for key, value in values_of(photographs.directory).items():
        assert set(value) == ({"language", "language_probability"} if captions[key] else set())
    from vilbert.pipeline.rebuild.scores.language import LanguageScore

    texts = [("Ein Hund liegt auf dem Sofa",), ("un chien sur le canapé",), ("a dog lies on the sofa",), ("1234",)]
    empty = np.empty((0, 4), np.float32)
    scored = [Scored("k", text, 9, 9, empty, None, None, None) for text in texts]
    assert [it.get("language") for it in LanguageScore(None).score(scored)] == ["de", "fr", "en", None]


def test_without_its_package_the_language_names_the_extra(
    photographs: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    assert score(photographs.directory, "--scores", "language") == 2
    assert "vilbert-pipeline[language]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        ([], 0.0),
        ([[0, 0, 10, 10]], 1.0),
        ([[0, 0, 5, 10], [0, 0, 5, 10], [2, 0, 5, 5]], 0.5),
        ([[0, 0, 5, 5], [5, 5, 10, 10]], 0.5),
        ([[-5, -5, 5, 5], [8, 8, 99, 99]], 0.29),
        ([[3, 3, 3, 9]], 0.0),
    ],
)
def test_coverage_counts_overlapping_boxes_once(boxes: list[list[float]], expected: float) -> None:
    assert coverage(np.array(boxes, np.float32).reshape(-1, 4), 10, 10) == pytest.approx(expected)


def test_coverage_is_that_of_a_grid_of_pixels() -> None:
    draw = np.random.default_rng(3)
    for _ in range(20):
        corners = np.sort(draw.integers(0, 40, (12, 2, 2)), axis=1).reshape(12, 4).astype(np.float32)
        grid = np.zeros((40, 40), bool)
        for x1, y1, x2, y2 in corners.astype(int).tolist():
            grid[y1:y2, x1:x2] = True
        assert coverage(corners, 40, 40) == pytest.approx(grid.mean())
