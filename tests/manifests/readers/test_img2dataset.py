"""img2dataset output folders: tar and loose files, failures, what is incomplete, resized or damaged."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vilbert.manifests.readers.img2dataset import read_img2dataset
from vilbert.manifests.record import ImageRecord, ManifestError
from vilbert.manifests.report import Report
from vilbert.manifests.uri import ImageReader


def rows_of(shard: int) -> list[dict[str, Any]]:
    """Four inputs, listed as they came in: two downloaded (one of them resized), two failed."""

    def row(i: int, status: str, error: str | None, **size: int | None) -> dict[str, Any]:
        sizes = {name: size.get(name) for name in ("width", "height", "original_width", "original_height")}
        key = f"{shard:05d}{i:04d}"
        url = f"http://x/{key}.jpg"
        return {
            "url": url,
            "caption": f"caption {key}\n",
            "key": key,
            "status": status,
            "error_message": error,
            **sizes,
        }

    small = {"width": 256, "height": 192, "original_width": 1024, "original_height": 768}
    same = {"width": 80, "height": 60, "original_width": 80, "original_height": 60}
    return [
        row(2, "success", None, **small),
        row(1, "failed_to_download", "HTTP Error 404: Not Found"),
        row(0, "success", None, **same),
        row(3, "failed_to_resize", "image decoding error"),
    ]


def files_of(rows: list[dict[str, Any]], suffix: str = "jpg") -> dict[str, bytes]:
    files = {}
    for row in rows:
        if row["status"] == "success":
            files[f"{row['key']}.{suffix}"] = f"image {row['key']}".encode()
            files[f"{row['key']}.txt"] = row["caption"].encode()
            files[f"{row['key']}.json"] = json.dumps({**row, "sha256": "0" * 64}, indent=4).encode()
    return files


def write_shard(
    root: Path, shard: int, *, tar: bool, parquet: bool = True, stats: bool = True, suffix: str = "jpg"
) -> Path:
    rows, name = rows_of(shard), f"{shard:05d}"
    data = root / (f"{name}.tar" if tar else name)
    if tar:
        with tarfile.open(data, "w") as file:
            for member, content in files_of(rows, suffix).items():
                info = tarfile.TarInfo(member)
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))
    else:
        data.mkdir()
        for member, content in files_of(rows, suffix).items():
            (data / member).write_bytes(content)
    if parquet:
        pq.write_table(pa.Table.from_pylist([{**row, "sha256": "0" * 64} for row in rows]), root / f"{name}.parquet")
    if stats:
        (root / f"{name}_stats.json").write_text(json.dumps({"count": 4, "successes": 2, "failed_to_download": 1}))
    return data


def read(root: Path, **options: bool) -> tuple[list[ImageRecord], Report]:
    report = Report()
    return list(read_img2dataset(root, report, **options)), report


@pytest.mark.parametrize("tar", [True, False])
@pytest.mark.parametrize("check_files", [True, False])
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_complete_shards(tmp_path: Path, tar: bool, check_files: bool, suffix: str) -> None:
    for shard in (1, 0):
        write_shard(tmp_path, shard, tar=tar, suffix=suffix)
    records, report = read(tmp_path, check_files=check_files)
    assert [record.image_id for record in records] == ["000000000", "000000002", "000010000", "000010002"]
    assert [record.captions for record in records][:2] == [("caption 000000000",), ("caption 000000002",)]
    assert [(record.width, record.height) for record in records][:2] == [(80, 60), (256, 192)]
    assert {record.sha256 for record in records} == {None}, (
        "img2dataset's digest is of the bytes before it resized them"
    )
    assert report.counts == {"failed-download": 4, "resized-image": 2}
    assert "404" in " ".join(report.examples["failed-download"])
    for record in records:
        expected = f"image {record.image_id}".encode()
        assert ImageReader().read(record.uri) == expected
        with fsspec.open(record.uri, "rb") as file:
            assert file.read() == expected


@pytest.mark.parametrize("tar", [True, False])
def test_without_parquet_the_side_files_are_read(tmp_path: Path, tar: bool) -> None:
    write_shard(tmp_path / "", 0, tar=tar, parquet=False)
    records, report = read(tmp_path)
    assert [(record.image_id, record.captions, record.width) for record in records] == [
        ("000000000", ("caption 000000000",), 80),
        ("000000002", ("caption 000000002",), 256),
    ]
    assert report.counts == {"resized-image": 1, "unlisted-download": 2}


@pytest.mark.parametrize("tar", [True, False])
def test_incomplete_shards_are_reported(tmp_path: Path, tar: bool) -> None:
    write_shard(tmp_path, 0, tar=tar)
    write_shard(tmp_path, 1, tar=tar, stats=False)
    records, report = read(tmp_path)
    assert len(records) == 2
    assert report.counts["incomplete-shard"] == 1
    assert "00001" in report.examples["incomplete-shard"][0]
    assert len(read(tmp_path, incomplete=True)[0]) == 4


def test_a_tar_cut_short_misses_images_and_says_so(tmp_path: Path) -> None:
    data = write_shard(tmp_path, 0, tar=True)
    with tarfile.open(data) as file:
        second = file.getmember("000000000.jpg").offset  # the second sample: rows stand as downloaded, 2 before 0
    data.write_bytes(data.read_bytes()[: second + 100])
    records, report = read(tmp_path)
    assert [record.image_id for record in records] == ["000000000", "000000002"], "kept: extraction lists it as failed"
    assert report.counts["missing-file"] == 1
    with pytest.raises(FileNotFoundError):
        ImageReader().read(records[0].uri)


def test_a_tar_that_ends_inside_an_image(tmp_path: Path) -> None:
    data = write_shard(tmp_path, 0, tar=True)
    with tarfile.open(data) as file:
        second = file.getmember("000000000.jpg").offset_data
    data.write_bytes(data.read_bytes()[: second + 5])
    assert read(tmp_path)[1].counts["missing-file"] == 1


def test_unreadable_tar_keeps_its_rows_as_missing(tmp_path: Path) -> None:
    write_shard(tmp_path, 0, tar=True).write_bytes(b"<html>not a tar</html>" * 100)
    records, report = read(tmp_path)
    assert len(records) == report.counts["missing-file"] == 2


def test_rows_that_img2dataset_lost_are_counted(tmp_path: Path) -> None:
    write_shard(tmp_path, 0, tar=True)
    (tmp_path / "00000_stats.json").write_text('{"count": 7}')
    assert read(tmp_path)[1].counts["unlisted-download"] == 3


def test_a_null_caption_is_no_caption(tmp_path: Path) -> None:
    write_shard(tmp_path, 0, tar=True)
    rows = [{**row, "caption": None if row["key"].endswith("0") else "  "} for row in rows_of(0)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "00000.parquet")
    records, report = read(tmp_path)
    assert [record.captions for record in records] == [(), ()]
    assert (report.counts["no-caption"], report.counts["empty-caption"]) == (1, 1)


def test_damaged_parquet_and_doubled_shards_are_errors(tmp_path: Path) -> None:
    write_shard(tmp_path, 0, tar=True)
    (tmp_path / "00000.parquet").write_bytes(b"PAR1")
    with pytest.raises(ManifestError, match=r"00000\.parquet"):
        read(tmp_path)
    (tmp_path / "00000").mkdir()
    with pytest.raises(ManifestError, match="and as loose files"):
        read(tmp_path)


def test_a_broken_side_file_is_a_malformed_row(tmp_path: Path) -> None:
    data = write_shard(tmp_path, 0, tar=False, parquet=False)
    (data / "000000000.json").write_text("[1")
    records, report = read(tmp_path)
    assert [record.image_id for record in records] == ["000000002"]
    assert report.counts["malformed-row"] == 1
