"""Repeated values of a long column, against a dictionary."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vilbert.manifests import repeats as module
from vilbert.manifests.manifest import ManifestWriter
from vilbert.manifests.record import ImageRecord
from vilbert.manifests.repeats import Repeats, later_rows


def find(folder: Path, values: list[str]) -> tuple[list[tuple[int, str, int]], int]:
    with ManifestWriter(folder / "m.parquet") as writer, Repeats(folder) as repeats:
        writer.write([ImageRecord(image_id=value, uri="") for value in values])
        for start in range(0, len(values), 7):
            repeats.add(values[start : start + 7])
        return list(later_rows(writer.commit(), "image_id", repeats)), len(repeats.repeated())


@given(st.lists(st.integers(0, 12).map(str), max_size=40), st.sampled_from([3, 8, 1 << 24]))
def test_against_a_dictionary(tmp_path_factory: pytest.TempPathFactory, values: list[str], at_a_time: int) -> None:
    first: dict[str, int] = {}
    expected = [(i, value, first[value]) for i, value in enumerate(values) if first.setdefault(value, i) != i]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_HASHES_AT_A_TIME", at_a_time)
        assert find(tmp_path_factory.mktemp("r"), values) == (expected, len(expected))


def test_equal_hashes_of_different_values_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "hash", lambda value: 5, raising=False)
    found, by_hash = find(tmp_path, ["a", "b", "c", "b"])
    assert found == [(3, "b", 1)]
    assert by_hash == 3


def test_leaves_no_file(tmp_path: Path) -> None:
    with Repeats(tmp_path) as repeats:
        repeats.add(["a"])
    assert list(tmp_path.iterdir()) == []
