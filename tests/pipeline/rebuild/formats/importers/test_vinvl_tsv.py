"""VinVL's TSV in its three layouts, with the files beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.rebuild.formats.detect import detect_format, open_published

from .published import CLASSES, HEIGHT, WIDTH, Picture, b64, pictures
from .samples import (
    failures_of,
    read_published,
    require_boxes_and_features,
    require_objects,
    samples_of,
)

NAMES = [f"thing{number}" for number in range(1, CLASSES)]


def appended(picture: Picture) -> str:
    return b64(np.concatenate([picture.features, picture.shares], axis=1))


def row_of(picture: Picture, layout: str) -> str:
    if layout == "columns":
        return f"{picture.image_id}\t{picture.regions}\t{appended(picture)}"
    if layout == "json":
        return f"{picture.image_id}\t{json.dumps({'num_boxes': picture.regions, 'features': appended(picture)})}"
    objects = [{**thing, "feature": b64(picture.features[at])} for at, thing in enumerate(things(picture))]
    return f"{picture.image_id}\t{json.dumps({'objects': objects, 'relations': None})}"


def things(picture: Picture) -> list[dict[str, Any]]:
    rows = zip(picture.boxes.tolist(), picture.objects.tolist(), picture.scores.tolist(), strict=True)
    return [{"rect": box, "bbox_id": 0, "class": NAMES[one], "conf": score} for box, one, score in rows]


def write(folder: Path, found: list[Picture], layout: str, *, sizes: bool = True) -> Path:
    name = "predictions.tsv" if layout == "predictions" else "test.feature.tsv"
    path, prefix = folder / name, "" if layout == "predictions" else "test."
    path.write_text("".join(row_of(picture, layout) + "\n" for picture in found))
    if sizes:
        size = json.dumps([{"height": HEIGHT, "width": WIDTH}])
        (folder / f"{prefix}hw.tsv").write_text("".join(f"{picture.image_id}\t{size}\n" for picture in found))
    if layout != "predictions":
        labels = "".join(f"{picture.image_id}\t{json.dumps(things(picture))}\n" for picture in found)
        (folder / f"{prefix}label.tsv").write_text(labels)
    return path


@pytest.mark.parametrize("layout", ["columns", "json", "predictions"])
def test_all_layouts(tmp_path: Path, layout: str) -> None:
    found, names = pictures(), tmp_path / "names.txt"
    names.write_text("\n".join(NAMES))
    path = write(tmp_path, found, layout)
    assert detect_format(path) == "vinvl-tsv"
    assert detect_format(tmp_path) == (None if layout == "predictions" else "vinvl-tsv")
    description, rows = read_published(path, class_names=names)
    for sample, picture in zip(samples_of(rows), found, strict=True):
        require_boxes_and_features(sample, picture)
        require_objects(sample, picture)
    assert description.class_names == ("background", *NAMES)
    assert description.missing == ("class probabilities", "attributes", "captions")
    without = read_published(path)[0]
    assert "objects" in without.missing
    assert "object_ids" not in without.fields


def test_files_beside_must_be_of_the_same_images(tmp_path: Path) -> None:
    found = pictures()
    path = write(tmp_path, found, "json")
    sizes = (tmp_path / "test.hw.tsv").read_text().splitlines(keepends=True)
    (tmp_path / "test.hw.tsv").write_text("".join([sizes[0], sizes[2], sizes[1], sizes[3]]))
    failures = failures_of(read_published(path)[1])
    assert [row.row for row in failures] == [1, 2]
    assert "line 2 of the hw file belongs to another image, b'COCO_train2014_000000000003'" in failures[0].detail


def test_a_file_without_sizes_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, pictures(), "json", sizes=False)
    with pytest.raises(ShardError, match="its size is not known: neither the file nor --image-sizes has it"):
        open_published(path)


def test_damaged_lines_become_failures(tmp_path: Path) -> None:
    found = pictures(6)
    path, names = write(tmp_path, found, "json"), tmp_path / "names.txt"
    names.write_text("\n".join(NAMES[:-1]))
    found[0].objects[:] = len(NAMES) - 1
    found[5].objects[:] = 0
    write(tmp_path, found, "json")
    lines = path.read_text().splitlines()
    lines[1] = lines[1][:-10]
    lines[2] = lines[2].replace('"num_boxes": 5', '"num_boxes": 4')
    lines[3] = f"{found[3].image_id}\t[]"
    lines[4] = lines[4].replace('"features": "', '"features": "*')
    path.write_text("\n".join(lines))
    failures = failures_of(read_published(path, class_names=names)[1])
    assert [row.row for row in failures] == [0, 1, 2, 3, 4]
    assert failures[0].reason == "bad_classes"
    assert {row.reason for row in failures[1:]} == {"broken_row"}
