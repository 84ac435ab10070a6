"""`vilbert verify` passes what is whole and finds every kind of damage, each by its code."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vilbert.manifests.manifest import Manifest, ManifestWriter
from vilbert.manifests.record import ImageRecord
from vilbert.pipeline.cli import main
from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.shards.checks.shard import ShardTask, check_shard
from vilbert.pipeline.shards.checks.verify import examine
from vilbert.pipeline.shards.dataset import sum_records, write_dataset
from vilbert.pipeline.shards.location.folder import LocalFolder
from vilbert.pipeline.shards.parallel import map_shards
from vilbert.pipeline.shards.record import read_records

MakeDataset = Callable[..., Any]


def flip(path: Path, position: int, bits: int = 1) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ bits]))


def cut(path: Path, size: int) -> None:
    os.truncate(path, size)


def tar_offset(path: Path, suffix: bytes, *, number: int = 0) -> int:
    """Return where the header of the `number`-th member with this suffix begins."""
    data, offset = path.read_bytes(), -1
    for _ in range(number + 1):
        offset = data.index(suffix, offset + 1)
    return offset // 512 * 512


# Whole data sets


@pytest.mark.parametrize("deep", [False, True])
def test_a_whole_data_set_passes(dataset: Any, deep: bool) -> None:
    verdict = examine(dataset.directory, deep=deep)
    assert verdict.findings == ()
    assert "3 shards, 7 samples + 3 failed rows = 10 rows" in verdict.proven
    assert ("bytes hashed" in verdict.proven) == deep
    assert (str(dataset.manifest) in verdict.proven) == deep


def test_the_proof_says_when_no_manifest_was_at_hand(dataset: Any) -> None:
    dataset.manifest.unlink()
    verdict = examine(dataset.directory, deep=True)
    assert verdict.findings == ()
    assert "not compared with a manifest" in verdict.proven


def test_shards_without_samples_and_without_failures_pass(make_dataset: MakeDataset) -> None:
    dataset = make_dataset(failed=dict.fromkeys(range(4, 8), "corrupt"))
    assert read_records(dataset.directory)[1].samples == 0
    assert dataset.findings(deep=True) == ()


def test_a_limited_data_set_agrees_with_its_longer_manifest(make_dataset: MakeDataset) -> None:
    dataset = make_dataset(rows=8)
    longer = dataset.manifest.with_name("longer.parquet")
    records = Manifest.open(dataset.manifest).read(0, 8)
    with ManifestWriter(longer) as writer:
        writer.write([*records, ImageRecord(image_id="one more", uri="nowhere.jpg")])
        manifest = writer.commit()
    write_dataset(dataset.directory, replace(dataset.info, manifest_hash=manifest.hash, limit=8))
    assert dataset.findings(deep=True, manifest=longer) == ()
    write_dataset(dataset.directory, replace(dataset.info, manifest_hash=manifest.hash))
    assert dataset.codes(deep=True, manifest=longer) == {"manifest-rows"}


# Every byte


@pytest.mark.parametrize("bits", [0x01, 0x80])
def test_every_flipped_byte_of_a_shard_is_found(dataset: Any, bits: int) -> None:
    path = dataset.data_file()
    task = ShardTask(folder=LocalFolder(dataset.directory), info=dataset.info, deep=True)
    original = path.read_bytes()
    step = max(1, len(original) // 1500) | 1  # odd, so that every place in a block is hit
    for position in {*range(0, len(original), step), *range(600), len(original) - 1}:
        flip(path, position, bits)
        assert [finding.code for finding in check_shard(task, 1).findings] == ["data-changed"], position
        flip(path, position, bits)
    assert path.read_bytes() == original
    assert check_shard(task, 1).findings == []


@pytest.mark.parametrize("name", ["shards/000001.json", "failures/000001.jsonl"])
@pytest.mark.parametrize("bits", [0x01, 0x80])
def test_every_flipped_byte_of_a_record_and_of_failures_is_found(
    make_dataset: MakeDataset, name: str, bits: int
) -> None:
    dataset = make_dataset()
    path = dataset.directory / name
    for position in range(bits & 1, path.stat().st_size, 2):  # each byte once, in one of the two cases
        flip(path, position, bits)
        assert dataset.findings(), position
        flip(path, position, bits)
    assert not dataset.findings()


def test_flipped_bytes_of_dataset_json_are_found_but_in_names_and_paths(make_dataset: MakeDataset) -> None:
    dataset = make_dataset()
    path = dataset.directory / "dataset.json"
    text = path.read_bytes()
    free = {*dataset.info.class_names, *dataset.info.attribute_names, *dataset.info.software.values()}
    free |= {*dataset.info.software, dataset.info.manifest}  # nothing else says what these are
    unchecked = {
        position
        for name in free
        for start in range(len(text))
        if text.startswith(f'"{name}"'.encode(), start)
        for position in range(start + 1, start + 1 + len(name))
    }
    for position in sorted(set(range(len(text))) - unchecked):
        flip(path, position)
        assert dataset.findings(deep=True, manifest=dataset.manifest), text[position - 20 : position + 20]
        flip(path, position)


# Damage as it happens


def damage_tar_header(dataset: Any) -> None:
    flip(dataset.data_file(), tar_offset(dataset.data_file(), b".features.npy") + 124)


def damage_tar_block(dataset: Any) -> None:
    path = dataset.data_file()
    data = bytearray(path.read_bytes())
    start = tar_offset(path, b".features.npy", number=1)
    data[start : start + 512] = bytes(512)
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        lambda dataset: cut(dataset.data_file(), tar_offset(dataset.data_file(), b".boxes.npy", number=1)),
        lambda dataset: cut(dataset.data_file(), tar_offset(dataset.data_file(), b".features.npy", number=1)),
        lambda dataset: cut(dataset.data_file(), tar_offset(dataset.data_file(), b".features.npy") + 100),
        lambda dataset: cut(dataset.data_file(), 0),
        lambda dataset: dataset.data_file().write_bytes(dataset.data_file().read_bytes() + bytes(512)),
    ],
)
def test_a_tar_cut_anywhere_or_grown_is_found_by_its_size(
    make_dataset: MakeDataset, damage: Callable[[Any], None]
) -> None:
    dataset = make_dataset()
    damage(dataset)
    assert dataset.codes() == dataset.codes(deep=True) == {"data-size"}


@pytest.mark.parametrize("damage", [damage_tar_header, damage_tar_block])
def test_tar_headers_that_tarfile_skips_in_silence_are_found_without_a_hash(
    make_dataset: MakeDataset, damage: Callable[[Any], None]
) -> None:
    dataset = make_dataset()
    damage(dataset)
    assert dataset.codes() == {"data-damaged"}
    assert dataset.codes(deep=True) == {"data-changed"}


def test_one_bit_of_a_feature_needs_deep(make_dataset: MakeDataset) -> None:
    dataset = make_dataset()
    flip(dataset.data_file(), tar_offset(dataset.data_file(), b".features.npy") + 512 + 128)
    assert dataset.codes() == set()
    assert dataset.codes(deep=True) == {"data-changed"}


def move(dataset: Any, source: str, target: str) -> None:
    shutil.move(dataset.directory / source, dataset.directory / target)


def leave_a_journal(directory: Path) -> None:
    (directory / ".journals").mkdir()
    (directory / ".journals" / "000001.journal").write_text("x")


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda d: d.data_file().unlink(), {"data-missing"}),
        (lambda d: d.record_file().unlink(), {"record-missing"}),
        (lambda d: d.record_file().write_text("{"), {"record-damaged"}),
        (lambda d: d.record_file().write_text(d.record_file().read_text() + " "), {"record-damaged"}),
        (lambda d: (d.directory / "failures/000001.jsonl").unlink(), {"failures-missing"}),
        (lambda d: (d.directory / "failures/000001.jsonl").write_text(""), {"failures-changed", "failures-count"}),
        (lambda d: shutil.copy(d.record_file(0), d.record_file(1)), {"record-damaged"}),
        (lambda d: (d.directory / "shards/notes.txt").write_text("x"), {"foreign-file"}),
        (lambda d: (d.directory / "failures/notes.txt").write_text("x"), {"foreign-file"}),
        (lambda d: shutil.copy(d.record_file(), d.record_file(7)), {"foreign-file"}),
        (lambda d: shutil.copy(d.data_file(), d.data_file(7)), {"foreign-file"}),
        (lambda d: (d.directory / "shards/1.json").write_text("{}"), {"foreign-file"}),
        (lambda d: (d.directory / "shards/.000001.tar.9.ab.tmp").write_text("x"), {"leftover"}),
        (lambda d: (d.directory / ".dataset.json.9.ab.tmp").write_text("x"), {"leftover"}),
        (lambda d: leave_a_journal(d.directory), {"leftover"}),
        (lambda d: (d.directory / ".journals").mkdir(), set()),  # of a store that has folders
        (lambda d: (d.directory / "dataset.json").unlink(), {"dataset-missing"}),
        (lambda d: (d.directory / "dataset.json").write_text("{}"), {"dataset-damaged"}),
        (lambda d: (d.directory / "dataset.json").write_bytes(b""), {"dataset-damaged"}),
        (lambda d: shutil.rmtree(d.directory / "failures"), {"failures-missing"}),
        (lambda d: shutil.rmtree(d.directory / "shards"), {"record-missing"}),
    ],
)
def test_missing_moved_and_foreign_files(dataset: Any, damage: Callable[[Any], object], expected: set[str]) -> None:
    damage(dataset)
    assert dataset.codes() == expected
    for finding in dataset.findings():
        assert finding.where
        assert finding.what
        assert finding.remedy


def test_two_shards_that_changed_places_are_found(make_dataset: MakeDataset) -> None:
    dataset = make_dataset(rows=8, failed={0: "corrupt", 4: "corrupt"})
    move(dataset, "shards/000000.tar", "x")
    move(dataset, "shards/000001.tar", "shards/000000.tar")
    move(dataset, "x", "shards/000001.tar")
    assert dataset.codes() == {"keys"}
    assert dataset.codes(deep=True) == {"data-changed"}


def test_a_folder_that_is_no_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tmp_path)]) == 1
    assert capsys.readouterr().out.count("dataset-missing") == 1
    assert main(["verify", str(tmp_path / "nowhere")]) == 2


# Unfinished


def test_an_interrupted_run_is_incomplete_and_says_how_to_go_on(dataset: Any) -> None:
    unfinished = replace(dataset.info, complete=False, records_sha256=None, splits={}, totals=sum_records([]))
    write_dataset(dataset.directory, unfinished)
    dataset.record_file().unlink()
    (dataset.directory / "shards/.000002.tar.9.ab.tmp").write_bytes(b"half")
    (finding,) = dataset.findings(deep=True)
    assert finding.code == "incomplete"
    assert "2 of 3 shards" in finding.what
    assert "extract" in finding.remedy


def test_damage_to_a_finished_shard_of_an_unfinished_data_set_is_found(make_dataset: MakeDataset) -> None:
    dataset = make_dataset()
    unfinished = replace(dataset.info, complete=False, records_sha256=None, splits={}, totals=sum_records([]))
    write_dataset(dataset.directory, unfinished)
    cut(dataset.data_file(), 1000)
    assert dataset.codes() == {"incomplete", "data-size"}


# The command


def test_exit_status_and_output(dataset: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(dataset.directory), "--deep"]) == 0
    line = capsys.readouterr().out
    assert line.count("\n") == 1
    dataset.data_file().unlink()
    dataset.record_file(0).unlink()
    assert main(["verify", str(dataset.directory)]) == 1
    text = capsys.readouterr().out
    assert "record-missing: shards/000000.json: " in text
    assert f"data-missing: shards/000001.{dataset.info.storage}: " in text
    assert text.endswith("problems: 2\n")


def test_json_is_a_list_of_findings(make_dataset: MakeDataset, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = make_dataset()
    assert main(["verify", str(dataset.directory), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    cut(dataset.data_file(), 10)
    assert main(["verify", str(dataset.directory), "--json"]) == 1
    (finding,) = json.loads(capsys.readouterr().out)
    assert finding.keys() == {"code", "where", "what", "remedy"}
    assert (finding["code"], finding["where"]) == ("data-size", "shards/000001.tar")


def test_processes_find_what_one_finds_in_the_same_order(dataset: Any) -> None:
    cut(dataset.data_file(2), 10)
    flip(dataset.data_file(0), 700)
    alone = dataset.findings(deep=True, num_workers=1)
    assert {finding.code for finding in alone} == {"data-size", "data-changed"}
    assert dataset.findings(deep=True, num_workers=2) == alone


def test_a_checking_process_that_dies_is_an_error_and_no_verdict() -> None:
    with pytest.raises(ShardError, match="--num-workers 1"):
        list(map_shards(os._exit, [1, 1], workers=2, label="verify"))


# Its documentation


def test_the_page_lists_exactly_the_codes_there_are() -> None:
    root = Path(__file__).resolve().parents[4]
    sources = sorted((root / "pipeline/shards/checks").glob("*.py"))
    used = {
        code
        for path in sources
        for code in re.findall(r'(?:add\(|finding\(|yield |code=)"([a-z]+(?:-[a-z]+)*)"', path.read_text())
    }
    rows = re.findall(r"^\| (`.*?`) \|", (root / "docs/verify.md").read_text(), re.MULTILINE)
    listed = [code for row in rows for code in re.findall("`(.+?)`", row)]
    assert sorted(listed) == sorted(used)
