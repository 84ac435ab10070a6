"""`vilbert index` writes the same files for the same shards, and never over a file that somebody else wrote."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset

from vilbert.pipeline.cli import main
from vilbert.pipeline.shards.index.names import INDEX_FILE
from vilbert.pipeline.shards.index.write import index_dataset, write_side_files
from vilbert.pipeline.shards.location.folder import LocalFolder, open_folder
from vilbert.pipeline.shards.open_dataset import open_dataset
from vilbert.untrusted.documents import parse_yaml

MakeDataset = Callable[..., Any]


def contents(directory: Path) -> dict[str, str]:
    """Return the SHA-256 of all files but the writer's lock, by name."""
    files = sorted(path for path in directory.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_only_side_files_are_added_and_a_second_run_changes_no_byte(dataset: Any) -> None:
    before = contents(dataset.directory)
    assert main(["index", str(dataset.directory)]) == 0
    first = contents(dataset.directory)
    assert before.items() <= first.items()
    added = set(first) - set(before)
    common = {"README.md", "croissant.json", "index.parquet"}
    of_tar = {"shardindex.json"} | {f"shards/00000{n}.tar.idx" for n in range(3)}
    of_tar |= {
        f".nv-meta/{name}" for name in (".info.json", "dataset.yaml", "index.sqlite", "index.uuid", "split.yaml")
    }
    assert added == (common | of_tar if dataset.info.storage == "tar" else common)
    assert main(["index", str(dataset.directory)]) == 0
    assert contents(dataset.directory) == first


def test_the_parquet_index_finds_each_sample(make_dataset: MakeDataset) -> None:
    data = make_dataset()
    index_dataset(LocalFolder(data.directory))
    rows = pq.read_table(data.directory / INDEX_FILE).to_pylist()
    with open_dataset(data.directory) as samples:
        assert [row["key"] for row in rows] == [sample.key for sample in samples]
        for row, sample in zip(rows, samples, strict=True):
            assert (row["image_id"], row["captions"]) == (sample.meta["image_id"], sample.meta["captions"])
            assert (row["width"], row["num_boxes"]) == (sample.regions.width, len(sample.regions))
            assert (row["split"], row["sha256"]) == (sample.meta["split"], sample.meta["sha256"])
            with (data.directory / row["shard"]).open("rb") as tar:
                tar.seek(row["offset"])
                assert tar.read(row["bytes"]).startswith(f"{sample.key}.boxes.npy".encode())


def test_tar_idx_holds_the_offset_of_each_sample_and_the_end(make_dataset: MakeDataset) -> None:
    data = make_dataset()
    index_dataset(LocalFolder(data.directory))
    tar = data.data_file(0)
    offsets = np.frombuffer(tar.with_suffix(".tar.idx").read_bytes(), "<u8").astype(int)
    keys = [sample["__key__"] for sample in webdataset.WebDataset(str(tar), shardshuffle=False)]
    content = tar.read_bytes()
    assert len(offsets) == len(keys) + 1
    assert [content[at : at + 200].split(b".")[0].decode() for at in offsets[:-1]] == keys
    assert not content[offsets[-1] :].strip(b"\0")


@pytest.mark.parametrize("name", ["README.md", ".nv-meta/split.yaml", ".nv-meta/dataset.yaml", "croissant.json"])
def test_what_a_person_wrote_or_edited_is_kept(make_dataset: MakeDataset, name: str) -> None:
    data = make_dataset()
    folder, path = LocalFolder(data.directory), data.directory / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("{}\n")
    assert index_dataset(folder).kept == (name,)
    assert path.read_text() == "{}\n"
    path.unlink()
    assert index_dataset(folder).kept == ()
    edited = path.read_bytes().replace(b"e", b"E", 1)
    path.write_bytes(edited)
    assert index_dataset(folder).kept == (name,)
    assert path.read_bytes() == edited
    assert data.findings(deep=True) == ()


def test_shards_go_by_the_splits_that_they_hold(make_dataset: MakeDataset) -> None:
    splits = ["train", "train", "train", "val", "val", "val", "val", "val", "", ""]
    data = make_dataset(failed={}, shard_size=2, change=lambda row, sample: with_split(sample, splits[row]))
    index_dataset(LocalFolder(data.directory))
    card = parse_yaml((data.directory / "README.md").read_text().split("---\n")[1])
    files = {entry["split"]: entry["path"] for entry in card["configs"][0]["data_files"]}
    shards = [f"shards/00000{n}.tar" for n in range(5)]
    assert files == {"train": shards[:1], "train_val": shards[1:2], "val": shards[2:4], "unassigned": shards[4:]}
    energon = parse_yaml((data.directory / ".nv-meta/split.yaml").read_bytes())
    assert energon == {"split_parts": files, "exclude": []}


def with_split(sample: Any, split: str) -> Any:
    sample.meta["split"] = split
    return sample


def test_a_data_set_behind_a_url_gets_the_same_files(make_dataset: MakeDataset) -> None:
    import fsspec

    data = make_dataset()
    url = "memory://side-files/data"
    memory = fsspec.filesystem("memory")
    memory.put(str(data.directory), "/side-files/data", recursive=True)
    assert main(["index", url]) == 0
    index_dataset(LocalFolder(data.directory))
    for name in contents(data.directory):
        assert memory.cat_file(f"/side-files/data/{name}") == (data.directory / name).read_bytes(), name
    assert main(["verify", url, "--deep"]) == 0
    memory.rm("/side-files", recursive=True)


def test_a_job_writes_them_once_and_renews_them_after_its_shards(make_dataset: MakeDataset) -> None:
    data = make_dataset()
    folder = open_folder(data.directory)
    write_side_files(folder)
    assert (data.directory / "shardindex.json").exists()
    (data.directory / "shardindex.json").unlink()
    write_side_files(folder)
    assert not (data.directory / "shardindex.json").exists()
    folder.delete(INDEX_FILE)
    write_side_files(folder)
    assert json.loads((data.directory / "shardindex.json").read_text())["shardlist"][0]["nsamples"] == 3


def test_damage_and_unfinished_data_sets_are_named(
    make_dataset: MakeDataset, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    data = make_dataset()
    data.data_file(1).write_bytes(data.data_file(1).read_bytes()[:-512])
    assert main(["index", str(data.directory)]) == 1
    assert "000001.tar" in capsys.readouterr().err
    assert not (data.directory / INDEX_FILE).exists()
    assert not list(data.directory.rglob("*.tmp"))
    assert main(["index", str(tmp_path / "nowhere")]) == 2
    assert not (tmp_path / "nowhere").exists()
