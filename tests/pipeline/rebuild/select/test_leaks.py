"""`vilbert select --not-in`: no image of the other data set is selected, by id, by bytes and by near-duplicates."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vilbert.manifests.manifest import ManifestWriter
from vilbert.manifests.record import ImageRecord
from vilbert.pipeline.cli import main
from vilbert.pipeline.rebuild.select.leaks import REASONS, Other, find_leaks
from vilbert.pipeline.shards.sample import Sample

from ...shards.conftest import SmallDataset, write_small_dataset
from ..scores.conftest import photograph

TRAIN, TEST = 100, 200
COPIES = {2: (TRAIN + 4, 90), 3: (TRAIN + 5, 40)}
"""Rows of the test set that are photographs of the training set: the same bytes, and a recompressed copy."""


def write(folder: Path, *, test: bool) -> SmallDataset:
    """Write a training set (train.0 to train.9) or a test set (train.1, test.1 to test.5)."""

    def change(row: int, sample: Sample) -> Sample:
        path = Path(str(sample.meta["uri"]))
        seed, quality = COPIES.get(row, (TEST + row, 90)) if test else (TRAIN + row, 90)
        photograph(path, seed, quality=quality)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        return dataclasses.replace(sample, meta={**sample.meta, "sha256": digest})

    def name(row: int) -> str:
        return f"test.{row}" if test and row else f"train.{row or (1 if test else 0)}"

    folder.mkdir()
    return write_small_dataset(folder, rows=6 if test else 10, failed={}, change=change, image_id=name)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A training set and a test set, both with perceptual hashes."""
    home = tmp_path_factory.mktemp("leaks")
    found = [write(home / name, test=name == "test").directory for name in ("train", "test")]
    for directory in found:
        assert main(["score", str(directory), "--column", "quality", "--scores", "phash"]) == 0
    return found[0], found[1]


def left_out(sets: tuple[Path, Path], output: Path, *options: str) -> list[int]:
    assert main(["select", str(sets[0]), "--not-in", *options, "--output", str(output)]) == 0
    kept = pq.read_table(output).column("image_id").to_pylist()
    return [row for row in range(10) if f"train.{row}" not in kept]


@pytest.mark.parametrize(
    ("by", "expected"),
    [(["id"], [1]), (["hash"], [4]), (["near"], [4, 5]), (["id", "hash"], [1, 4]), (list(REASONS), [1, 4, 5])],
)
def test_what_is_left_out_by_which_comparison(
    sets: tuple[Path, Path], tmp_path: Path, by: list[str], expected: list[int]
) -> None:
    assert left_out(sets, tmp_path / "s.parquet", str(sets[1]), "--by", *by) == expected


