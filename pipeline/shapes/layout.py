"""Names and numbers of the data set's files and rows: each a pure function of a scene's index.

The folders and file names are those of the published data sets, so that their readers find what they know.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from vilbert.pipeline.shapes.scene import split_of

SPLITS = ("train", "val", "test")
LABELLED_SPLITS = ("train", "val")
"""The splits whose captions, objects and answers COCO, VQA and VCR publish."""
FOLDERS = {"train": "train2014", "val": "val2014", "test": "test2015"}
"""COCO's folder of images of each split."""
URL = "https://shapes.invalid"
"""Placeholder for fields that require a web site; `.invalid` never resolves (RFC 2606)."""


def image_id(index: int) -> int:
    """Return the COCO image id of a scene; ids count from 1."""
    return index + 1


def image_path(index: int) -> PurePosixPath:
    """Return the image's path in the data set."""
    folder = FOLDERS[split_of(index)]
    return PurePosixPath(folder, f"COCO_{folder}_{image_id(index):012d}.jpg")


def metadata_path(index: int) -> PurePosixPath:
    """Return the path of the image's VCR metadata in the data set."""
    return PurePosixPath("vcr1metadata", FOLDERS[split_of(index)], image_path(index).with_suffix(".json").name)


def numbered_id(index: int, position: int) -> int:
    """Return an id for row `position` of at most ten that belong to one image: an object, a caption, a reference."""
    return image_id(index) * 10 + position
