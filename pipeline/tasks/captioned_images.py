"""Captioned images for retrieval and captioning, from Karpathy's documents or ViLBERT's JSONL files.

Karpathy's `dataset_coco.json` and `dataset_flickr30k.json` hold all splits; models are trained on train and restval
together (Karpathy & Fei-Fei 2015). A JSONL file holds one split, `{"id": ..., "img_path": ..., "sentences": [...]}` per
line. Image ids are those of manifests: the COCO id, or else the file name without its suffix.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from vilbert.manifests.captions import is_blank, storable
from vilbert.manifests.readers.document import read_document
from vilbert.manifests.readers.karpathy import caption_texts
from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.tasks.annotation_files import AbsentError, field, json_lines, reading

_PARTS = {"train": ("train", "restval")}
_LINE_SUFFIXES = (".jsonl", ".jsonline", ".jsonlines")
_COCO_NAME = re.compile(r"COCO_[a-z]+20\d\d_(\d{12})")


@dataclass(frozen=True, kw_only=True, slots=True)
class CaptionedImage:
    """An image and its captions."""

    image_id: str
    """Image id as in manifests; unique."""
    captions: tuple[str, ...]
    """At least one caption, stripped of white space."""


def read_captioned_images(path: Path, split: str) -> list[CaptionedImage]:
    """Read the images of a split in the file's order.

    Args:
        path: A Karpathy document; a folder with one, `dataset_*.json`; or a JSONL file (.jsonl, .jsonline, .jsonlines),
            from which all lines are used except those that name another split.
        split: Name of the split. In a Karpathy document, train includes restval.

    Raises:
        RefusedError: An entry is damaged, an image appears twice or has no caption. The message names file and entry.
        AbsentError: The split does not exist.
    """
    path = _document(path)
    parts = _PARTS.get(split, (split,))
    images: dict[str, CaptionedImage] = {}
    splits: set[str] = set()
    seen: set[str] = set()
    for where, part, image_id, texts in (_lines if path.suffix in _LINE_SUFFIXES else _entries)(path):
        if not image_id:
            raise RefusedError(f"{where}: the image has no file name")
        if image_id in seen:
            raise RefusedError(f"{where}: image {image_id} appears in an earlier entry too; remove one of them")
        seen.add(image_id)
        splits.add(part)
        captions = tuple(caption for text in texts if not is_blank(caption := storable(text.strip())))
        if not captions:
            raise RefusedError(f"{where}: image {image_id} has no caption; remove the entry")
        if part in parts or not part:
            images[image_id] = CaptionedImage(image_id=image_id, captions=captions)
    if not images:
        named = ", ".join(sorted(splits)) or "none, as it has no entry"
        raise AbsentError(f"{path}: has no split {split!r}; its splits are: {named}")
    return list(images.values())


def coco_number(name: str) -> str | None:
    """Return the image id in a published COCO 2014 file name, without leading zeros; None for other names.

    `COCO_train2014_000000000025.jpg`, with or without folders, is image 25.
    """
    match = _COCO_NAME.fullmatch(PurePosixPath(name).stem)
    return str(int(match[1])) if match else None


def _document(path: Path) -> Path:
    if not path.is_dir():
        return path
    found = sorted(path.glob("dataset_*.json"))
    if len(found) != 1:
        named = ", ".join(file.name for file in found) or "none"
        raise RefusedError(
            f"{path}: expected one Karpathy document, dataset_*.json, found {named}; give the path of the file"
        )
    return found[0]


def _entries(path: Path) -> Iterator[tuple[str, str, str, list[str]]]:
    """Yield (place, split, image id, captions) of a Karpathy document."""
    with reading(path):
        rows = read_document(path, ["images"])["images"]
        for i, row in enumerate(rows):
            where = f"{path}: images[{i}]"
            stem = PurePosixPath(field(row, "filename", str, where)).stem
            image_id = str(field(row, "cocoid", int, where)) if "cocoid" in row else stem
            split = field(row, "split", str, where)
            if not split:
                raise RefusedError(f"{where}: split is empty; expected train, restval, val or test")
            yield where, split, image_id, caption_texts(row, where)


def _lines(path: Path) -> Iterator[tuple[str, str, str, list[str]]]:
    """Yield (place, split or nothing, image id, captions) of a JSONL file."""
    for where, row in json_lines(path):
        sentences = field(row, "sentences", list, where)
        for i, sentence in enumerate(sentences):
            if not isinstance(sentence, str):
                raise RefusedError(f"{where}: sentences[{i}] is {sentence!r:.80}, not text")
        split = field(row, "split", str, where) if "split" in row else ""
        yield where, split, _line_id(row, where), sentences


def _line_id(row: dict[str, Any], where: str) -> str:
    """Return the image id of a line.

    `id` is the COCO id in ViLBERT's files, but only a running number in those of Flickr30k: there the file name is the
    id.
    """
    number = row.get("id")
    if "id" in row and (not isinstance(number, int | str) or isinstance(number, bool)):
        raise RefusedError(f"{where}: id is {number!r:.80}, neither text nor a whole number")
    if "img_path" not in row:
        if "id" not in row:
            raise RefusedError(f"{where}: id and img_path are missing; one of them must identify the image")
        return str(number)
    name = field(row, "img_path", str, where)
    stem = PurePosixPath(name).stem
    if coco := coco_number(name):
        return coco
    # COCO 2017 has no prefix: `000000000025.jpg` with the id 25.
    return str(number) if "id" in row and stem.isdecimal() and stem.lstrip("0") == str(number) else stem
