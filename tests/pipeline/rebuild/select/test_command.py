"""`vilbert select`: what is selected, and what uses a selection sees these samples and no others."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from vilbert.pipeline.cli import main
from vilbert.pipeline.shards.open_dataset import open_dataset
from vilbert.pipeline.shards.sample import Sample

MakeDataset = Callable[..., Any]


def select(data: Path, output: Path, *options: str) -> int:
    try:
        return main(["select", str(data), "--output", str(output), *options])
    except SystemExit as error:  # usage errors
        return int(str(error.code))


def selected(path: Path) -> list[str]:
    ids: list[str] = pq.read_table(path).column("image_id").to_pylist()
    return ids


def ids_of(directory: Path, keep: Callable[[Sample], bool] = lambda sample: True) -> list[str]:
    with open_dataset(directory) as samples:
        return [sample.meta["image_id"] for sample in samples if keep(sample)]


def add_column(data: Any, values: dict[str, Any], *, name: str = "quality") -> None:
    lines = data.directory.parent / f"{name}.jsonl"
    lines.write_text("".join(json.dumps({"image_id": i, "v": v}) + "\n" for i, v in values.items()))
    arguments = ["column", "add", str(data.directory), str(lines), "--column", name, "--missing", "skip"]
    assert main([*arguments, "--value-column", "v"]) == 0


def test_by_metadata_and_by_fields_of_a_column(dataset: Any, tmp_path: Path) -> None:
    data, output = dataset.directory, tmp_path / "s.parquet"
    everything = ids_of(data)
    add_column(dataset, {image_id: {"n": number} for number, image_id in enumerate(everything[:-1])})
    add_column(dataset, {image_id: number / 2 for number, image_id in enumerate(everything)}, name="half")
    assert select(data, output, "--where", "split == 'val' or len(captions) == 2") == 0
    assert selected(output) == ids_of(data, lambda it: it.meta["split"] == "val" or len(it.meta["captions"]) == 2)
    assert select(data, output, "--where", "has('quality.n') and quality.n >= 2 and half < 2") == 0
    assert selected(output) == everything[2:4]
    assert select(data, output, "--where", "not has('quality')") == 0
    assert selected(output) == everything[-1:]
    assert dataset.findings(deep=True) == ()


def test_the_union_of_two_expressions_is_the_union_of_their_selections(dataset: Any, tmp_path: Path) -> None:
    data = dataset.directory
    first, second = "split == 'val'", "len(captions) == 0"
    results = []
    for number, text in enumerate([first, second, f"{first} or {second}", f"{first} and {second}", f"not ({first})"]):
        assert select(data, tmp_path / f"{number}.parquet", "--where", text) == 0
        results.append(set(selected(tmp_path / f"{number}.parquet")))
    assert results[2] == results[0] | results[1]
    assert results[3] == results[0] & results[1]
    assert results[4] == set(ids_of(data)) - results[0]
    within = ["--selection", str(tmp_path / "0.parquet"), "--where", second]
    assert select(data, tmp_path / "within.parquet", *within) == 0
    assert set(selected(tmp_path / "within.parquet")) == results[3]


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("qualty.n > 1", "did you mean quality"),
        ("quality.score > 1", "has no field 'score'; did you mean scores"),
        ("widht > 1", "did you mean width"),
        ("quality > 1", "compares"),
        ("split.n == 1", "has no fields"),
        ("width > 10000", "no sample is selected of 7"),
        ("quality.__class__ == 1", "is not allowed"),
        ("captions.append.x == 1", "is not allowed"),
        ("quality.n()", "is not allowed"),
        ("array.n > 1", "holds arrays"),
        ("open('x')", "is not allowed"),
    ],
)
def test_expressions_that_are_refused_write_nothing(
    make_dataset: MakeDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str], where: str, said: str
) -> None:
    data = make_dataset()
    ids = ids_of(data.directory)
    add_column(data, {image_id: {"n": 1, "scores": 2} for image_id in ids})
    np.save(tmp_path / "a.npy", np.zeros((len(ids), 3), np.float32))
    (tmp_path / "ids.txt").write_text("\n".join(ids))
    add = ["column", "add", str(data.directory), str(tmp_path / "a.npy"), "--column", "array"]
    assert main([*add, "--ids", str(tmp_path / "ids.txt")]) == 0
    capsys.readouterr()
    assert select(data.directory, tmp_path / "s.parquet", "--where", where) == 2
    assert said in " ".join(capsys.readouterr().err.replace("│", "").split())
    assert not (tmp_path / "s.parquet").exists()


def test_a_column_that_has_the_name_of_a_field_is_refused(
    make_dataset: MakeDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_dataset()
    add_column(data, dict.fromkeys(ids_of(data.directory), 1), name="split")
    assert select(data.directory, tmp_path / "s.parquet", "--where", "split == 'val'") == 2
    assert "both a field of the samples and a column" in capsys.readouterr().err


def test_a_file_that_is_no_selection_is_not_replaced(
    make_dataset: MakeDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_dataset(failed={})
    output = tmp_path / "s.parquet"
    for _ in range(2):  # an earlier selection is
        assert select(data.directory, output, "--where", "width > 0") == 0
    pq.write_table(pq.read_table(output).replace_schema_metadata(), tmp_path / "table.parquet")
    for path in (data.data_file(), data.directory / "dataset.json", tmp_path / "table.parquet", tmp_path):
        before = None if path.is_dir() else path.read_bytes()
        assert select(data.directory, path, "--where", "width > 0") == 2
        assert f"--output {path}: " in capsys.readouterr().err
        assert before is None or path.read_bytes() == before
    assert data.findings(deep=True) == ()


def test_values_that_are_no_perceptual_hash_are_not_compared(
    make_dataset: MakeDataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = make_dataset(failed={})
    wrong = ["-00000000000000f", "0x0000000000000f", "0_0000000000000f", "+00000000000000f", "0" * 15, 15, None]
    values = {image_id: {"phash": "0" * 16} for image_id in ids_of(data.directory)}
    values |= {image_id: {"phash": text} for image_id, text in zip(values, wrong, strict=False)}
    add_column(data, values)
    options = ["--not-in", str(data.directory), "--by", "near"]
    assert select(data.directory, tmp_path / "s.parquet", *options) == 0
    assert selected(tmp_path / "s.parquet") == ids_of(data.directory)[: len(wrong)]
    assert "7 images are without a perceptual hash" in caplog.text


def test_without_anything_to_select_by_it_is_a_usage_error(make_dataset: MakeDataset, tmp_path: Path) -> None:
    assert select(make_dataset().directory, tmp_path / "s.parquet") == 2


def test_stats_and_convert_read_the_selected_samples(
    dataset: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, file = dataset.directory, tmp_path / "s.parquet"
    assert select(data, file, "--where", "split == 'train'") == 0
    expected = ids_of(data, lambda it: it.meta["split"] == "train")
    capsys.readouterr()
    assert main(["stats", str(data), "--selection", str(file), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["images"], document["splits"]) == (len(expected), {"train": len(expected)})
    assert document["boxes_per_image"]["counts"] == {"4": len(expected)}
    output = tmp_path / "converted"
    assert main(["convert", str(data), "--selection", str(file), "--output", str(output)]) == 0
    assert ids_of(output) == expected
    capsys.readouterr()
    assert main(["verify", str(output), "--deep"]) == 0
    (step,) = json.loads((output / "dataset.json").read_text())["converted"]
    digest = json.loads(pq.read_metadata(file).metadata[b"vilbert.selection"])["digest"]
    assert step["operations"] == {"selection": [digest]}
    assert json.loads((output / "dataset.json").read_text())["totals"]["dropped"] == {"selection": 10 - len(expected)}
    assert main(["stats", str(output), "--selection", str(file)]) == 2
    assert "belongs to another data set" in capsys.readouterr().err
    again = ["convert", str(output), "--selection", str(file), "--output", str(tmp_path / "c")]
    assert main(again) in (1, 2)
    assert "belongs to another data set" in capsys.readouterr().err
