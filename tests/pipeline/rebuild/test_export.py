"""`vilbert export`: any data set to any format, whole or not at all."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vilbert.pipeline.cli import main
from vilbert.pipeline.rebuild.export import ExportSettings, export_formats
from vilbert.pipeline.shards.dataset import write_dataset
from vilbert.pipeline.shards.sample import Sample
from vilbert.settings import SettingsError

from ..shards.conftest import SmallDataset

MakeDataset = Callable[..., SmallDataset]


def run(dataset: SmallDataset, output: Path, *options: str, to: str = "bottom-up-tsv") -> int:
    return main(["export", str(dataset.directory), "--to", to, "--output", str(output), *options])


def image_ids(path: Path) -> list[str]:
    csv.field_size_limit(1 << 24)
    with path.open(newline="") as file:
        return [row[0] for row in csv.reader(file, delimiter="\t")]


def test_all_samples_in_order_from_either_storage(
    dataset: SmallDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(dataset, tmp_path / "out" / "features.tsv") == 0
    expected = [f"photo.{row:03}" for row in range(10) if row not in (2, 5, 6)]
    assert image_ids(tmp_path / "out" / "features.tsv") == expected
    shown = capsys.readouterr()
    assert "wrote 7 samples" in shown.out
    assert "3 rows of the manifest that failed" in shown.out
    assert "not in it: captions" in shown.out
    assert "7/7" in shown.err


@pytest.mark.parametrize("name", export_formats())
def test_every_format(name: str, make_dataset: MakeDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if name == "hdf5":
        pytest.importorskip("h5py")
    dataset = make_dataset(rows=2, failed={}, image_id=lambda row: f"photo_{row}", change=with_caption)
    output = tmp_path / "out.lmdb"
    assert run(dataset, output, "--json", "--image-id-format", "{number}", to=name) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["samples"] == 2
    assert report["bytes"] > 0
    assert output.exists()


def test_only_what_the_data_set_has_is_said_to_be_left_out(
    make_dataset: MakeDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def bare(row: int, sample: Sample) -> Sample:
        return replace(sample, meta={"image_id": sample.meta["image_id"], "captions": [], "split": ""})

    def lost(directory: Path, *options: str) -> Any:
        output = tmp_path / f"{directory.name}{len(options)}.tsv"
        arguments = ["export", str(directory), "--to", "bottom-up-tsv", "--output", str(output), "--json"]
        assert main([*arguments, *options]) == 0
        return json.loads(capsys.readouterr().out)["lost"]

    data = make_dataset(rows=2, failed={}, change=bare).directory
    objects = ["object ids", "object scores", "attribute ids", "attribute scores"]
    assert lost(data) == lost(data, "--dry-run") == objects
    fields = ["--drop-fields", "objects", "classes", "attributes"]
    assert main(["convert", str(data), "--output", str(tmp_path / "fewer"), *fields]) == 0
    capsys.readouterr()
    assert lost(tmp_path / "fewer") == []


def with_caption(row: int, sample: Sample) -> Sample:
    return replace(sample, meta={**sample.meta, "captions": ["a caption"]})


def test_a_dry_run_writes_nothing_and_estimates_the_size(
    make_dataset: MakeDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = make_dataset(rows=40, failed={})
    assert run(dataset, tmp_path / "new" / "features.tsv", "--dry-run", "--json") == 0
    estimated = json.loads(capsys.readouterr().out)["estimated_bytes"]
    assert not (tmp_path / "new").exists()
    assert run(dataset, tmp_path / "new" / "features.tsv", "--json") == 0
    assert estimated == pytest.approx(json.loads(capsys.readouterr().out)["bytes"], rel=0.01)


@pytest.mark.parametrize("options", [(), ("--dry-run",)])
def test_what_exists_is_refused(
    options: tuple[str, ...], dataset: SmallDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "features.tsv").write_text("mine")
    assert run(dataset, tmp_path / "features.tsv", *options) == 2
    assert "features.tsv: exists" in capsys.readouterr().err
    assert (tmp_path / "features.tsv").read_text() == "mine"


def test_a_sample_that_the_format_cannot_hold_leaves_nothing(
    dataset: SmallDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(dataset, tmp_path / "out" / "boxes.json", to="coco-detections") == 1
    assert "sample photo_000-" in capsys.readouterr().err
    assert os.listdir(tmp_path / "out") == []


def test_a_field_that_the_data_set_lacks_is_named_before_anything_is_written(
    make_dataset: MakeDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = make_dataset()
    write_dataset(dataset.directory, replace(dataset.info, class_names=()))
    assert run(dataset, tmp_path / "new" / "out", to="vinvl-tsv") == 2
    assert "--to vinvl-tsv: the format needs class_names, which" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_an_empty_data_set_is_no_export(
    make_dataset: MakeDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = make_dataset(rows=2, failed={0: "corrupt", 1: "corrupt"})
    assert run(dataset, tmp_path / "out.tsv") == 1
    assert "has no samples" in capsys.readouterr().err
    assert not (tmp_path / "out.tsv").exists()


def test_a_damaged_shard_is_no_export(
    dataset: SmallDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = bytearray(dataset.data_file().read_bytes())
    data[len(data) // 2] ^= 1
    dataset.data_file().write_bytes(data)
    assert run(dataset, tmp_path / "out" / "features.tsv") == 1
    assert dataset.data_file().name in capsys.readouterr().err
    assert os.listdir(tmp_path / "out") == []


def test_a_shard_with_other_arrays_than_dataset_json_says_is_no_export(
    make_dataset: MakeDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def without_attributes(row: int, sample: Sample) -> Sample:
        return replace(sample, regions=replace(sample.regions, attribute_ids=None, attribute_scores=None))

    dataset = make_dataset(change=without_attributes)
    assert run(dataset, tmp_path / "out" / "features.tsv", to="lxmert-tsv") == 1
    said = capsys.readouterr().err
    assert "its attribute_ids, attribute_scores do not match dataset.json; run `vilbert verify`" in said
    assert os.listdir(tmp_path / "out") == []


def test_names_that_collide_are_no_export(
    make_dataset: MakeDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = make_dataset(image_id=lambda row: f"{'train' if row % 2 else 'val'}_{row // 2}")
    assert run(dataset, tmp_path / "features.tsv", "--image-id-format", "{number}") == 1
    assert "images a name that another image has" in capsys.readouterr().err
    assert not (tmp_path / "features.tsv").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"to": "vilbert-lmdp"}, "did you mean vilbert-lmdb"),
        ({"image_id_format": "{idd}"}, r"--image-id-format '\{idd\}': use \{id\}"),
        ({"output": "s3://bucket/x"}, "give a path on this machine"),
        ({"output": "d/../d/x"}, "is inside the data set"),
        ({"output": "d"}, "is inside the data set"),
    ],
)
def test_wrong_settings(options: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        ExportSettings(**{"directory": "d", "to": "bottom-up-tsv", "output": "o", **options})


@pytest.mark.parametrize(
    ("sent", "status", "left"), [(signal.SIGINT, 130, []), (signal.SIGKILL, -9, [".out.tsv.export"])]
)
def test_an_export_that_is_stopped_leaves_nothing_that_looks_complete_and_starts_again(
    sent: signal.Signals, status: int, left: list[str], make_dataset: MakeDataset, tmp_path: Path
) -> None:
    dataset = make_dataset(rows=30, failed={})
    output = tmp_path / "exports" / "out.tsv"
    code = f"""
