"""The rows of a scene in the image and caption files: COCO, Karpathy's split and Conceptual Captions.

Field for field as published: cocodataset.org/#format-data; `dataset_coco.json` of Karpathy and Fei-Fei 2015;
ai.google.com/research/ConceptualCaptions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vilbert.pipeline.shapes.layout import FOLDERS, URL, image_id, image_path, numbered_id
from vilbert.pipeline.shapes.scene import CLASS_NAMES, Scene, split_of

Row = dict[str, Any]

INFO: Row = {
    "description": "Shapes: generated scenes in the format of COCO",
    "url": URL,
    "version": "1.0",
    "year": 2014,
    "contributor": "vilbert shapes",
    "date_created": "2014/01/01",
}
LICENSES: list[Row] = [{"id": 1, "name": "Public domain", "url": f"{URL}/license"}]
CATEGORIES: list[Row] = [
    {"supercategory": "shape", "id": number, "name": name} for number, name in enumerate(CLASS_NAMES, start=1)
]


def image_row(scene: Scene) -> Row:
    """Return the scene's entry in `images` of any COCO file."""
    path = image_path(scene.index)
    return {
        "license": 1,
        "file_name": path.name,
        "coco_url": f"{URL}/{path}",
        "height": scene.height,
        "width": scene.width,
        "date_captured": "2014-01-01 00:00:00",
        "flickr_url": "",
        "id": image_id(scene.index),
    }


def object_rows(scene: Scene) -> list[Row]:
    """Return the scene's entries in `annotations` of an instances file; the polygon is the box's outline."""
    rows = []
    for position, item in enumerate(scene.objects):
        x1, y1, x2, y2 = item.box_xyxy
        rows.append(
            {
                "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]],
                "area": item.area,
                "iscrowd": 0,
                "image_id": image_id(scene.index),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "category_id": item.class_id,
                "id": numbered_id(scene.index, position),
            }
        )
    return rows


def caption_rows(scene: Scene, captions: Sequence[str]) -> list[Row]:
    """Return the scene's entries in `annotations` of a captions file."""
    return [
        {"image_id": image_id(scene.index), "id": numbered_id(scene.index, position), "caption": caption}
        for position, caption in enumerate(captions)
    ]


def _words(caption: str) -> list[str]:
    return caption.lower().replace(".", "").replace(",", "").split()


def karpathy_row(scene: Scene, captions: Sequence[str]) -> Row:
    """Return the scene's entry in `images` of `dataset_coco.json`; `imgid` is the scene's index."""
    first = scene.index * len(captions)
    split = split_of(scene.index)
    return {
        "filepath": FOLDERS[split],
        "sentids": list(range(first, first + len(captions))),
        "filename": image_path(scene.index).name,
        "imgid": scene.index,
        "split": split,
        "sentences": [
            {"tokens": _words(caption), "raw": caption, "imgid": scene.index, "sentid": first + position}
            for position, caption in enumerate(captions)
        ],
        "cocoid": image_id(scene.index),
    }


def conceptual_line(scene: Scene, captions: Sequence[str]) -> str:
    """Return the scene's line of a Conceptual Captions TSV: one caption in lower case, a tab, the URL."""
    caption = captions[0].lower().replace(".", " .").replace(",", " ,")
    return f"{caption}\t{URL}/{image_path(scene.index)}"
