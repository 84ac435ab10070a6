"""A rotated photograph is turned, but where its annotations refer to stored pixels; given boxes always do."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vilbert.extractors.decode import DecodeSettings
from vilbert.manifests.build import ManifestSettings, build_manifest
from vilbert.manifests.manifest import Manifest
from vilbert.pipeline.extract.prepare import Prepared, prepare
from vilbert.pipeline.extract.run import extract
from vilbert.pipeline.extract.settings import ExtractSettings
from vilbert.pipeline.predict.photographs import read_pixels
from vilbert.pipeline.shapes.render import render
from vilbert.pipeline.shapes.scene import make_scene
from vilbert.pipeline.shards.checks.verify import VerifySettings, verify
from vilbert.pipeline.shards.storage.store import open_shard


def rotated_jpeg(index: int = 0) -> bytes:
    """Return a scene of 64 by 48 pixels at most, whose EXIF says that it is to be turned by a quarter."""
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    scene = np.asarray(render(make_scene(0, index)).convert("RGB"))
    Image.fromarray(scene[: scene.shape[0] // 2 * 2, : scene.shape[1] // 2]).save(file, "JPEG", exif=exif, quality=95)
    return file.getvalue()


def size_of(data: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(data)) as image:
        return image.size


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """Return a COCO captions file of one rotated photograph, whose instances have one box."""
    data = rotated_jpeg()
    (tmp_path / "val2014").mkdir()
    (tmp_path / "val2014/COCO_val2014_000000000009.jpg").write_bytes(data)
    width, height = size_of(data)
    image = {"id": 9, "file_name": "COCO_val2014_000000000009.jpg", "width": width, "height": height}
    box = {"id": 1, "image_id": 9, "bbox": [0, 0, width, height], "category_id": 1, "iscrowd": 0}
    (tmp_path / "instances.json").write_text(json.dumps({"images": [image], "annotations": [box]}))
    caption = {"id": 1, "image_id": 9, "caption": "a scene"}
    (tmp_path / "captions_val2014.json").write_text(json.dumps({"images": [image], "annotations": [caption]}))
    return tmp_path


def prepared(coco: Path, **options: object) -> Prepared:
    output = coco / "m.parquet"
    settings = ManifestSettings(
        sources=(coco / "captions_val2014.json",),
        images=coco,
        output=output,
        overwrite=True,
        **options,  # type: ignore[arg-type]
    )
    assert build_manifest(settings) == 0
    (record,) = Manifest.open(output).read(0, 1)
    item = prepare(0, record, DecodeSettings(), Path(record.uri).read_bytes)
    assert isinstance(item, Prepared)
    return item


def test_coco_keeps_stored_pixels_and_its_boxes_fit_them(coco: Path) -> None:
    width, height = size_of(rotated_jpeg())
    assert width != height
    for options in ({}, {"given_boxes": coco / "instances.json"}, {"exif_orientation": "ignore"}):
        item = prepared(coco, **options)
        assert item.image.pixels.shape[:2] == (height, width)
        assert not item.image.transposed
        if options.get("given_boxes"):
            assert item.boxes is not None
            assert item.boxes.tolist() == [[0, 0, width, height]]
    assert prepared(coco, exif_orientation="apply").image.pixels.shape[:2] == (width, height)
    # Given boxes are in stored pixels whatever else is asked for.
    given = prepared(coco, exif_orientation="apply", given_boxes=coco / "instances.json")
    assert given.image.pixels.shape[:2] == (height, width)


def read_file(path: str) -> bytes:
    return Path(path).read_bytes()


def test_predict_reads_files_of_coco_as_extraction_does(coco: Path) -> None:
    width, height = size_of(rotated_jpeg())
    path = coco / "val2014/COCO_val2014_000000000009.jpg"
    assert read_pixels(path, "x", DecodeSettings(), read_file).shape == (height, width, 3)
    (coco / "phone.jpg").write_bytes(path.read_bytes())
    assert read_pixels(coco / "phone.jpg", "x", DecodeSettings(), read_file).shape == (width, height, 3)


def test_a_mixed_manifest_is_extracted_and_proved(coco: Path, settings_for: Callable[..., ExtractSettings]) -> None:
    (coco / "photos").mkdir()
    (coco / "photos/phone.jpg").write_bytes(rotated_jpeg(1))
    sources = coco / "captions_val2014.json", coco / "photos"
    manifest = coco / "mixed.parquet"
    assert build_manifest(ManifestSettings(sources=sources, images=coco, output=manifest)) == 0
    settings = settings_for("out", manifest=manifest)
    assert extract(settings) == 0
    with open_shard(settings.output / "shards/000000.tar") as reader:
        turned = {sample.meta["image_id"]: sample.meta["transposed"] for sample in reader}
    assert turned == {"9": False, "phone": True}
    assert verify(VerifySettings(directory=settings.output, deep=True, manifest=manifest)) == 0
    assert (
        build_manifest(
            ManifestSettings(sources=sources, images=coco, output=manifest, exif_orientation="ignore", overwrite=True)
        )
        == 0
    )
    assert verify(VerifySettings(directory=settings.output, deep=True, manifest=manifest)) == 1
