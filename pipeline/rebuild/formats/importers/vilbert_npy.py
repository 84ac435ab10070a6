"""vilbert-multi-task's files: ID.npy with a pickled mapping per image, of `script/extract_features.py`.

`cls_prob` has all classes, the background first. `objects` is not read: the script takes rows for columns
(`scores[keep_boxes][start_index:]`), so the ids belong to the next region; the probabilities give the right ones.
"""

from __future__ import annotations

from pathlib import Path

from vilbert.pipeline.rebuild.formats.importers.folder_files import FolderFiles, first_file, read_file
from vilbert.pipeline.rebuild.formats.importers.imported_source import ImportedSource
from vilbert.pipeline.rebuild.formats.importers.mapping_fields import (
    require_array,
    require_mapping,
    take_array,
    take_number,
)
from vilbert.pipeline.rebuild.formats.importers.published_image import (
    Background,
    Head,
    PublishedImage,
    RowError,
    background_first,
)
from vilbert.pipeline.rebuild.formats.registry import ImportOptions
from vilbert.untrusted.pickled_arrays import load_npy

_SUFFIX = ".npy"


class Importer:
    """Reads folders of vilbert-multi-task's files."""

    def detect(self, path: Path) -> bool:
        """Return whether a folder's first .npy file is a pickled mapping with boxes and features."""
        found = first_file(path, _is_features) if path.is_dir() else None
        try:
            value = None if found is None else load_npy(read_file(found, found.name))
        except (ValueError, RowError):
            return False
        return isinstance(value, dict) and {"bbox", "features"} <= value.keys()

    def open(self, path: Path, options: ImportOptions) -> ImportedSource:
        """Open a folder; see `registry.Importer`."""
        reader = _Reader(FolderFiles(path, _is_features), options.background or "first")
        return ImportedSource("vilbert-npy", path, reader, options)


def _is_features(name: str) -> bool:
    return name.endswith(_SUFFIX)


class _Reader:
    def __init__(self, files: FolderFiles, background: Background) -> None:
        self._files, self._background = files, background

    def __len__(self) -> int:
        return len(self._files)

    def content(self, row: int) -> bytes:
        return self._files.read(row)

    def _image_id(self, row: int) -> str:
        """Return the file's name: the scripts name it by the image id."""
        return self._files.name(row).rpartition("/")[2].removesuffix(_SUFFIX)

    def head(self, row: int) -> Head:
        return Head(image_id=self._image_id(row))

    def image(self, row: int) -> PublishedImage:
        image_id = self._image_id(row)
        try:
            fields = require_mapping(load_npy(self._files.read(row)))
            probs = take_array(fields, "cls_prob")
            return PublishedImage(
                image_id=image_id,
                features=require_array(fields, "features"),
                boxes=require_array(fields, "bbox"),
                width=take_number(fields, "image_width"),
                height=take_number(fields, "image_height"),
                class_probs=None if probs is None else background_first(probs, self._background),
            )
        except RowError as error:
            raise RowError(error.reason, str(error), image_id) from error

    def close(self) -> None:
        """Nothing is open between rows."""
