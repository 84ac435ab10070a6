"""MILVLG's files: ID.npz per image, of MILVLG/bottom-up-attention.pytorch.

`info` is a pickled mapping with objects and attributes. Their ids count without background and "no attribute" in the
released script; an early version counted them (`--background first`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vilbert.pipeline.rebuild.formats.importers.folder_files import FolderFiles, first_file, read_file
from vilbert.pipeline.rebuild.formats.importers.imported_source import ImportedSource
from vilbert.pipeline.rebuild.formats.importers.mapping_fields import (
    require_array,
    require_mapping,
    take_column,
    take_number,
)
from vilbert.pipeline.rebuild.formats.importers.published_image import (
    Background,
    Head,
    PublishedImage,
    RowError,
    foreground_ids,
)
from vilbert.pipeline.rebuild.formats.registry import ImportOptions
from vilbert.untrusted.npz_files import load_npz

_SUFFIX = ".npz"


class Importer:
    """Reads folders of MILVLG's files."""

    def detect(self, path: Path) -> bool:
        """Return whether a folder's first .npz file has the arrays `x` and `bbox`."""
        found = first_file(path, _is_features) if path.is_dir() else None
        try:
            return found is not None and {"x", "bbox"} <= load_npz(read_file(found, found.name)).keys()
        except (ValueError, RowError):
            return False

    def open(self, path: Path, options: ImportOptions) -> ImportedSource:
        """Open a folder; see `registry.Importer`."""
        reader = _Reader(FolderFiles(path, _is_features), options.background or "none")
        return ImportedSource("bottom-up-npz", path, reader, options)


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
            arrays = load_npz(self._files.read(row))
            info = require_mapping(arrays.get("info", {}))
            return self._of(arrays, info, image_id)
        except RowError as error:
            raise RowError(error.reason, str(error), image_id) from error

    def _of(self, arrays: Mapping[str, Any], info: Mapping[str, Any], image_id: str) -> PublishedImage:
        objects = take_column(info, "objects_id")
        attributes = take_column(info, "attrs_id")
        if attributes is not None and self._background == "first":
            attributes = attributes - 1  # "no attribute" was counted, too
        return PublishedImage(
            image_id=image_id,
            features=require_array(arrays, "x"),
            boxes=require_array(arrays, "bbox"),
            width=take_number(arrays, "image_w"),
            height=take_number(arrays, "image_h"),
            object_ids=None if objects is None else foreground_ids(objects, self._background),
            object_scores=take_column(info, "objects_conf"),
            attribute_ids=attributes,
            attribute_scores=take_column(info, "attrs_conf"),
        )

    def close(self) -> None:
        """Nothing is open between rows."""