def test_it_prints_how_many_and_names_some(
    sets: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert left_out(sets, tmp_path / "s.parquet", str(sets[1])) == [1, 4, 5]
    printed = capsys.readouterr().out
    assert "7 of 10 samples selected" in printed
    for line in (
        "left out, the same image id: 1",
        f"train.1 is train.1 of {sets[1]}",
        "left out, the same bytes: 1",
        f"train.4 is test.2 of {sets[1]}",
        "left out, near-duplicates: 1",
        f"train.5 is test.3 of {sets[1]}, ",
    ):
        assert line in printed
    assert left_out(sets, tmp_path / "s.parquet", str(sets[1]), "--json", "--where", "image_id != 'train.0'") == [
        0, 1, 4, 5,
    ]  # fmt: skip
    document = json.loads(capsys.readouterr().out)
    assert document["left_out"] == {"id": 1, "hash": 1, "near": 1}
    assert (document["samples"], document["where"], document["selected"]) == (10, 1, 6)
    assert left_out(sets, tmp_path / "t.parquet", str(sets[1]), "--selection", str(tmp_path / "s.parquet")) == [
        0, 1, 4, 5,
    ]  # fmt: skip


def test_a_list_of_ids_and_a_manifest(
    sets: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_text("train.7\nunknown\n")
    assert left_out(sets, tmp_path / "s.parquet", str(ids), "--by", "id") == [7]
    image = sets[1].parent / "images/2.png"
    with ManifestWriter(tmp_path / "manifest.parquet") as writer:
        digest = hashlib.sha256(image.read_bytes()).hexdigest()
        writer.write([ImageRecord(image_id="other", uri="x.jpg", sha256=digest)])
        writer.commit()
    both = [str(tmp_path / "manifest.parquet"), str(ids)]
    assert left_out(sets, tmp_path / "s.parquet", both[0], "--by", "id", "hash") == [4]
    capsys.readouterr()
    assert main(["select", str(sets[0]), "--not-in", *both, "--output", str(tmp_path / "t.parquet")]) == 2
    assert "leave near out of --by" in capsys.readouterr().err


def test_what_cannot_be_compared_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    train, test = (write(tmp_path / name, test=name == "test").directory for name in ("train", "test"))
    select = ["select", str(train), "--output", str(tmp_path / "s.parquet"), "--not-in"]
    assert main([*select, str(test)]) == 2
    assert f"vilbert score {train} --column quality --scores phash" in capsys.readouterr().err
    (tmp_path / "train/images/9.png").unlink()
    assert main(["score", str(train), "--column", "quality", "--scores", "phash"]) == 0
    capsys.readouterr()
    assert main([*select, str(test)]) == 2
    assert f"vilbert score {test} --column quality" in capsys.readouterr().err
    assert main([*select, str(train), "--by", "id"]) == 2
    assert "no sample is selected of 10" in capsys.readouterr().err
    assert main([*select, str(tmp_path / "nothing")]) == 1
    (tmp_path / "empty.txt").write_text("")
    assert main([*select, str(tmp_path / "empty.txt"), "--by", "id"]) == 2
    assert not (tmp_path / "s.parquet").exists()
    assert main(["score", str(test), "--column", "quality", "--scores", "phash"]) == 0
    assert main([*select, str(test)]) == 0
    assert f"{train}: 1 image is without a perceptual hash" in caplog.text
    assert f"{test}: 1 image is" not in caplog.text


@given(data=st.data())
def test_each_leak_is_reported_once_by_the_first_reason(data: st.DataObject) -> None:
    ours, theirs = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 12))
    draw = np.random.default_rng(data.draw(st.integers(0, 999)))
    ids = [f"i{number}" for number in draw.integers(0, 20, ours)]
    others = [f"i{number}" for number in draw.integers(0, 20, theirs)]
    sha256, other_sha256 = (draw.integers(0, 9, count).astype(np.uint64) for count in (ours, theirs))
    phash, other_phash = (np.uint64(1) << draw.integers(0, 9, count, np.uint64) for count in (ours, theirs))
    has_phash = draw.random(ours) < 0.7
    reasons = data.draw(st.lists(st.sampled_from(REASONS), min_size=1, unique=True))
    distance = data.draw(st.integers(0, 2))
    known = Other(name="o", ids=others, sha256=other_sha256, phash=other_phash, phash_rows=np.arange(theirs))
    found = {
        leak.row: leak for leak in find_leaks(ids, sha256, phash, has_phash, known, reasons=reasons, distance=distance)
    }
    for row in range(ours):
        bits = np.bitwise_count(other_phash ^ phash[row])
        same = {
            "id": np.array([it == ids[row] for it in others]),
            "hash": (other_sha256 == sha256[row]) & (sha256[row] != 0),
            "near": (bits <= distance) & has_phash[row],
        }
        expected = next((reason for reason in REASONS if reason in reasons and same[reason].any()), None)
        assert (found[row].reason if row in found else None) == expected
        if expected is not None:
            assert same[expected][found[row].other]
            assert found[row].distance == (bits.min() if expected == "near" else 0)
