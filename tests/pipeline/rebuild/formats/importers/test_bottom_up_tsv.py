"""Bottom-Up Attention TSV in its variants, with damaged lines, and the published sample of ten images."""

from __future__ import annotations

import gzip
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.rebuild.formats.detect import detect_format, open_published
from vilbert.pipeline.rebuild.formats.importers import line_offsets
from vilbert.pipeline.rebuild.formats.registry import ImportOptions
from vilbert.pipeline.shards.failures import FailureRow
from vilbert.pipeline.shards.sample import Sample

from .published import pictures, tsv, tsv_columns
from .samples import (
    failures_of,
    read_published,
    require_attributes,
    require_boxes_and_features,
    require_classes,
    require_objects,
    samples_of,
)

COCO10 = Path(__file__).resolve().parents[6] / "shared/data/coco10/train2014_obj36.tsv"


@pytest.mark.parametrize("columns", [6, 7, 10, 13])
@pytest.mark.parametrize(("end", "literal"), [("\r\n", False), ("\n", True)])
def test_all_variants(tmp_path: Path, columns: int, end: str, literal: bool) -> None:
    found, path = pictures(), tmp_path / "train.tsv"
    path.write_bytes(tsv(found, columns, end=end, literal=literal))
    assert detect_format(path) == "bottom-up-tsv"
    description, rows = read_published(path, top_classes=4)
    samples = samples_of(rows)
    assert len(samples) == len(found)
    for sample, picture in zip(samples, found, strict=True):
        require_boxes_and_features(sample, picture)
        if columns > 6:
            require_objects(sample, picture)
        if columns in (7, 13):
            require_classes(sample, picture, 4)
        if columns >= 10:
            require_attributes(sample, picture)
    missing = {
        6: {"objects", "class probabilities", "attributes"},
        7: {"attributes", "class names"},
        10: {"class probabilities", "class names", "attribute names"},
        13: {"class names", "attribute names"},
    }
    assert set(description.missing) == {*missing[columns], "captions"}
    assert len(description.class_names) == {6: 0, 7: 12, 10: 1601, 13: 12}[columns]


def test_a_line_of_headings_names_the_columns(tmp_path: Path) -> None:
    found, path = pictures(), tmp_path / "a.tsv"
    path.write_bytes(b"image_id\timage_w\timage_h\tnum_boxes\tboxes\tfeatures\n" + tsv(found, 6))
    _, rows = read_published(path)
    assert [sample.meta["image_id"] for sample in samples_of(rows)] == [picture.image_id for picture in found]


def test_gzip_is_unpacked_once_for_all_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, path, scratch = pictures(), tmp_path / "a.tsv.gz", tmp_path / "scratch"
    path.write_bytes(gzip.compress(tsv(found, 10)))
    _, rows = read_published(path, scratch=scratch)
    require_boxes_and_features(samples_of(rows)[-1], found[-1])
    kept = sorted(file.suffix for file in scratch.iterdir())
    assert kept == [".npy", ".tsv"]
    monkeypatch.setattr(line_offsets, "scan_lines", None)
    monkeypatch.setattr(line_offsets, "_unpack", None)
    assert len(read_published(path, scratch=scratch)[1]) == len(found)


