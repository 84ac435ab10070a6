"""Parquet files of URLs and paths: any type of text, in batches; images inside them are refused or counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vilbert.manifests.readers.columns import USUAL_NAMES, ColumnNames
from vilbert.manifests.readers.detect import detect_kind
from vilbert.manifests.readers.table import read_table
from vilbert.manifests.record import ImageRecord, ManifestError
from vilbert.manifests.report import Report

URLS = ["http://x/1", "http://x/2"]
IMAGE = pa.array([{"bytes": b"\x89PNG", "path": "a.png"}], pa.struct([("bytes", pa.binary()), ("path", pa.string())]))


def write(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **options)
    return path


def read(path: Path, columns: ColumnNames = USUAL_NAMES) -> tuple[list[ImageRecord], Report]:
    report = Report()
    return list(read_table(path, report, kind="parquet", columns=columns, check_files=False)), report


@pytest.mark.parametrize(
    "urls",
    [
        pa.array(URLS),
        pa.array(URLS, pa.large_string()),
        pa.array([url.encode() for url in URLS]),
        pa.array(URLS).dictionary_encode(),
    ],
)
@pytest.mark.parametrize(
    "texts",
    [
        pa.array(["a", "b"]),
        pa.array([["a"], ["b"]]),
        pa.array([["a"], ["b"]], pa.large_list(pa.large_string())),
        pa.array(["a", "b"]).dictionary_encode(),
        pa.array([b"a", b"b"]),
    ],
)
def test_every_type_of_text(tmp_path: Path, urls: Any, texts: Any) -> None:
    records, report = read(write(tmp_path / "t.parquet", {"URL": urls, "TEXT": texts, "similarity": [0.1, 0.2]}))
    assert [(record.uri, record.captions) for record in records] == [("http://x/1", ("a",)), ("http://x/2", ("b",))]
    assert not report.counts


def test_nulls_are_counted(tmp_path: Path) -> None:
    table = {"url": ["http://x/1", None, "http://x/3"], "caption": ["a", "b", None]}
    records, report = read(write(tmp_path / "t.parquet", table))
    assert [(record.uri, record.captions) for record in records] == [("http://x/1", ("a",)), ("http://x/3", ())]
    assert report.counts == {"malformed-row": 1, "no-caption": 1}


def test_lists_of_img2dataset_without_their_shards(tmp_path: Path) -> None:
    sizes = {"width": [256, None], "height": [200, None], "original_width": [640, None], "original_height": [500, None]}
    texts = {"url": URLS, "caption": ["a", "b"], "error_message": [None, "404"]}
    for shard in range(2):
        keys = {"key": [f"{shard}0", f"{shard}1"], "status": ["success", "failed_to_download"]}
        write(tmp_path / f"0000{shard}.parquet", {**keys, **texts, **sizes})
    records, report = read(tmp_path)
    assert [record.image_id for record in records] == ["00", "10"]
    assert records[0] == ImageRecord(image_id="00", uri="http://x/1", captions=("a",), width=640, height=500)
    assert report.counts == {"failed-download": 2}


def test_files_of_hugging_face_name_their_split(tmp_path: Path) -> None:
    for name in ("train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001"):
        write(tmp_path / f"data/{name}.parquet", {"image_url": ["http://x/1"], "caption": ["a"]})
    records, _ = read(tmp_path)
    assert [record.split for record in records] == ["train", "train", "val"]
    assert len({record.image_id for record in records}) == 3


@pytest.mark.parametrize("column", [IMAGE, pa.array([b"\xff\xd8"])])
def test_images_inside_the_file_are_refused_by_name(tmp_path: Path, column: Any) -> None:
    path = write(tmp_path / "t.parquet", {"image": column, "text": ["a"]})
    with pytest.raises(ManifestError, match=r"column image holds the images themselves.*--uri-column"):
        read(path)


def test_images_beside_urls_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", {"image": IMAGE, "text": ["a"], "url": ["http://x/1"]})
    with pytest.raises(ManifestError, match="--uri-column"):
        read(path)
    records, report = read(path, ColumnNames(uri="url"))
    assert (records[0].uri, records[0].captions, report.counts) == ("http://x/1", ("a",), {"embedded-image": 1})


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"a": ["x"]}, "--uri-column"),
        ({"url": [1.5]}, "type double"),
        ({"url": ["x"], "URL": ["y"]}, "duplicate column name"),
    ],
)
def test_what_is_no_table_of_images_is_refused(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        read(write(tmp_path / "t.parquet", columns))


def test_a_damaged_file_is_refused_and_its_rows_are_read_in_a_stream(tmp_path: Path) -> None:
    urls = [f"http://x/{i:09d}" for i in range(20_000)]
    path = write(tmp_path / "t.parquet", {"url": urls}, row_group_size=5000, compression="zstd", use_dictionary=False)
    last = pq.ParquetFile(path).metadata.row_group(3).column(0)
    damaged = bytearray(path.read_bytes())
    start = last.data_page_offset
    damaged[start : start + last.total_compressed_size] = b"\xff" * last.total_compressed_size
    path.write_bytes(damaged)
    rows = read_table(path, Report(), kind="parquet", check_files=False)
    assert [next(rows).uri for _ in range(5000)] == urls[:5000]
    with pytest.raises(ManifestError, match="cannot be read"):
        list(rows)
    path.write_bytes(b"PAR1 not really")
    with pytest.raises(ManifestError, match="damaged"):
        read(path)


def test_hidden_files_of_a_folder_are_counted_and_not_read(tmp_path: Path) -> None:
    write(tmp_path / "train-00000-of-00001.parquet", {"url": ["http://x/1"], "text": ["a"]})
    for name in ("._train-00000-of-00001.parquet", ".ipynb_checkpoints/train-checkpoint.parquet", ".cache/a.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"no Parquet")
    assert detect_kind(tmp_path) == "parquet"
    records, report = read(tmp_path)
    assert [record.uri for record in records] == ["http://x/1"]
    assert report.counts["hidden-file"] == 2