import sys, time
from vilbert.pipeline.rebuild.formats.exporters import tsv
row = tsv.tsv_text
def slow(sample):
    time.sleep(0.2)
    return row(sample)
tsv.tsv_text = slow
from vilbert.pipeline.cli import main
sys.exit(main(["export", {str(dataset.directory)!r}, "--to", "bottom-up-tsv", "--output", {str(output)!r}]))
"""
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) as child:
        while child.poll() is None and not (tmp_path / "exports" / ".out.tsv.export" / "out.tsv").exists():
            time.sleep(0.05)
        child.send_signal(sent)
        child.communicate(timeout=30)
    assert child.returncode == status
    assert os.listdir(output.parent) == left
    assert run(dataset, output) == 0
    assert os.listdir(output.parent) == ["out.tsv"]
    assert len(image_ids(output)) == 30


@pytest.mark.parametrize("name", ["bottom-up-tsv", "vilbert-lmdb", "parquet"])
def test_a_full_disk_is_reported_and_leaves_nothing(name: str, make_dataset: MakeDataset, tmp_path: Path) -> None:
    dataset = make_dataset(rows=10, failed={})
    output = tmp_path / "exports" / "out.lmdb"
    code = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
from vilbert.pipeline.cli import main
sys.exit(main(["export", {str(dataset.directory)!r}, "--to", {name!r}, "--output", {str(output)!r}]))
"""
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 1, done.stderr
    assert "File too large" in done.stderr or "No space left" in done.stderr
    assert f"{output}: cannot be written (" in done.stderr
    assert "free space" in done.stderr
    assert "Traceback" not in done.stderr
    assert os.listdir(output.parent) == []
