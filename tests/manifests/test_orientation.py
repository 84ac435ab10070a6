"""Which rows keep their sets exif_orientation, and how a manifest records it."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vilbert.manifests.build import ManifestSettings, build_manifest
from vilbert.manifests.manifest import COLUMNS, Manifest, ManifestWriter, content_hash
from vilbert.manifests.orientation import has_published_name
from vilbert.manifests.record import ImageRecord


@pytest.mark.parametrize(
    "uri",
    [
        "/data/coco/train2014/COCO_train2014_000000000009.jpg",
        "COCO_test2015_000000000001.jpg",
        "http://images.cocodataset.org/train2017/000000391895.jpg",
        "tar://val2017/000000000139.jpg",
        "https://cs.stanford.edu/people/rak248/VG_100K_2/1.jpg",
        "/data/VG_100K/2345.jpg",
    ],
)
def test_names_of_published_images(uri: str) -> None:
    assert has_published_name(uri)


@pytest.mark.parametrize("uri", ["photo.jpg", "/a/2017/000000000139.jpg", "COCO_train2014_9.jpg", "train2017/cat.jpg"])
def test_other_names(uri: str) -> None:
    assert not has_published_name(uri)


def build(tmp_path: Path, *sources: Path, choice: str = "auto") -> Manifest:
    output = tmp_path / f"{choice}.parquet"
    options = {"exif_orientation": choice, "check_files": False, "overwrite": True}
    assert build_manifest(ManifestSettings(sources=sources, output=output, **options)) == 0  # type: ignore[arg-type]
    return Manifest.open(output)


def orientations(manifest: Manifest) -> dict[str, bool]:
    return {record.image_id: record.exif_orientation for record in manifest.read(0, manifest.rows)}


def coco(path: Path) -> Path:
    image = {"id": 9, "file_name": "any.jpg", "coco_url": "http://x/any.jpg"}
    path.write_text(json.dumps({"images": [image], "annotations": [{"image_id": 9, "caption": "a"}]}))
    return path


def test_a_manifest_of_several_sources_says_it_by_row(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("image_id,path\nphoto,photo.jpg\nvg,VG_100K/1.jpg\n")
    (tmp_path / "cc.tsv").write_text("a dog\thttp://x/1.jpg\n")
    sources = coco(tmp_path / "c.json"), tmp_path / "t.csv", tmp_path / "cc.tsv"
    found = orientations(build(tmp_path, *sources))
    assert found.pop(next(key for key in found if key.startswith("000000000-"))) is True
    assert found == {"9": False, "photo": True, "vg": False}
    assert set(orientations(build(tmp_path, *sources, choice="apply")).values()) == {True}
    assert set(orientations(build(tmp_path, *sources, choice="ignore")).values()) == {False}


def test_the_hash_names_it_and_is_as_before_where_nothing_keeps_its_stored_pixels(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("image_id,path\n1,photo.jpg\n2,b.jpg\n")
    auto, apply, ignore = (build(tmp_path, tmp_path / "t.csv", choice=choice) for choice in ("auto", "apply", "ignore"))
    assert auto.hash == apply.hash != ignore.hash
    assert pq.read_schema(apply.path).names == list(COLUMNS)
    assert pq.read_schema(auto.path).names == [*COLUMNS, "exif_orientation"]
    assert auto.read(0, 2) == apply.read(0, 2)


def test_a_table_may_say_it_itself(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("image_id,path,exif_orientation\n1,a.jpg,False\n2,b.jpg,true\n3,c.jpg,maybe\n")
    assert orientations(build(tmp_path, tmp_path / "t.csv")) == {"1": False, "2": True}
    assert orientations(build(tmp_path, tmp_path / "t.csv", choice="apply")) == {"1": True, "2": True}


def test_a_manifest_without_the_column_takes_no_such_row(tmp_path: Path) -> None:
    with ManifestWriter(tmp_path / "m.parquet") as writer:
        writer.write([ImageRecord(image_id="1", uri="a", exif_orientation=False)])
        with pytest.raises(ValueError, match="sets exif_orientation"):
            writer.commit()


@given(st.lists(st.booleans(), min_size=1, max_size=8))
@settings(max_examples=20)
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, turned: list[bool]) -> None:
    rows = [ImageRecord(image_id=str(i), uri="a", exif_orientation=value) for i, value in enumerate(turned)]
    with ManifestWriter(tmp_path_factory.mktemp("m") / "m.parquet", orientation=True) as writer:
        writer.write(rows)
        manifest = writer.commit()
    assert manifest.read(0, len(rows)) == rows
    assert manifest.hash == content_hash(rows)
    without = content_hash([row._replace(exif_orientation=True) for row in rows])
    assert (manifest.hash == without) is all(turned)
