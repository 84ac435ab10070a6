"""Rows held out by the hash of their ids: the same for the same seed, whatever stands around them."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vilbert.manifests.build import ManifestSettings, build_manifest
from vilbert.manifests.hold_out import HoldOut
from vilbert.manifests.manifest import Manifest
from vilbert.manifests.record import ManifestError


def splits(path: Path, tmp_path: Path, hold_out: float = 0.2, **options: Any) -> dict[str, str]:
    output = tmp_path / "m.parquet"
    options |= {"hold_out": hold_out, "check_files": False, "overwrite": True}
    build_manifest(ManifestSettings(sources=(path,), output=output, **options))
    manifest = Manifest.open(output)
    return {record.image_id: record.split for record in manifest.read(0, manifest.rows)}


def write(path: Path, rows: dict[str, str]) -> Path:
    path.write_text("image_id,uri,split\n" + "".join(f"{key},{key}.jpg,{split}\n" for key, split in rows.items()))
    return path


def test_a_share_of_the_rows_without_split_is_held_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    found = splits(write(tmp_path / "t.csv", {str(i): "" for i in range(1000)}), tmp_path)
    assert set(found.values()) == {"train", "val"}
    assert 150 < list(found.values()).count("val") < 250
    expected = {key for key in found if int(hashlib.sha256(f"0\0{key}".encode()).hexdigest()[:16], 16) < 2**64 // 5}
    assert {key for key, split in found.items() if split == "val"} == expected
    assert f"{len(expected)} of 1,000 rows have the split 'val'" in caplog.text
    part = splits(write(tmp_path / "t.csv", {str(i): "" for i in range(999, 300, -1)}), tmp_path)
    assert part.items() <= found.items()
    assert splits(tmp_path / "t.csv", tmp_path, seed=1) != part


def test_rows_of_train_are_chosen_from_and_other_splits_stay(tmp_path: Path) -> None:
    names = ("train", "test", "val", "restval")
    found = splits(write(tmp_path / "t.csv", {str(i): names[i % 4] for i in range(400)}), tmp_path)
    assert {found[str(i)] for i in range(0, 400, 4)} == {"train", "val"}
    assert all(found[str(i)] == names[i % 4] for i in range(400) if i % 4)
    assert set(splits(tmp_path / "t.csv", tmp_path, split="train").values()) == {"train", "val"}


def test_nothing_to_choose_from_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"--hold-out.*2 of 'test'"):
        splits(write(tmp_path / "t.csv", {"1": "test", "2": "test"}), tmp_path)
    assert not (tmp_path / "m.parquet").exists()


@pytest.mark.parametrize(("share", "split"), [(0.0, None), (1.0, None), (-1.0, None), (0.1, "test")])
def test_settings_that_make_no_sense_are_refused(tmp_path: Path, share: float, split: str | None) -> None:
    with pytest.raises(ValueError, match="--hold-out"):
        splits(write(tmp_path / "t.csv", {"1": ""}), tmp_path, hold_out=share, split=split)


@given(st.text(), st.integers(0, 2**63), st.floats(0.01, 0.5))
def test_a_larger_share_holds_out_what_a_smaller_one_does(image_id: str, seed: int, share: float) -> None:
    assert HoldOut.of_share(share, seed).takes(image_id) <= HoldOut.of_share(2 * share, seed).takes(image_id)
