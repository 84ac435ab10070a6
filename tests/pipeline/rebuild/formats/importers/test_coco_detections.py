"""COCO detections are recognised, and refused with what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.rebuild.formats.detect import detect_format, open_published


def test_detections_hold_no_features(tmp_path: Path) -> None:
    path = tmp_path / "coco_instances_results.json"
    path.write_text(json.dumps([{"image_id": 139, "category_id": 1, "bbox": [1.0, 2.0, 3.0, 4.0], "score": 0.9}]))
    assert detect_format(path) == "coco-detections"
    with pytest.raises(ShardError, match=r"boxes without features.* vilbert manifest IMAGES --given-boxes"):
        open_published(path)


@pytest.mark.parametrize("text", ["", "[]", "{}", "[{}]", '{"annotations": [{"image_id": 1, "bbox": []}]}', "[1, 2]"])
def test_other_json_is_not_of_this_format(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    assert detect_format(tmp_path / "a.json") is None
