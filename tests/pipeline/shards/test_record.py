"""Records, failure files and dataset.json: the same bytes for the same content, and strict readers."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vilbert.pipeline.errors import CorruptShardError, ShardError, UnsupportedFormatError
from vilbert.pipeline.shards.dataset import (
    NOTHING,
    DatasetInfo,
    Totals,
    fingerprint_digest,
    read_dataset,
    sum_records,
    write_dataset,
)
from vilbert.pipeline.shards.failures import FailureRow, encode_failures, read_failures
from vilbert.pipeline.shards.record import ShardRecord, is_done, read_record, read_records, records_digest
from vilbert.pipeline.shards.sample import describe_fields

RECORD = ShardRecord(
    shard=7,
    rows=(70, 80),
    file="000007.tar",
    samples=8,
    bytes=10240,
    sha256="1" * 64,
    first_key="a",
    last_key="b",
    splits={"train": 5, "val": 3},
    failures={"corrupt": 2},
    failures_sha256="2" * 64,
    fingerprint="3" * 64,
)


def info(**changes: Any) -> DatasetInfo:
    fields: dict[str, Any] = {
        "storage": "tar",
        "shard_size": 4,
        "rows": 10,
        "manifest": "m.parquet",
        "manifest_hash": "0" * 64,
        "fields": describe_fields(feature_dim=8, top_classes=2, attributes=True),
        "feature_dim": 8,
        "class_names": ("__background__", "犬"),
        "attribute_names": (),
        "fingerprint_fields": {"detector": {"weights": "猫"}},
        "software": {"numpy": "2.4"},
    }
    fields |= changes
    return DatasetInfo(**{"fingerprint": fingerprint_digest(fields["fingerprint_fields"])} | fields)


def spoilers(document: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return for each field a value of another kind, and one for a field that does not exist."""
    return [(name, None if value is not None else 1.5) for name, value in document.items()] + [("extra", 1)]


def test_a_record_is_one_line_of_canonical_json_and_comes_back() -> None:
    data = RECORD.to_json()
    assert data.endswith(b"}\n")
    assert list(json.loads(data)) == sorted(json.loads(data))
    assert ShardRecord.from_json(data, path=Path("000007.json")) == RECORD


def _write(folder: Path, document: dict[str, Any], name: str = "000007.json") -> Path:
    path = folder / "shards" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shard": 8}, "shard 8 names the file 000007.tar"),
        ({"shard": True}, "shard is True"),
        ({"file": "../../x.tar"}, "names the file"),
        ({"rows": [80, 70]}, "rows is"),
        ({"rows": [70, 81]}, "do not add up"),
        ({"samples": -1}, "samples is -1"),
        ({"samples": 8.0}, "samples is 8.0"),
        ({"failures": {"corrupt": 3}}, "do not add up"),
        ({"failures": {"corrupt": "2"}}, "failures.corrupt is '2': must be a whole number"),
        ({"first_key": None}, "do not match 8 samples"),
        ({"first_key": "a.b"}, "first_key is"),
        ({"sha256": "1" * 63}, "sha256 is"),
        ({"sha256": "G" * 64}, "sha256 is"),
        ({"extra": 1}, "extra is not a field"),
        ({"format": "1"}, "format is '1'"),
        ({"format": None}, "format is None"),
    ],
)
def test_a_record_that_says_something_else_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = _write(tmp_path, json.loads(RECORD.to_json()) | change)
    with pytest.raises(CorruptShardError, match=message) as caught:
        read_records(tmp_path)
    assert str(path) in str(caught.value)
    assert "vilbert extract" in str(caught.value)


def test_a_record_lacking_a_field_or_not_json_or_renamed_is_refused(tmp_path: Path) -> None:
    document = json.loads(RECORD.to_json())
    for name in document:
        path = _write(tmp_path, {field: value for field, value in document.items() if field != name})
        with pytest.raises(CorruptShardError, match=f"{name} is"):
            read_record(path)
    for data in (b"", b"[]", RECORD.to_json()[:-3], b"\xff", b"[" * 100_000):
        path.write_bytes(data)
        with pytest.raises(CorruptShardError, match="is not"):
            read_record(path)
    with pytest.raises(CorruptShardError, match="is the record of shard 7"):
        read_record(_write(tmp_path, document, "000008.json"))
    with pytest.raises(ShardError, match="cannot be read"):
        read_record(tmp_path / "absent.json")


def test_a_record_of_a_newer_format_is_refused_and_never_taken_for_undone(tmp_path: Path) -> None:
    path = _write(tmp_path, {"format": 4, "anything": "else"})
    with pytest.raises(UnsupportedFormatError, match=r"000007\.json: has format 4, this version reads up to 3"):
        read_record(path)
    with pytest.raises(UnsupportedFormatError):
        is_done(tmp_path, 7)


def test_records_are_found_by_their_names_alone(tmp_path: Path) -> None:
    for shard in (11, 7, 1234567):
        record = dataclasses.replace(RECORD, shard=shard, file=f"{shard:06d}.tar")
        _write(tmp_path, json.loads(record.to_json()), f"{shard:06d}.json")
    for stray in ("index.json", "000001.json.bak", ".000002.json.1.ab.tmp", "7.json"):
        (tmp_path / "shards" / stray).write_text("stray")
    assert list(read_records(tmp_path)) == [7, 11, 1234567]
    assert read_records(tmp_path / "absent") == {}


