"""The annotation files of the data set, and their rows for each scene."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from vilbert.pipeline.shapes.captions import captions
from vilbert.pipeline.shapes.choices import choices
from vilbert.pipeline.shapes.expressions import references
from vilbert.pipeline.shapes.files import ROWS, Frame
from vilbert.pipeline.shapes.image_rows import (
    CATEGORIES,
    INFO,
    LICENSES,
    caption_rows,
    conceptual_line,
    image_row,
    karpathy_row,
    object_rows,
)
from vilbert.pipeline.shapes.layout import FOLDERS, LABELLED_SPLITS, SPLITS, image_id, image_path
from vilbert.pipeline.shapes.questions import questions
from vilbert.pipeline.shapes.scene import Scene, split_of
from vilbert.pipeline.shapes.task_rows import answer_rows, choices_row, question_rows, reference_row

SCENES = "scenes.jsonl"
KARPATHY = "karpathy/dataset_coco.json"
REFERENCES = "refer/refcocog/refs(umd).json"
REFERRED = "refer/refcocog/instances.json"
CONCEPTUAL = {
    "train": "conceptual_captions/Train_GCC-training.tsv",
    "val": "conceptual_captions/Validation_GCC-1.1.0-Validation.tsv",
}
_COCO: dict[str, Any] = {"info": INFO, "licenses": LICENSES, "images": ROWS}


class Row(NamedTuple):
    """A row and its destination: a file, and the array in it if the file has several."""

    path: str
    name: str
    value: Any


def _captions(split: str) -> str:
    return f"annotations/captions_{FOLDERS[split]}.json"


def _instances(split: str) -> str:
    return f"annotations/instances_{FOLDERS[split]}.json"


_IMAGE_INFO = f"annotations/image_info_{FOLDERS['test']}.json"


def _questions(split: str) -> str:
    return f"vqa/v2_OpenEnded_mscoco_{FOLDERS[split]}_questions.json"


def _answers(split: str) -> str:
    return f"vqa/v2_mscoco_{FOLDERS[split]}_annotations.json"


def _choices(split: str) -> str:
    return f"vcr1annots/{split}.jsonl"


def line_files() -> list[str]:
    """Return the paths of the files that hold one row per line."""
    return [SCENES, *CONCEPTUAL.values(), *map(_choices, SPLITS)]


def json_files() -> dict[str, Frame | None]:
    """Return the frame of each JSON file by its path; None if the file is one array."""
    frames: dict[str, Frame | None] = {
        _IMAGE_INFO: _COCO | {"categories": CATEGORIES},
        KARPATHY: {"images": ROWS, "dataset": "coco"},
        REFERENCES: None,
        REFERRED: _COCO | {"annotations": ROWS, "categories": CATEGORIES},
    }
    for split in SPLITS:
        vqa: dict[str, Any] = {
            "info": INFO,
            "license": LICENSES[0],
            "data_subtype": FOLDERS[split],
            "data_type": "mscoco",
        }
        frames[_questions(split)] = vqa | {"task_type": "Open-Ended", "questions": ROWS}
        if split in LABELLED_SPLITS:
            frames[_captions(split)] = _COCO | {"annotations": ROWS}
            frames[_instances(split)] = _COCO | {"annotations": ROWS, "categories": CATEGORIES}
            frames[_answers(split)] = vqa | {"annotations": ROWS}
    return frames


def _image_rows(scene: Scene) -> Iterator[Row]:
    split, image, objects, texts = split_of(scene.index), image_row(scene), object_rows(scene), captions(scene)
    yield Row(KARPATHY, "images", karpathy_row(scene, texts))
    yield Row(REFERRED, "images", image)
    yield from (Row(REFERRED, "annotations", row) for row in objects)
    if split in LABELLED_SPLITS:
        yield Row(_captions(split), "images", image)
        yield from (Row(_captions(split), "annotations", row) for row in caption_rows(scene, texts))
        yield Row(_instances(split), "images", image)
        yield from (Row(_instances(split), "annotations", row) for row in objects)
        yield Row(CONCEPTUAL[split], "", conceptual_line(scene, texts))
    else:
        yield Row(_IMAGE_INFO, "images", image)


def _task_rows(scene: Scene) -> Iterator[Row]:
    split, asked = split_of(scene.index), questions(scene)
    yield from (Row(_questions(split), "questions", row) for row in question_rows(scene, asked))
    if split in LABELLED_SPLITS:
        yield from (Row(_answers(split), "annotations", row) for row in answer_rows(scene, asked))
    for position, one in enumerate(choices(scene)):
        yield Row(_choices(split), "", choices_row(scene, one, position))
    yield from (Row(REFERENCES, "", reference_row(scene, reference)) for reference in references(scene))


def rows(scene: Scene) -> Iterator[Row]:
    """Yield all rows of a scene."""
    where = {"image_id": image_id(scene.index), "split": split_of(scene.index), "path": str(image_path(scene.index))}
    yield Row(SCENES, "", where | scene.to_json())
    yield from _image_rows(scene)
    yield from _task_rows(scene)
