"""Lists of images to leave out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vilbert.manifests.exclusion import Exclusion, read_ids
from vilbert.manifests.record import ImageRecord, ManifestError
from vilbert.manifests.report import Report


def test_three_ways_to_write_ids(tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("9\n42 \n\n")
    (tmp_path / "ids.json").write_text('[9, "42"]')
    np.save(tmp_path / "ids.npy", np.array([9, 42]))
    for name in ("ids.txt", "ids.json", "ids.npy"):
        assert read_ids(tmp_path / name) == {"9", "42"}


def test_records_are_left_out_and_both_sides_counted(tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("1\n3\n000000000007\n")
    report, exclusion = Report(), Exclusion(tmp_path / "ids.txt")
    records = (ImageRecord(image_id=str(i), uri="") for i in range(5))
    assert [record.image_id for record in exclusion.filter(records, report)] == ["0", "2", "4"]
    exclusion.count_unmet(report)
    assert report.counts == {"excluded-id": 2, "unmatched-exclusion": 1}


def test_pickled_arrays_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "ids.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ManifestError, match="cannot be read"):
        read_ids(tmp_path / "ids.npy")


def test_whole_numbers_of_any_type_are_their_digits(tmp_path: Path) -> None:
    for i, array in enumerate(
        (np.array([9.0, 42.0]), np.array([[9], [42]], np.uint8), np.array(["9", "42"]), np.array([b"9", b"42"]))
    ):
        np.save(tmp_path / f"{i}.npy", array)
        assert read_ids(tmp_path / f"{i}.npy") == {"9", "42"}
    (tmp_path / "ids.json").write_text("[9.0, 42]")
    assert read_ids(tmp_path / "ids.json") == {"9", "42"}
    np.save(tmp_path / "none.npy", np.array([], np.int64))
    assert read_ids(tmp_path / "none.npy") == set()


def test_only_a_line_feed_ends_an_id(tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("a\u2028b\r\nc\x0bd\n", newline="")
    assert read_ids(tmp_path / "ids.txt") == {"a\u2028b", "c\x0bd"}


def test_an_array_larger_than_its_file_takes_no_memory(tmp_path: Path) -> None:
    np.save(tmp_path / "ids.npy", np.arange(9))
    data = (tmp_path / "ids.npy").read_bytes()
    forged = data.replace(b"(9,), }            ", b"(9000000000000,), }")
    assert len(forged) == len(data)
    assert forged != data
    (tmp_path / "ids.npy").write_bytes(forged)
    with pytest.raises(ManifestError, match="cannot be read"):
        read_ids(tmp_path / "ids.npy")


def test_an_archive_of_arrays_is_refused(tmp_path: Path) -> None:
    with open(tmp_path / "ids.npy", "wb") as file:
        np.savez(file, a=np.arange(3))
    with pytest.raises(ManifestError, match="array"):
        read_ids(tmp_path / "ids.npy")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", '{"a": 1}'),
        ("a.json", "[1"),
        ("a.json", "[true]"),
        ("a.json", "[1.5]"),
        ("a.json", "[null]"),
        ("a.json", '["\\ud83d"]'),
        pytest.param("a.json", "[" * 100_000 + "]" * 100_000, id="deep"),
        ("a.npy", "x"),
        ("a.npy", ""),
    ],
)
def test_other_files_are_refused(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ManifestError, match="--exclude-ids"):
        read_ids(tmp_path / name)
    with pytest.raises(ManifestError, match="no such file"):
        read_ids(tmp_path / "none.txt")