def test_one_digest_covers_all_records_in_any_order() -> None:
    other = dataclasses.replace(RECORD, shard=8, file="000008.tar")
    assert records_digest([RECORD, other]) == records_digest([other, RECORD])
    assert records_digest([RECORD]) != records_digest([RECORD, other])
    assert records_digest([RECORD]) != records_digest([dataclasses.replace(RECORD, sha256="4" * 64)])


def test_totals_add_up() -> None:
    other = dataclasses.replace(RECORD, shard=8, failures={"missing": 1, "corrupt": 1})
    assert sum_records([RECORD, other]) == Totals(samples=16, failures={"corrupt": 3, "missing": 1}, bytes=20480)
    assert sum_records([]) == NOTHING


texts = st.text(st.characters(exclude_categories=["Cs"]))


@given(
    st.lists(
        st.builds(FailureRow, row=st.integers(0, 2**53 - 1), image_id=texts, uri=texts, reason=texts, detail=texts)
    )
)
def test_failures_come_back_by_row(tmp_path_factory: pytest.TempPathFactory, rows: list[FailureRow]) -> None:
    path = tmp_path_factory.mktemp("failures") / "000000.jsonl"
    path.write_bytes(encode_failures(rows))
    assert read_failures(path) == sorted(rows, key=lambda row: row.row)
    assert len(path.read_bytes().splitlines()) <= path.read_bytes().count(b"\n") + len(rows)


def test_a_failure_with_a_broken_file_name_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / "000000.jsonl"
    path.write_bytes(encode_failures([FailureRow(row=0, image_id="i", uri="u", reason="r", detail="x\udcff")]))
    assert read_failures(path)[0].detail == "x\\udcff"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "line 2 is not JSON"),
        (b"", "line 2 is not JSON"),
        (b"[]", "line 2: the document is \\[\\]: must be an object"),
        (b'{"row":1}', "line 2: image_id is missing"),
        (b'{"detail":"","image_id":"","reason":"","row":-1,"uri":""}', "line 2: row is -1"),
    ],
)
def test_a_damaged_line_of_failures_is_named(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "000000.jsonl"
    whole = encode_failures([FailureRow(row=0, image_id="i", uri="u", reason="r", detail="d")])
    path.write_bytes(whole + line + b"\n")
    with pytest.raises(CorruptShardError, match=message):
        read_failures(path)
    path.write_bytes(whole[:-1])
    with pytest.raises(CorruptShardError, match="line 1 is truncated"):
        read_failures(path)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"limit": 3, "storage": "lmdb"},
        {
            "complete": True,
            "splits": {"train": 9},
            "totals": Totals(samples=9, failures={"corrupt": 1}, bytes=1),
            "records_sha256": "5" * 64,
        },
    ],
)
def test_dataset_json_comes_back(tmp_path: Path, changes: dict[str, Any]) -> None:
    write_dataset(tmp_path, info(**changes))
    first = (tmp_path / "dataset.json").read_bytes()
    assert read_dataset(tmp_path) == info(**changes)
    assert list(read_dataset(tmp_path).fields) == list(info().fields)
    write_dataset(tmp_path, read_dataset(tmp_path))
    assert (tmp_path / "dataset.json").read_bytes() == first


def _spoil(tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    write_dataset(tmp_path, info())
    document = json.loads((tmp_path / "dataset.json").read_bytes())
    change(document)
    (tmp_path / "dataset.json").write_text(json.dumps(document))


def test_every_field_of_dataset_json_is_checked(tmp_path: Path) -> None:
    write_dataset(tmp_path, info())
    document = json.loads((tmp_path / "dataset.json").read_bytes())
    for name, value in spoilers(document):
        _spoil(tmp_path, lambda document, name=name, value=value: document.update({name: value}))
        with pytest.raises(CorruptShardError, match=rf"dataset\.json: {name} is"):
            read_dataset(tmp_path)
    for name in document:
        _spoil(tmp_path, lambda document, name=name: document.pop(name))
        with pytest.raises(CorruptShardError, match=rf"dataset\.json: {name} is"):
            read_dataset(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"totals": {"samples": 1}}, "totals.failures is missing"),
        ({"complete": True}, "records_sha256"),
        ({"fingerprint": "0" * 64}, "fingerprint is not that of fingerprint_fields"),
        ({"fields": {"other": {"dtype": "float32", "shape": []}}}, "fields are not"),
        ({"shard_size": 0}, "shard_size is 0"),
    ],
)
def test_a_dataset_json_that_contradicts_itself_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    _spoil(tmp_path, lambda document: document.update(change))
    with pytest.raises(CorruptShardError, match=message):
        read_dataset(tmp_path)


def test_a_dataset_json_of_another_format_or_absent_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"has no dataset\.json; expected a data set"):
        read_dataset(tmp_path)
    _spoil(tmp_path, lambda document: document.update(format=99))
    with pytest.raises(UnsupportedFormatError, match="has format 99"):
        read_dataset(tmp_path)


@given(st.integers(0, 200), st.integers(1, 50))
def test_shards_cover_each_row_once(rows: int, shard_size: int) -> None:
    dataset = info(rows=rows, shard_size=shard_size)
    covered = [row for shard in range(dataset.shards) for row in range(*dataset.shard_rows(shard))]
    assert covered == list(range(rows))
    for outside in (-1, dataset.shards):
        with pytest.raises(IndexError):
            dataset.shard_rows(outside)
