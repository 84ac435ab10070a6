"""The manifest file: what is written is read, by parts; its hash names its rows and nothing else."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vilbert.manifests.manifest import ROWS_PER_GROUP, Manifest, ManifestWriter, content_hash
from vilbert.manifests.record import ImageRecord, ManifestError

TINY = [
    ImageRecord(
        image_id="1", uri="https://example.com/1.jpg", captions=("Ein Hund \u2013 \u3042", "a dog"), split="train"
    ),
    ImageRecord(
        image_id="2",
        uri="images/2.png",
        boxes_xyxy=((0.0, 0.5, 10.1, 20.0),),
        sha256="ab" * 32,
        width=640,
        height=480,
    ),
]
GOLDEN = "e5f42050404af6aa49b4a3415386461df4b5c73b13acbc61c40cf90808a86af5"

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
sizes = st.none() | st.integers(1, 2**31 - 1)
numbers = st.floats(allow_nan=False, width=64)
records = st.builds(
    ImageRecord,
    image_id=texts,
    uri=texts,
    captions=st.lists(texts, max_size=3).map(tuple),
    split=texts,
    boxes_xyxy=st.none() | st.lists(st.tuples(numbers, numbers, numbers, numbers), max_size=3).map(tuple),
    sha256=st.none() | texts,
    width=sizes,
    height=sizes,
    exif_orientation=st.booleans(),
)


def write(path: Path, rows: list[ImageRecord], batch: int = 1000) -> Manifest:
    with ManifestWriter(path, orientation=not all(row.exif_orientation for row in rows)) as writer:
        for start in range(0, len(rows), batch):
            writer.write(rows[start : start + batch])
        return writer.commit()


def literal_hash(rows: list[ImageRecord]) -> str:
    """The hash as the documentation words it, one value at a time."""
    out = bytearray()

    def strings(values: list[Any]) -> None:
        nonlocal out
        encoded = [(value or "").encode() for value in values]
        out += struct.pack("<q", len(values)) + bytes(value is not None for value in values)
        out += b"".join(struct.pack("<i", len(value)) for value in encoded) + b"".join(encoded)

    def fixed(values: list[Any], code: str) -> None:
        nonlocal out
        out += struct.pack("<q", len(values)) + bytes(value is not None for value in values)
        out += b"".join(struct.pack(code, 0 if value is None else value) for value in values)

    def lists(values: list[Any]) -> list[Any]:
        nonlocal out
        out += struct.pack("<q", len(values)) + bytes(value is not None for value in values)
        out += b"".join(struct.pack("<i", len(value or ())) for value in values)
        return [item for value in values for item in value or ()]

    strings([row.image_id for row in rows])
    strings([row.uri for row in rows])
    strings(lists([row.captions for row in rows]))
    strings([row.split for row in rows])
    fixed(lists(lists([row.boxes_xyxy for row in rows])), "<d")
    strings([row.sha256 for row in rows])
    fixed([row.width for row in rows], "<i")
    fixed([row.height for row in rows], "<i")
    if not all(row.exif_orientation for row in rows):
        fixed([row.exif_orientation for row in rows], "<B")
    return hashlib.sha256(out).hexdigest()


@given(st.lists(records, min_size=1, max_size=6))
def test_round_trip_and_hash_as_documented(tmp_path_factory: pytest.TempPathFactory, rows: list[ImageRecord]) -> None:
    manifest = write(tmp_path_factory.mktemp("m") / "m.parquet", rows, batch=2)
    assert manifest.read(0, len(rows)) == rows
    assert manifest.hash == literal_hash(rows) == content_hash(rows) == content_hash(manifest.read(0, len(rows)))


def test_golden_hash(tmp_path: Path) -> None:
    assert write(tmp_path / "m.parquet", TINY).hash == GOLDEN, "the content hash changed: raise FORMAT"


@pytest.mark.parametrize(
    "change",
    [
        {"image_id": "3"},
        {"uri": "images/3.png"},
        {"captions": ("",)},
        {"split": "val"},
        {"boxes_xyxy": ((0.0, 0.5, 10.1, 20.000001),)},
        {"boxes_xyxy": None},
        {"boxes_xyxy": ()},
        {"sha256": None},
        {"width": 641},
        {"height": None},
    ],
)
def test_any_change_changes_the_hash(change: dict[str, Any]) -> None:
    assert content_hash([TINY[0], TINY[1]._replace(**change)]) != content_hash(TINY)


def test_moving_text_between_neighbours_changes_the_hash() -> None:
    a, b = TINY[0]._replace(captions=("ab", "c")), TINY[0]._replace(captions=("a", "bc"))
    assert content_hash([a]) != content_hash([b])
    assert content_hash(TINY) != content_hash(TINY[::-1])


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, list[ImageRecord]]:
    rows = [
        ImageRecord(image_id=f"{i}", uri=f"u{i}", captions=(f"c{i}",) * (i % 3)) for i in range(ROWS_PER_GROUP * 2 + 7)
    ]
    return write(tmp_path_factory.mktemp("large") / "m.parquet", rows, batch=5000), rows


@pytest.mark.parametrize("start", [0, 1, ROWS_PER_GROUP - 1, ROWS_PER_GROUP, ROWS_PER_GROUP + 1, 2 * ROWS_PER_GROUP])
@pytest.mark.parametrize("length", [0, 1, 5, ROWS_PER_GROUP])
def test_reads_any_range(large: tuple[Manifest, list[ImageRecord]], start: int, length: int) -> None:
    manifest, rows = large
    stop = min(start + length, len(rows))
    assert manifest.read(start, stop) == rows[start:stop]


def test_reads_only_the_row_groups_needed(
    large: tuple[Manifest, list[ImageRecord]], monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, _ = large
    read, asked = pq.ParquetFile.read_row_groups, []
    monkeypatch.setattr(
        pq.ParquetFile, "read_row_groups", lambda self, groups, **kw: asked.append(groups) or read(self, groups, **kw)
    )
    manifest.read(ROWS_PER_GROUP, 2 * ROWS_PER_GROUP)
    manifest.read(ROWS_PER_GROUP - 1, ROWS_PER_GROUP + 1)
    assert asked == [[1], [0, 1]]


def test_hash_does_not_depend_on_batches(large: tuple[Manifest, list[ImageRecord]], tmp_path: Path) -> None:
    manifest, rows = large
    assert write(tmp_path / "m.parquet", rows, batch=len(rows)).hash == manifest.hash == content_hash(rows)


@pytest.mark.parametrize(("start", "stop"), [(-1, 1), (2, 1), (0, 3)])
def test_range_outside_is_an_error(tmp_path: Path, start: int, stop: int) -> None:
    with pytest.raises(IndexError):
        write(tmp_path / "m.parquet", TINY).read(start, stop)


def test_no_commit_no_file(tmp_path: Path) -> None:
    writer = ManifestWriter(tmp_path / "m.parquet")
    with writer:
        writer.write(TINY)
    assert list(tmp_path.iterdir()) == []


def test_nothing_under_the_name_before_commit(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    path.write_bytes(b"old")
    with ManifestWriter(path) as writer:
        writer.write(TINY)
        assert path.read_bytes() == b"old"
        writer.commit()
    assert [file.name for file in tmp_path.iterdir()] == ["m.parquet"]
    assert Manifest.open(path).rows == 2


def test_open_refuses_what_is_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"no such file.*vilbert manifest"):
        Manifest.open(tmp_path / "absent.parquet")
    (tmp_path / "text").write_text("image_id,uri\n")
    with pytest.raises(ManifestError, match=r"not a manifest.*vilbert manifest"):
        Manifest.open(tmp_path / "text")
    pq.write_table(pa.table({"url": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(ManifestError, match=r"not a manifest.*vilbert manifest"):
        Manifest.open(tmp_path / "other.parquet")
    with pytest.raises(ManifestError, match="not a manifest"):
        Manifest.open(tmp_path)


def test_open_refuses_damage_and_other_formats(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    write(path, TINY)
    table = pq.read_table(path)
    footer = {
        key.decode(): value.decode() for key, value in pq.read_metadata(path).metadata.items() if key[:7] == b"vilbert"
    }

    def rewrite(rows: pa.Table, **changes: str) -> None:
        changed = {**footer, **{f"vilbert.manifest.{key}": value for key, value in changes.items()}}
        pq.write_table(rows.replace_schema_metadata(changed), path)

    rewrite(table, format="2")
    with pytest.raises(ManifestError, match="format 2, this version reads format 1"):
        Manifest.open(path)
    rewrite(table.slice(1))
    with pytest.raises(ManifestError, match="does not match"):
        Manifest.open(path)
    rewrite(table.drop_columns(["split"]))
    with pytest.raises(ManifestError, match="does not match"):
        Manifest.open(path)
    write(path, TINY)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ManifestError, match="damaged"):
        Manifest.open(path)


def test_damaged_pages_are_a_manifest_error(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    write(path, [ImageRecord(image_id=str(i), uri="u" * i) for i in range(300)])
    data = bytearray(path.read_bytes())
    data[4:400] = bytes(396)
    path.write_bytes(data)
    with pytest.raises(ManifestError, match="row groups"):
        Manifest.open(path).read(0, 10)


def test_text_that_is_not_unicode_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="UTF-8"):
        write(tmp_path / "m.parquet", [ImageRecord(image_id="\ud800", uri="u")])


def test_footer_is_readable_by_others(tmp_path: Path) -> None:
    manifest = write(tmp_path / "m.parquet", TINY)
    footer = pq.read_metadata(manifest.path).metadata
    assert footer[b"vilbert.manifest.format"] == b"1"
    assert footer[b"vilbert.manifest.rows"] == b"2"
    assert footer[b"vilbert.manifest.hash"].decode() == manifest.hash
    assert pq.read_table(manifest.path).column("captions").to_pylist() == [list(row.captions) for row in TINY]
