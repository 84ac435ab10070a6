"""`vilbert verify` finds forged records and totals, keys in two shards, and another manifest."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vilbert.manifests.manifest import Manifest, ManifestWriter
from vilbert.manifests.record import ImageRecord, ManifestError
from vilbert.pipeline.shards.checks.dataset import repeated
from vilbert.pipeline.shards.checks.shard import ENOUGH
from vilbert.pipeline.shards.checks.verify import examine
from vilbert.pipeline.shards.dataset import write_dataset
from vilbert.pipeline.shards.record import read_records
from vilbert.pipeline.shards.sample import Sample

MakeDataset = Callable[..., Any]


# Forged records and totals


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"fingerprint": "0" * 64}, {"fingerprint"}),
        ({"rows": (5, 9)}, {"rows"}),
        ({"rows": (6, 10)}, {"rows", "failures-rows"}),
        ({"rows": (4, 9), "samples": 3, "splits": {"train": 3}}, {"rows", "count", "totals"}),
        ({"failures": {"corrupt": 2}}, {"failures-count"}),
        ({"first_key": "another"}, {"keys"}),
        ({"last_key": "another"}, {"keys"}),
        ({"bytes": 10_000}, {"data-size"}),
        ({"failures_sha256": "0" * 64}, {"failures-changed"}),
        ({"sha256": "0" * 64}, set()),
    ],
)
def test_a_forged_record(make_dataset: MakeDataset, changes: dict[str, Any], expected: set[str]) -> None:
    dataset = make_dataset()
    dataset.rewrite_record(**changes)
    assert dataset.codes() == expected
    if "sha256" in changes:
        assert dataset.codes(deep=True) == {"data-changed"}


def test_a_valid_shard_in_the_place_of_another_run_changes_the_records_digest(make_dataset: MakeDataset) -> None:
    dataset = make_dataset()
    record = read_records(dataset.directory)[1]
    dataset.record_file().write_bytes(replace(record, sha256="0" * 64).to_json())
    assert dataset.codes() == {"records-changed"}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"rows": 9}, {"rows", "totals"}),
        ({"rows": 14}, {"rows", "record-missing"}),
        ({"splits": {"train": 6, "val": 1}}, {"totals"}),
        ({"feature_dim": 9}, {"dataset-damaged"}),
        ({"limit": 3}, {"dataset-damaged"}),
        ({"records_sha256": "0" * 64}, {"records-changed"}),
        ({"shard_size": 1}, {"rows", "record-missing"}),
    ],
)
def test_a_forged_dataset_json(make_dataset: MakeDataset, changes: dict[str, Any], expected: set[str]) -> None:
    dataset = make_dataset()
    write_dataset(dataset.directory, replace(dataset.info, **changes))
    assert dataset.codes() == expected


def test_splits_are_counted_in_deep_mode(make_dataset: MakeDataset) -> None:
    dataset = make_dataset()
    dataset.rewrite_record(splits={"train": 2})
    assert dataset.codes() == set()
    assert dataset.codes(deep=True) == {"count"}


def test_many_missing_records_are_counted_not_listed(make_dataset: MakeDataset) -> None:
    dataset = make_dataset()
    write_dataset(dataset.directory, replace(dataset.info, rows=4_000_000_000))
    missing = [finding for finding in dataset.findings() if finding.code in ("record-missing", "more")]
    assert len(missing) == ENOUGH + 1
    assert "999,999,997" in missing[-1].what


# Keys over all shards


def test_a_key_in_two_shards_is_found(make_dataset: MakeDataset) -> None:
    dataset = make_dataset(image_id=lambda row: "twice" if row in (1, 8) else f"image{row}")
    (finding,) = dataset.findings()
    assert finding.code == "duplicate-key"
    assert finding.where == "shards/000000.tar, shards/000002.tar"
    assert "twice" in finding.what


@given(st.lists(st.lists(st.integers(0, 20), max_size=12), max_size=5))
def test_repeated_values(lists: list[list[int]]) -> None:
    counts = Counter(value for values in lists for value in values)
    expected = sorted(value for value, count in counts.items() if count > 1)
    assert repeated([np.array(values, np.uint64) for values in lists]).tolist() == expected


# The manifest


def test_another_manifest_is_refused(make_dataset: MakeDataset) -> None:
    dataset = make_dataset()
    records = Manifest.open(dataset.manifest).read(0, 10)
    other = dataset.manifest.with_name("other.parquet")
    with ManifestWriter(other) as writer:
        writer.write([ImageRecord(image_id="photo.000", uri=records[0].uri, captions=("a new caption",)), *records[1:]])
        writer.commit()
    assert dataset.codes(manifest=other) == dataset.codes(deep=True, manifest=other) == {"manifest-hash"}


def test_a_sample_of_another_row_is_found(make_dataset: MakeDataset) -> None:
    def another(row: int, sample: Sample) -> Sample:
        return replace(sample, key="other", meta={**sample.meta, "image_id": "other"}) if row == 8 else sample

    dataset = make_dataset(change=another)
    (finding,) = dataset.findings(deep=True)
    assert finding.code == "manifest-differs"
    assert "row 8" in finding.where
    assert "photo.008" in finding.what


def test_a_failure_of_another_image_is_found(make_dataset: MakeDataset) -> None:
    dataset = make_dataset()
    path = dataset.directory / "failures/000001.jsonl"
    path.write_text(path.read_text().replace("photo.005", "photo.004"))
    dataset.rewrite_record(failures_sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    assert dataset.codes() == set()
    (finding,) = dataset.findings(deep=True)
    assert (finding.code, finding.where) == ("manifest-differs", "failures/000001.jsonl row 5")


def test_a_damaged_manifest_is_a_finding_where_recorded_and_an_error_where_given(dataset: Any) -> None:
    dataset.manifest.write_bytes(b"not parquet")
    assert dataset.codes() == set()
    assert dataset.codes(deep=True) == {"manifest-damaged"}
    with pytest.raises(ManifestError, match="not a manifest"):
        examine(dataset.directory, deep=False, manifest=dataset.manifest)
