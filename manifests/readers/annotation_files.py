"""Folders with one annotation file per image: YOLO's .txt, Pascal VOC's .xml."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from vilbert.manifests.captions import storable
from vilbert.manifests.readers.images import is_hidden, is_hidden_below, walk
from vilbert.manifests.record import ManifestError
from vilbert.manifests.regular_file import open_regular

SUFFIXES = {".txt": "YOLO", ".xml": "Pascal VOC"}
NOT_OF_IMAGES = ("classes.txt", "labels.txt", "names.txt", "obj.names", "predefined_classes.txt", "README.txt")
"""Files that labelling tools write next to YOLO annotations."""


def annotation_suffix(folder: Path) -> str:
    """Return the suffix of a folder's annotation files, ".txt" or ".xml".

    Raises:
        ManifestError: The folder has neither kind of file, or both.
    """
    found = sorted({path.suffix for path, _ in annotation_files(folder, *SUFFIXES)})
    if len(found) != 1:
        has = "YOLO .txt and Pascal VOC .xml files" if found else "neither YOLO .txt nor Pascal VOC .xml files"
        raise ManifestError(f"--given-boxes {folder}: has {has}; give a folder with files of one kind")
    return found[0]


def annotation_files(folder: Path, *suffixes: str) -> Iterator[tuple[Path, str]]:
    """Yield the annotation files below a folder in sorted order, each with the id of its image.

    The id is the path below the folder without the suffix, as `vilbert manifest FOLDER` names the images of a folder.
    """
    root = os.path.abspath(folder)
    for parent, names in walk(Path(root)):
        if is_hidden_below(root, parent):
            continue
        for name in names:
            stem, suffix = os.path.splitext(name)
            if suffix in suffixes and name not in NOT_OF_IMAGES and not is_hidden(name):
                path = Path(parent, name)
                yield path, storable(Path(parent, stem).relative_to(root).as_posix())


def read_annotation(path: Path, max_bytes: int) -> bytes:
    """Return the bytes of an annotation file.

    Raises:
        OSError: The file is not a regular file, or cannot be read.
        ValueError: The file is larger than `max_bytes`.
    """
    with open(path, "rb", opener=open_regular) as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ValueError(f"larger than {max_bytes} bytes")
    return data
