"""vilbert-multi-task's files: ID.npy with a pickled mapping per image, of `script/extract_features.py`.

`cls_prob` has all classes, the background first. `objects` is not read: the script confuses rows and columns
(`scores[keep_boxes][start_index:]`), so its ids belong to the next region; the probabilities give the correct ids.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from vilbert.pipeline.rebuild.formats.importers.folder_files import FolderFiles, first_file, read_file
from vilbert.pipeline.rebuild.formats.importers.imported_source import ImportedSource
from vilbert.pipeline.rebuild.formats.importers.mapping_fields import (
    require_array,
    require_mapping,
    take_array,
    take_number,
)
from vilbert.pipeline.rebuild.formats.importers.named_rows import NamedReader, file_stem
from vilbert.pipeline.rebuild.formats.importers.published_image import (
    Background,
    PublishedImage,
    RowError,
    background_first,
)
from vilbert.pipeline.rebuild.formats.registry import ImportOptions
from vilbert.untrusted.pickled_arrays import load_npy
from vilbert.untrusted.pickles import ForbiddenError

_SUFFIX = ".npy"


class Importer:
    """Reads folders of vilbert-multi-task's files."""

    def detect(self, path: Path) -> bool:
        """Return whether a folder's first .npy file is a pickled mapping with boxes and features."""
        found = first_file(path, _is_features) if path.is_dir() else None
        try:
            value = None if found is None else load_npy(read_file(found, found.name))
        except ForbiddenError:
            return True  # opening it names what its pickle asks for
        except (ValueError, RowError):
            return False
        return isinstance(value, dict) and {"bbox", "features"} <= value.keys()

    def open(self, path: Path, options: ImportOptions) -> ImportedSource:
        """Open a folder; see `registry.Importer`."""
        parse = partial(_parse, options.background or "first")
        reader = NamedReader(FolderFiles(path, _is_features), parse, partial(file_stem, suffix=_SUFFIX))
        return ImportedSource("vilbert-npy", path, reader, options)


def _is_features(name: str) -> bool:
    return name.endswith(_SUFFIX)


def _parse(background: Background, image_id: str, data: bytes) -> PublishedImage:
    fields = require_mapping(load_npy(data))
    probs = take_array(fields, "cls_prob")
    return PublishedImage(
        image_id=image_id,
        features=require_array(fields, "features"),
        boxes=require_array(fields, "bbox"),
        width=take_number(fields, "image_width"),
        height=take_number(fields, "image_height"),
        class_probs=None if probs is None else background_first(probs, background),
    )