def test_gzip_without_a_scratch_folder_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.tsv.gz"
    path.write_bytes(gzip.compress(tsv(pictures(), 10)))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    read_published(path)
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.parametrize("size", [1, 7, 64, 1 << 20])
def test_lines_are_found_whatever_the_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"\r\n\none\r\n\ntwo\n\r\n\r\nthree" + b"x" * 70 + b"\n\n")
    monkeypatch.setattr(line_offsets, "_CHUNK", size)
    assert line_offsets.scan_lines(path).tolist() == [3, 9, 17]


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    (found,) = pictures(1)
    path = tmp_path / "a.tsv"
    line = tsv([found], 6).partition(b"\t")[2]
    with path.open("wb") as file:
        file.writelines(b"%d\t%s" % (number, line) for number in range(100_000))
    tracemalloc.start()
    with open_published(path) as source:
        assert source.rows == 100_000
        (last,) = samples_of(list(source.read(99_999, 100_000)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert last.key == "99999"
    assert peak < 10 << 20 < path.stat().st_size


def test_damaged_lines_become_failures_and_the_others_samples(tmp_path: Path) -> None:
    found = pictures(7)
    lines = tsv(found, 10).split(b"\r\n")[:-1]
    columns = tsv_columns(found[1], 10)
    lines[1] = "\t".join([*columns[:8], columns[8][:-5], columns[9]]).encode()  # base64 cut short
    lines[2] = lines[2].replace(b"\t48\t", b"\tforty\t")
    lines[3] = lines[3][: len(lines[3]) // 2]
    outside = found[4]
    outside.boxes[1] = [50, 10, 90, 20]
    lines[4] = "\t".join(tsv_columns(outside, 10)).encode()
    nan = found[5]
    nan.features[0, 0] = np.nan
    lines[5] = "\t".join(tsv_columns(nan, 10)).encode()
    lines[6] = b"\xff" + lines[6]
    path = tmp_path / "a.tsv"
    path.write_bytes(b"\n".join(lines) + b"\n")
    _, rows = read_published(path)
    assert [row.row for row in failures_of(rows)] == [1, 2, 3, 4, 5, 6]
    reasons = [row.reason for row in failures_of(rows)]
    assert reasons == ["broken_row", "broken_row", "broken_row", "bad_boxes", "bad_numbers", "broken_row"]
    assert failures_of(rows)[0].image_id == found[1].image_id
    assert failures_of(rows)[3].uri == f"{path}#4"
    assert "[50.0, 10.0, 90.0, 20.0]" in failures_of(rows)[3].detail


def test_an_empty_image_id_is_a_broken_row(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    lines = tsv(pictures(2), 10).split(b"\r\n")[:-1]
    path.write_bytes(lines[0] + b"\n" + b"\t" + lines[1].partition(b"\t")[2] + b"\n")
    with open_published(path) as source:
        sample, failure = source.read(0, 2)
    assert isinstance(sample, Sample)
    assert isinstance(failure, FailureRow)
    assert (failure.reason, failure.detail) == ("broken_row", "its image id is empty")


def test_a_first_line_that_is_cut_short_decides_nothing(tmp_path: Path) -> None:
    found, path = pictures(), tmp_path / "a.tsv"
    path.write_bytes(b"1\t64\t48\n" + tsv(found, 6))
    _, rows = read_published(path, format="bottom-up-tsv")
    (failure,) = failures_of(rows)
    assert (failure.row, failure.detail) == (0, "has 3 columns, the first complete line has 6")
    assert len(rows) == len(found) + 1


def test_rows_of_another_width_than_the_first_are_failures(tmp_path: Path) -> None:
    found, path = pictures(3), tmp_path / "a.tsv"
    found[1].features = found[1].features[:, :5]
    path.write_bytes(tsv(found, 6))
    (failure,) = failures_of(read_published(path)[1])
    assert (failure.row, failure.reason) == (1, "other_fields")
    assert "features is float32[N, 5]; in the first rows it is float32[N, 8]" in failure.detail


def test_the_convention_of_class_ids_can_be_given(tmp_path: Path) -> None:
    found, path = pictures(2), tmp_path / "a.tsv"
    for picture in found:
        picture.objects = picture.objects + 1
    path.write_bytes(tsv(found, 10))
    _, rows = read_published(path, background="first")
    ids = samples_of(rows)[0].regions.object_ids
    assert ids is not None
    np.testing.assert_array_equal(ids, found[0].objects)


def test_names_of_classes_are_as_many_as_the_probabilities(tmp_path: Path) -> None:
    path, names = tmp_path / "a.tsv", tmp_path / "names.txt"
    path.write_bytes(tsv(pictures(), 7))
    names.write_text("\n".join(f"thing {number}" for number in range(1, 12)) + "\n")
    description, _ = read_published(path, class_names=names)
    assert description.class_names == ("background", *(f"thing {number}" for number in range(1, 12)))
    assert "class names" not in description.missing
    names.write_text("cat\ndog\n")
    with pytest.raises(ShardError, match=r"--class-names .*: names 2 classes, and .* has probabilities of 11"):
        read_published(path, class_names=names)


def test_files_that_would_give_nothing_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_bytes(b"")
    with pytest.raises(ShardError, match="holds no rows"):
        open_published(path, "bottom-up-tsv")
    path.write_bytes(b"\n".join(line[:-9] for line in tsv(pictures(), 10).split(b"\r\n")))
    with pytest.raises(ShardError, match="none of the first 4 rows gives a sample; the first row: features"):
        open_published(path)
    path.write_bytes(b"a\tb\n")
    with pytest.raises(ShardError, match="its first line has 2 columns; the variants of this format have 6, 7, 10, 13"):
        open_published(path, "bottom-up-tsv")


def test_gzip_that_is_damaged_or_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.tsv.gz"
    data = gzip.compress(tsv(pictures(), 10))
    path.write_bytes(data[:-20])
    with pytest.raises(ShardError, match=r"a\.tsv\.gz: a damaged \.gz file"):
        open_published(path, "bottom-up-tsv", ImportOptions(scratch=tmp_path / "scratch"))
    assert list((tmp_path / "scratch").iterdir()) == []
    monkeypatch.setattr(line_offsets, "_GZIP_FREE", 1 << 20)
    path.write_bytes(gzip.compress(bytes(8 << 20)))
    with pytest.raises(ShardError, match="refused: it unpacks to more than 64 times its size"):
        open_published(path, "bottom-up-tsv")


def test_an_index_of_lines_beside_the_file_is_used_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, path = pictures(), tmp_path / "a.tsv"
    data = tsv(found, 10)
    path.write_bytes(data)
    starts = line_offsets.scan_lines(path)
    index = tmp_path / "a.lineidx"
    index.write_text("".join(f"{start}\n" for start in starts))
    monkeypatch.setattr(line_offsets, "scan_lines", None)
    assert len(samples_of(read_published(path)[1])) == len(found)
    for damaged in ("", "5\n", "0\n9\n9\n", f"0\n{len(data)}\n", "0\nnine\n", f"0\n{starts[1] + 3}\n"):
        index.write_text(damaged)
        with pytest.raises(ShardError, match=r"a\.lineidx: .*delete it, it will be rebuilt"):
            open_published(path)


def test_the_content_follows_the_file_and_the_options(tmp_path: Path) -> None:
    def content(name: str, data: bytes, **options: Any) -> str:
        (tmp_path / name).write_bytes(data)
        with open_published(tmp_path / name, options=ImportOptions(**options)) as source:
            return source.content

    data = tsv(pictures(), 10)
    other = pictures()
    other[2].features[0, 0] += 1
    assert content("a.tsv", data) == content("b.tsv", data, scratch=tmp_path / "scratch")
    assert content("a.tsv", data) != content("c.tsv", tsv(other, 10))
    assert content("a.tsv", data) != content("a.tsv", data, number_ids=True)


@pytest.mark.skipif(not COCO10.is_file(), reason="../shared/data/coco10 is not here")
def test_the_published_features_of_ten_coco_images() -> None:
    assert detect_format(COCO10) == "bottom-up-tsv"
    description, rows = read_published(COCO10, number_ids=True)
    samples = samples_of(rows)
    assert description.fields["features"] == {"dtype": "float32", "shape": ["N", 2048]}
    assert [len(sample.regions) for sample in samples] == [36] * 10
    first = samples[0]
    assert (first.key, first.regions.width, first.regions.height) == ("132417", 500, 333)
    ids = first.regions.object_ids
    assert ids is not None
    # Of the file itself: 72 is the first object's id, which counts foreground classes from 0.
    assert ids[:4].tolist() == [73, 292, 292, 292]
    assert 0.4 < float(first.regions.features.mean()) < 0.9  # means of published features, 0.5 to 0.84
    assert float((first.regions.features == 0).mean()) > 0.2
