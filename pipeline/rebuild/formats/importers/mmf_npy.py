"""MMF's files: ID.npy with the features of an image, ID_info.npy with its other fields."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vilbert.pipeline.rebuild.formats.importers.folder_files import FolderFiles, first_file, read_file
from vilbert.pipeline.rebuild.formats.importers.imported_source import ImportedSource
from vilbert.pipeline.rebuild.formats.importers.mapping_fields import require_mapping
from vilbert.pipeline.rebuild.formats.importers.mmf_info import mmf_image
from vilbert.pipeline.rebuild.formats.importers.named_rows import NamedReader
from vilbert.pipeline.rebuild.formats.importers.published_image import Background, PublishedImage, RowError
from vilbert.pipeline.rebuild.formats.registry import ImportOptions
from vilbert.untrusted.pickled_arrays import load_npy

_INFO, _FULL = "_info.npy", "_full.npy"


class Importer:
    """Reads folders of MMF's files."""

    def detect(self, path: Path) -> bool:
        """Return whether a folder has an `_info.npy` beside a `.npy` of the same name."""
        found = first_file(path, lambda name: name.endswith(_INFO)) if path.is_dir() else None
        return found is not None and found.with_name(found.name.removesuffix(_INFO) + ".npy").is_file()

    def open(self, path: Path, options: ImportOptions) -> ImportedSource:
        """Open a folder; see `registry.Importer`."""
        return ImportedSource("mmf-npy", path, _Reader(FolderFiles(path, _is_features), options.background), options)


def _is_features(name: str) -> bool:
    return name.endswith(".npy") and not name.endswith((_INFO, _FULL))


class _Reader(NamedReader):
    """Pairs of files, by the name of the one with features."""

    def __init__(self, files: FolderFiles, background: Background | None) -> None:
        super().__init__(files, image_id=lambda name: name.removesuffix(".npy"))
        self._files, self._background = files, background

    def content(self, row: int) -> bytes:
        """Return name and bytes of both files."""
        return super().content(row) + self._info(row)

    def _info(self, row: int) -> bytes:
        path = self._files.path(row)
        info = path.with_name(path.name.removesuffix(".npy") + _INFO)
        return read_file(info, f"{self._files.name(row).removesuffix('.npy')}{_INFO}")

    def parse(self, row: int, image_id: str) -> PublishedImage:
        """Return the image from both files."""
        features = load_npy(self._files.read(row))
        if not isinstance(features, np.ndarray):
            raise RowError("broken_row", "holds Python objects, expected an array of features")
        return mmf_image(image_id, features, require_mapping(load_npy(self._info(row))), self._background)
