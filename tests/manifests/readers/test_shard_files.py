"""Tars and folders of shards without a parquet: keys with dots, names of every kind, what is counted."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vilbert.manifests.readers import shard_files
from vilbert.manifests.readers.img2dataset import read_img2dataset
from vilbert.manifests.readers.tar_listing import list_tar
from vilbert.manifests.record import ImageRecord
from vilbert.manifests.report import ISSUES, Report
from vilbert.manifests.uri import ImageReader

Members = Sequence[tuple[str, str | tuple[bytes, str]]]


def write_tar(path: Path, members: Members) -> None:
    """Write members of these names and contents; a pair is the type and target of a link."""
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, tuple):
                info.type, info.linkname = content
                tar.addfile(info)
            else:
                info.size = len(content.encode())
                tar.addfile(info, io.BytesIO(content.encode()))


def read(tmp_path: Path, members: Members, edit: Callable[[bytes], bytes] = bytes) -> tuple[list[ImageRecord], Report]:
    write_tar(tmp_path / "a.tar", members)
    (tmp_path / "a.tar").write_bytes(edit((tmp_path / "a.tar").read_bytes()))
    report = Report()
    return list(read_img2dataset(tmp_path, report, incomplete=True)), report


def contents(records: list[ImageRecord]) -> dict[str, tuple[tuple[str, ...], str]]:
    """Return captions and bytes by id, as read here; assert that fsspec reads the same."""
    found = {}
    for record in records:
        data = ImageReader().read(record.uri)
        with fsspec.open(record.uri, "rb") as file:
            assert file.read() == data
        found[record.image_id] = (record.captions, data.decode())
    return found


@pytest.mark.parametrize(
    ("members", "expected", "counts"),
    [
        (
            [("22.05.jpg", "A"), ("22.05.txt", "a"), ("22.06.jpg", "B"), ("22.06.txt", "b")],
            {"22.05": (("a",), "A"), "22.06": (("b",), "B")},
            {"shared-key": 2},
        ),
        ([("22.05.jpg", "A"), ("22.05.txt", "a")], {"22.05": (("a",), "A")}, {}),
        ([("a.image.jpg", "A"), ("a.txt", "a")], {"a": (("a",), "A")}, {}),
        (
            [("a.left.jpg", "L"), ("a.right.jpg", "R"), ("a.json", '{"caption": "x"}')],
            {"a.left": (("x",), "L"), "a.right": (("x",), "R")},
            {"shared-key": 2},
        ),
        (
            [("d/a.jpg", "J"), ("d/a.png", "P"), ("d/a.txt", "x")],
            {"d/a.jpg": (("x",), "J"), "d/a.png": (("x",), "P")},
            {"shared-key": 2},
        ),
        (
            [("./a.jpg", "A"), ("./a.txt", "x"), ("d/./b.jpg", "B")],
            {"a": (("x",), "A"), "d/b": ((), "B")},
            {"no-caption": 1},
        ),
        ([("a.JPG", "A"), ("a.TXT", "x")], {"a": (("x",), "A")}, {}),
        ([("a.jpg", "A"), ("a.txt", "\ufeffx")], {"a": (("x",), "A")}, {}),
        (
            [("a.jpg", "1"), ("a.txt", "x"), ("a.jpg", "2"), ("a.txt", "y")],
            {"a": (("y",), "2")},
            {"repeated-image": 1, "repeated-side-file": 1},
        ),
        (
            [("a.jpg", "A"), ("a.txt", "x"), ("._a.jpg", "-"), ("__MACOSX/a.jpg", "-"), (".Trash/b.jpg", "-")],
            {"a": (("x",), "A")},
            {"hidden-file": 3},
        ),
        (
            [
                ("a.jpg", "A"),
                ("a.txt", "x"),
                ("a.heic", "-"),
                ("b.txt", "alone"),
                ("b.json", "{}"),
                ("c/d.txt", "alone"),
            ],
            {"a": (("x",), "A")},
            {"other-file": 1, "no-image": 2},
        ),
        (
            [
                ("a.jpg", "A"),
                ("a.txt", "x"),
                ("../b.jpg", "-"),
                ("/c.jpg", "-"),
                ("d/../../e.jpg", "-"),
                ("f::g.jpg", "-"),
            ],
            {"a": (("x",), "A")},
            {"outside-name": 3, "unreadable-name": 1},
        ),
        (
            [
                ("a.jpg", "A"),
                ("a.txt", "x"),
                ("hard.jpg", (tarfile.LNKTYPE, "a.jpg")),
                ("d/soft.jpg", (tarfile.SYMTYPE, "../a.jpg")),
                ("passwd.jpg", (tarfile.SYMTYPE, "/etc/passwd")),
                ("pipe.jpg", (tarfile.FIFOTYPE, "")),
            ],
            {"a": (("x",), "A"), "hard": ((), "A"), "d/soft": ((), "A")},
            {"unreadable-member": 2, "no-caption": 2},
        ),
        (
            [("a.jpg", "A"), ("a.txt", "one"), ("a.json", '{"caption": "two"}')],
            {"a": (("one",), "A")},
            {"caption-conflict": 1},
        ),
        (
            [("a.jpg", "A"), ("a.json", '{"caption": NaN}'), ("b.jpg", "B"), ("b.json", '{"caption": ["x"]}')],
            {"a": ((), "A"), "b": ((), "B")},
            {"bad-caption": 2},
        ),
        (
            [("a.jpg", "A"), ("a.json", "[" * 100_000), ("b.jpg", "B"), ("b.txt", "x")],
            {"b": (("x",), "B")},
            {"malformed-row": 1},
        ),
    ],
)
def test_every_image_is_a_row_or_counted(
    tmp_path: Path, members: Members, expected: dict[str, tuple[tuple[str, ...], str]], counts: dict[str, int]
) -> None:
    records, report = read(tmp_path, members)
    assert contents(records) == expected
    assert report.counts == counts
    lost = {name: count for name, count in report.counts.items() if ISSUES[name].left_out}
    assert lost == {name: count for name, count in counts.items() if name not in KEPT}


KEPT = ("shared-key", "repeated-side-file", "caption-conflict", "no-caption", "bad-caption")


def negative_size(data: bytes) -> bytes:
    """Return the tar with a size of -1024 in its first header, which leads a reader back to it."""
    header = bytearray(data[:512])
    header[124:136] = (-1024 + (1 << 96)).to_bytes(12, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + data[512:]


@pytest.mark.parametrize("size", [2 << 20, 1 << 50, 1 << 62])
@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE])
def test_a_header_of_any_size_takes_no_memory(tmp_path: Path, kind: bytes, size: int) -> None:
    header = tarfile.TarInfo("long")
    header.type, header.size = kind, size
    data = header.tobuf(tarfile.GNU_FORMAT)
    records, report = read(tmp_path, [("a.jpg", "A")], lambda rest: rest[:1024] + data + rest[1024:])
    assert (len(records), report.counts["damaged-tar"]) == (1, 1)
    assert f"{size:,} bytes" in report.examples["damaged-tar"][0]


@pytest.mark.parametrize(
    ("edit", "rows"),
    [
        (lambda data: data[: 1024 + 100], 1),
        (lambda data: data[:1024], 1),
        (lambda data: data[:512], 0),
        (lambda data: data[:1024] + b"garbage" + data[1031:], 1),
        (lambda data: data + data, 2),
        (negative_size, 0),
        (lambda data: b"<html>" * 200, 0),
    ],
    ids=["in a header", "behind a member", "in a member", "overwritten", "two tars", "negative size", "no tar"],
)
def test_damage_is_told(tmp_path: Path, edit: Callable[[bytes], bytes], rows: int) -> None:
    records, report = read(tmp_path, [("a.jpg", "A"), ("b.jpg", "B")], edit)
    assert (len(records), report.counts["damaged-tar"]) == (rows, 1)
    assert "byte" in report.examples["damaged-tar"][0]


def test_zeros_behind_the_end_are_no_damage(tmp_path: Path) -> None:
    assert read(tmp_path, [("a.jpg", "A")], lambda data: data + bytes(3 << 20))[1].counts == {"no-caption": 1}


@given(position=st.integers(0, 2047), value=st.binary(min_size=1, max_size=20))
def test_no_damage_raises_anything(tmp_path_factory: pytest.TempPathFactory, position: int, value: bytes) -> None:
    path = tmp_path_factory.mktemp("tar") / "a.tar"
    write_tar(path, [("a" * 120 + ".jpg", "A"), ("b.jpg", (tarfile.SYMTYPE, "a.jpg"))])
    data = path.read_bytes()
    path.write_bytes(data[:position] + value + data[position + len(value) :])
    listing = list_tar(path)
    assert all(0 <= offset <= offset + size <= len(data) for offset, size in listing.places.values())


@pytest.mark.parametrize("prefix", ["", "./", "00000/"])
@pytest.mark.parametrize("check_files", [True, False])
def test_a_shard_packed_again_is_read_by_its_parquet(tmp_path: Path, prefix: str, check_files: bool) -> None:
    write_tar(
        tmp_path / "00000.tar", [(f"{prefix}000.webp", "A"), (f"{prefix}000.txt", "x"), (f"{prefix}001.webp", "B")]
    )
    rows = [{"key": key, "status": "success", "caption": "x"} for key in ("000", "001")]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "00000.parquet")
    report = Report()
    records = list(read_img2dataset(tmp_path, report, incomplete=True, check_files=check_files))
    assert contents(records) == {"000": (("x",), "A"), "001": (("x",), "B")}
    assert not report.counts


def test_what_tar_and_parquet_disagree_about_is_counted(tmp_path: Path) -> None:
    write_tar(tmp_path / "00000.tar", [("000.jpg", "A"), ("007.jpg", "B"), ("v1.2.jpg", "C")])
    keys = ["000", "001", "v1.2", "", "../up", "/abs", "x::file", None]
    rows = [{"key": key, "status": "success", "caption": "x"} for key in keys]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "00000.parquet")
    report = Report()
    records = list(read_img2dataset(tmp_path, report, incomplete=True))
    assert [record.image_id for record in records] == ["000", "001", "v1.2"]
    assert report.counts == {"missing-file": 1, "unlisted-image": 1, "malformed-row": 5}


@pytest.mark.parametrize("captions", [[float("nan"), 1.5], [["a"], []], [3, 4], [True, False], [b"a", b"b"]])
def test_a_caption_column_of_another_type_is_no_text(tmp_path: Path, captions: list[object]) -> None:
    write_tar(tmp_path / "00000.tar", [("0.jpg", "A"), ("1.jpg", "B")])
    rows = [{"key": str(i), "status": "success", "caption": caption} for i, caption in enumerate(captions)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "00000.parquet")
    report = Report()
    assert [record.captions for record in read_img2dataset(tmp_path, report, incomplete=True)] == [(), ()]
    assert report.counts == {"bad-caption": 2}


@pytest.mark.parametrize("tar", [True, False])
def test_a_side_file_that_is_too_large_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tar: bool) -> None:
    monkeypatch.setattr(shard_files, "MAX_SIDE_BYTES", 20)
    members = [("a.jpg", "A"), ("a.txt", "a" * 21), ("b.jpg", "B"), ("b.json", '{"caption": "too long"}'),
               ("c.jpg", "C"), ("c.txt", "c" * 20)]  # fmt: skip
    if tar:
        write_tar(tmp_path / "00000.tar", members)
    else:
        (tmp_path / "00000").mkdir()
        for name, text in members:
            (tmp_path / "00000" / name).write_text(text)
    report = Report()
    records = list(read_img2dataset(tmp_path, report, incomplete=True))
    assert [(record.image_id, record.captions) for record in records] == [("a", ()), ("c", ("c" * 20,))]
    assert report.counts == {"unreadable-caption": 1, "malformed-row": 1, "no-caption": 1}


def test_entries_that_belong_to_no_shard_are_counted(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [("a.jpg", "A")])
    for name in ("b.tar.gz", "notes.txt", "._a.tar", "00007.parquet", "00007_stats.json", "00008_stats.json"):
        (tmp_path / name).touch()
    (tmp_path / "more").mkdir()
    report = Report()
    assert len(list(read_img2dataset(tmp_path, report, incomplete=True))) == 1
    assert report.counts == {"other-file": 3, "hidden-file": 1, "incomplete-shard": 2, "no-caption": 1}
