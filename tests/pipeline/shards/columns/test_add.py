"""`vilbert column`: values by image id become shards of the same keys, and no byte of the data set changes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset

from vilbert.pipeline.cli import main
from vilbert.pipeline.shards.columns.info import read_column
from vilbert.pipeline.shards.columns.shard import ColumnShard
from vilbert.pipeline.shards.location.folder import LocalFolder
from vilbert.pipeline.shards.open_dataset import open_dataset

MakeDataset = Callable[..., Any]
AddColumn = Callable[..., int]


def contents(directory: Path) -> dict[str, str]:
    """Return the SHA-256 of all files outside of columns, by name."""
    files = [path for path in directory.rglob("*") if path.is_file() and path.name != ".lock"]
    names = {str(path.relative_to(directory)): path for path in files}
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in names.items() if "columns/" not in name
    }


def values_of(directory: Path, name: str) -> dict[str, Any]:
    """Return the values of a column by key."""
    info = read_column(LocalFolder(directory / "columns" / name))
    assert info is not None
    values: dict[str, Any] = {}
    for shard in range(info.shards):
        path = directory / f"columns/{name}/shards/{shard:06}.tar"
        with ColumnShard(path, name=name, member=info.member) as opened:
            values |= {key: opened[key] for key in opened.keys}
    return values


def keyed_rows(directory: Path) -> dict[str, Any]:
    """Return image id and number of boxes of all samples, by key."""
    with open_dataset(directory) as samples:
        return {sample.key: (sample.meta["image_id"], len(sample.regions)) for sample in samples}


def add(data: Any, file: Path, *options: str, column: str = "extra") -> int:
    return main(["column", "add", str(data.directory), str(file), "--column", column, *options])


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_json_lines_in_any_order(dataset: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, rows = contents(dataset.directory), keyed_rows(dataset.directory)
    lines = [{"image_id": image_id, "score": number / 8} for number, (image_id, _) in enumerate(rows.values())]
    assert add(dataset, write_lines(tmp_path / "s.jsonl", [*lines[::-1], {"image_id": "not there", "score": 1}])) == 0
    assert values_of(dataset.directory, "extra") == {key: number / 8 for number, key in enumerate(rows)}
    assert list(values_of(dataset.directory, "extra")) == list(rows)
    assert contents(dataset.directory) == before
    assert dataset.findings(deep=True) == ()
    capsys.readouterr()
    assert main(["column", "list", str(dataset.directory), "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert (listed["name"], listed["samples"], listed["state"]) == ("extra", len(rows), "complete")
    assert main(["column", "drop", str(dataset.directory), "--column", "extra"]) == 0
    assert not list((dataset.directory / "columns").iterdir())
    assert main(["column", "drop", str(dataset.directory), "--column", "extra"]) == 2


def test_arrays_of_each_region_and_of_each_image(make_dataset: MakeDataset, tmp_path: Path) -> None:
    data = make_dataset()
    rows = keyed_rows(data.directory)
    ids = [image_id for image_id, _ in rows.values()]
    rng = np.random.default_rng(0)
    regions = [rng.standard_normal((boxes, 6)).astype(np.float32) for _, boxes in rows.values()]
    kind = pa.list_(pa.list_(pa.float64()))
    table = pa.table({"image_id": ids, "dino": pa.array([array.tolist() for array in regions], kind)})
    pq.write_table(table, tmp_path / "dino.parquet", row_group_size=2)
    assert add(data, tmp_path / "dino.parquet", column="dino") == 0
    for stored, array in zip(values_of(data.directory, "dino").values(), regions, strict=True):
        assert stored.dtype == np.float32
        assert np.array_equal(stored, array)
    np.save(tmp_path / "clip.npy", rng.standard_normal((len(ids), 5)))
    (tmp_path / "ids.txt").write_text("\n".join(ids))
    assert add(data, tmp_path / "clip.npy", "--ids", str(tmp_path / "ids.txt"), column="clip") == 0
    shapes = {}
    for name in ("dino", "clip"):
        info = read_column(LocalFolder(data.directory / "columns" / name))
        assert info is not None
        shapes[name] = info.shape
    assert shapes == {"dino": ("N", 6), "clip": (5,)}
    assert data.findings(deep=True) == ()
    tar = str(data.directory / "columns/dino/shards/000000.tar")
    first = next(iter(webdataset.WebDataset(tar, shardshuffle=False).decode()))
    assert np.array_equal(first["dino.npy"], regions[0])


def test_several_columns_become_one_object(make_dataset: MakeDataset, tmp_path: Path) -> None:
    data = make_dataset()
    ids = [image_id for image_id, _ in keyed_rows(data.directory).values()]
    table = pa.table({"id": ids, "hash": [f"{n:x}" for n in range(len(ids))], "score": np.arange(len(ids)) / 4})
    pq.write_table(table, tmp_path / "v.parquet")
    assert add(data, tmp_path / "v.parquet", "--id-column", "id") == 0
    assert list(values_of(data.directory, "extra").values())[1] == {"hash": "1", "score": 0.25}
    assert add(data, tmp_path / "v.parquet", "--id-column", "id", "--value-column", "score", column="score") == 0
    assert list(values_of(data.directory, "score").values())[1] == 0.25


def test_an_optional_field_does_not_change_the_kind_of_the_other_values(
    make_dataset: MakeDataset, tmp_path: Path
) -> None:
    data = make_dataset(rows=10, shard_size=4, failed={})
    rows: list[dict[str, Any]] = [{"image_id": one, "a": 1} for one, _ in keyed_rows(data.directory).values()]
    rows[3]["b"] = 2
    assert add(data, write_lines(tmp_path / "s.jsonl", rows)) == 0
    assert [*values_of(data.directory, "extra").values()][2:5] == [{"a": 1}, {"a": 1, "b": 2}, {"a": 1}]


def test_a_field_that_no_line_has_is_named(
    make_dataset: MakeDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_dataset(rows=4, shard_size=4, failed={})
    file = write_lines(
        tmp_path / "s.jsonl", [{"image_id": one, "a": 1} for one, _ in keyed_rows(data.directory).values()]
    )
    assert add(data, file, "--value-column", "nope") == 2
    assert "has no column nope" in capsys.readouterr().err


def test_the_file_of_ids_is_named_where_it_cannot_be_used(
    make_dataset: MakeDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_dataset(rows=2, shard_size=4, failed={})
    np.save(tmp_path / "v.npy", np.zeros(2))
    ids = tmp_path / "ids.txt"
    for content, problem in ((None, "no such file"), (b"1\n1\n", "twice"), (b"\xff\n", "UTF-8")):
        if content is not None:
            ids.write_bytes(content)
        assert add(data, tmp_path / "v.npy", "--ids", str(ids)) == 2
        message = capsys.readouterr().err
        assert f"{ids}: " in message
        assert problem in message
        assert "vilbert extract" not in message
    ids.write_text("\n".join(one for one, _ in keyed_rows(data.directory).values()))
    np.save(tmp_path / "v.npy", np.full(2, np.nan))
    assert add(data, tmp_path / "v.npy", "--ids", str(ids), "--missing", "skip") == 2
    assert "NaN" in capsys.readouterr().err


def test_images_without_a_value_are_refused_or_skipped(
    make_dataset: MakeDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_dataset()
    ids = [image_id for image_id, _ in keyed_rows(data.directory).values()]
    file = write_lines(tmp_path / "s.jsonl", [{"image_id": one, "x": 1} for one in ids[:-2]])
    assert add(data, file) == 2
    assert repr(ids[-2]) in capsys.readouterr().err
    assert not (data.directory / "columns/extra").exists()
    assert add(data, file, "--missing", "skip") == 0
    assert len(values_of(data.directory, "extra")) == len(ids) - 2
    assert data.findings(deep=True) == ()


def test_the_same_values_again_are_no_work_and_others_are_refused(make_dataset: MakeDataset, tmp_path: Path) -> None:
    data = make_dataset()
    ids = [image_id for image_id, _ in keyed_rows(data.directory).values()]
    file = write_lines(tmp_path / "s.jsonl", [{"image_id": one, "x": 1} for one in ids])
    assert add(data, file) == 0
    tar = data.directory / "columns/extra/shards/000000.tar"
    written = tar.stat().st_mtime_ns, tar.read_bytes()
    assert add(data, file) == 0
    assert (tar.stat().st_mtime_ns, tar.read_bytes()) == written
    assert add(data, write_lines(tmp_path / "t.jsonl", [{"image_id": one, "x": 2} for one in ids])) == 2
    assert main(["column", "drop", str(data.directory), "--column", "extra"]) == 0
    assert add(data, file) == 0
    assert tar.read_bytes() == written[1]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.parquet", b"PAR1 and no more", "cannot be read"),
        ("a.jsonl", b'{"image_id": 1, "x": 1}\n{"image_id": 1, "x": 2}\n', "twice"),
        ("a.jsonl", b'["image_id"]\n', "line 1"),
        ("a.jsonl", b"\xff\xfe\n", "cannot be read"),
        ("a.jsonl", b'{"image_id": 1, "x": 1}\n{"image_id": 2, "x":\n', "line 2 cannot be read"),
        ("a.jsonl", b'{"image_id": {}, "x": 1}\n', "is not an image id"),
        ("a.jsonl", b'{"other": "1"}\n', "--id-column"),
        ("a.jsonl", b"", "none of its image ids"),
        ("a.csv", b"image_id,x\n", ".parquet, .npy or .jsonl"),
        ("a.npy", b"", "--ids"),
    ],
)
def test_files_that_cannot_be_read(
    make_dataset: MakeDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes, said: str
) -> None:
    data = make_dataset()
    (tmp_path / name).write_bytes(content)
    assert add(data, tmp_path / name, "--missing", "skip") == 2
    assert said in capsys.readouterr().err
    assert not (data.directory / "columns/extra").exists()


def test_several_columns_of_one_name_are_refused(
    make_dataset: MakeDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_dataset()
    for twice in ("v", "image_id"):
        table = pa.table([pa.array(["photo.000"]), pa.array([1]), pa.array([2])], names=["image_id", "v", twice])
        pq.write_table(table, tmp_path / "a.parquet")
        assert add(data, tmp_path / "a.parquet", "--missing", "skip") == 2
        assert f"several columns {twice!r}" in capsys.readouterr().err


def test_names_that_cannot_be(make_dataset: MakeDataset, tmp_path: Path) -> None:
    data = make_dataset()
    file = write_lines(tmp_path / "s.jsonl", [])
    for name in ("../up", "features", "base", "a" * 21, "A", ""):
        assert add(data, file, column=name) == 2, name
