"""Lists of images to leave out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from manifests.exclusion import Exclusion, read_ids
from manifests.record import ImageRecord, ManifestError
from manifests.report import Report


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


@pytest.mark.parametrize(("name", "text"), [("a.json", '{"a": 1}'), ("a.json", "[1"), ("a.npy", "x")])
def test_other_files_are_refused(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ManifestError, match="--exclude-ids"):
        read_ids(tmp_path / name)
    with pytest.raises(ManifestError, match="no such file"):
        read_ids(tmp_path / "none.txt")
