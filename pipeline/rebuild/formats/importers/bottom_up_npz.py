"""MILVLG's files: ID.npz per image, of MILVLG/bottom-up-attention.pytorch.

`info` is a pickled mapping with objects and attributes. In the released script, ids do not include background and "no
attribute"; in an early version they do (`--background first`).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from vilbert.pipeline.rebuild.formats.importers.folder_files import FolderFiles, first_file, read_file
from vilbert.pipeline.rebuild.formats.importers.imported_source import ImportedSource
from vilbert.pipeline.rebuild.formats.importers.mapping_fields import (
    require_array,
    require_mapping,
    take_column,
    take_number,
)
from vilbert.pipeline.rebuild.formats.importers.named_rows import NamedReader, file_stem
from vilbert.pipeline.rebuild.formats.importers.published_image import (
    Background,
    PublishedImage,
    RowError,
    foreground_ids,
)
from vilbert.pipeline.rebuild.formats.registry import ImportOptions
from vilbert.untrusted.npz_files import load_npz
from vilbert.untrusted.pickles import ForbiddenError

_SUFFIX = ".npz"


class Importer:
    """Reads folders of MILVLG's files."""

    def detect(self, path: Path) -> bool:
        """Return whether a folder's first .npz file has the arrays `x` and `bbox`."""
        found = first_file(path, _is_features) if path.is_dir() else None
        try:
            return found is not None and {"x", "bbox"} <= load_npz(read_file(found, found.name)).keys()
        except ForbiddenError:
            return True  # opening it names what its pickle asks for
        except (ValueError, RowError):
            return False

    def open(self, path: Path, options: ImportOptions) -> ImportedSource:
        """Open a folder; see `registry.Importer`."""
        parse = partial(_parse, options.background or "none")
        reader = NamedReader(FolderFiles(path, _is_features), parse, partial(file_stem, suffix=_SUFFIX))
        return ImportedSource("bottom-up-npz", path, reader, options)


def _is_features(name: str) -> bool:
    return name.endswith(_SUFFIX)


def _parse(background: Background, image_id: str, data: bytes) -> PublishedImage:
    arrays = load_npz(data)
    info = require_mapping(arrays.get("info", {}))
    objects = take_column(info, "objects_id")
    attributes = take_column(info, "attrs_id")
    if attributes is not None and background == "first":
        attributes = attributes - 1  # "no attribute" was counted, too
    return PublishedImage(
        image_id=image_id,
        features=require_array(arrays, "x"),
        boxes=require_array(arrays, "bbox"),
        width=take_number(arrays, "image_w"),
        height=take_number(arrays, "image_h"),
        object_ids=None if objects is None else foreground_ids(objects, background),
        object_scores=take_column(info, "objects_conf"),
        attribute_ids=attributes,
        attribute_scores=take_column(info, "attrs_conf"),
    )
