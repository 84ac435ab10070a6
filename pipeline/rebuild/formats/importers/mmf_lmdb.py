"""MMF's LMDB: a pickled mapping of features and of the fields of `_info.npy` per image."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from vilbert.pipeline.rebuild.formats.importers.imported_source import ImportedSource
from vilbert.pipeline.rebuild.formats.importers.lmdb_values import LmdbRows, open_lmdb
from vilbert.pipeline.rebuild.formats.importers.mapping_fields import require_array, require_mapping
from vilbert.pipeline.rebuild.formats.importers.mmf_info import mmf_image
from vilbert.pipeline.rebuild.formats.importers.named_rows import NamedReader
from vilbert.pipeline.rebuild.formats.importers.pickled_keys import KEYS, read_pickled_keys
from vilbert.pipeline.rebuild.formats.importers.published_image import Background, PublishedImage
from vilbert.pipeline.rebuild.formats.importers.vilbert_lmdb import first_mapping
from vilbert.pipeline.rebuild.formats.registry import ImportOptions
from vilbert.untrusted.pickled_arrays import load_arrays
from vilbert.untrusted.pickles import ForbiddenError


class Importer:
    """Reads MMF's LMDB."""

    def detect(self, path: Path) -> bool:
        """Return whether the first value is a pickled mapping of `lmdb_conversion.py`."""
        try:
            fields = first_mapping(path)
        except ForbiddenError:
            return False
        return fields is not None and {"features", "feature_path"} <= fields.keys()

    def open(self, path: Path, options: ImportOptions) -> ImportedSource:
        """Open an environment; see `registry.Importer`."""
        rows = LmdbRows(open_lmdb(path), read_pickled_keys, (KEYS,))
        return ImportedSource("mmf-lmdb", path, NamedReader(rows, partial(_parse, options.background)), options)


def _parse(background: Background | None, image_id: str, data: bytes) -> PublishedImage:
    fields = require_mapping(load_arrays(data))
    return mmf_image(image_id, require_array(fields, "features"), fields, background)
