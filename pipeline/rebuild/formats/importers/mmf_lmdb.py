"""MMF's LMDB: a pickled mapping of features and of the fields of `_info.npy` per image."""

from __future__ import annotations

from pathlib import Path

from vilbert.pipeline.rebuild.formats.importers.imported_source import ImportedSource
from vilbert.pipeline.rebuild.formats.importers.lmdb_values import LmdbRows, open_lmdb
from vilbert.pipeline.rebuild.formats.importers.mapping_fields import require_array, require_mapping
from vilbert.pipeline.rebuild.formats.importers.mmf_info import mmf_image
from vilbert.pipeline.rebuild.formats.importers.pickled_keys import KEYS, read_pickled_keys
from vilbert.pipeline.rebuild.formats.importers.published_image import Background, Head, PublishedImage, RowError
from vilbert.pipeline.rebuild.formats.importers.vilbert_lmdb import first_mapping
from vilbert.pipeline.rebuild.formats.registry import ImportOptions
from vilbert.untrusted.pickled_arrays import load_arrays


class Importer:
    """Reads MMF's LMDB."""

    def detect(self, path: Path) -> bool:
        """Return whether the first value is a pickled mapping as `lmdb_conversion.py` makes it."""
        fields = first_mapping(path)
        return fields is not None and {"features", "feature_path"} <= fields.keys()

    def open(self, path: Path, options: ImportOptions) -> ImportedSource:
        """Open an environment; see `registry.Importer`."""
        rows = LmdbRows(open_lmdb(path), read_pickled_keys, (KEYS,))
        return ImportedSource("mmf-lmdb", path, _Reader(rows, options.background), options)


class _Reader:
    def __init__(self, rows: LmdbRows, background: Background | None) -> None:
        self._rows, self._background = rows, background

    def __len__(self) -> int:
        return len(self._rows)

    def content(self, row: int) -> bytes:
        return self._rows.value(row)

    def head(self, row: int) -> Head:
        return Head(image_id=self._rows.key(row).decode("utf-8", "backslashreplace"))

    def image(self, row: int) -> PublishedImage:
        image_id = self.head(row).image_id
        try:
            fields = require_mapping(load_arrays(self._rows.value(row)))
            return mmf_image(image_id, require_array(fields, "features"), fields, self._background)
        except RowError as error:
            raise RowError(error.reason, str(error), error.image_id or image_id) from error

    def close(self) -> None:
        self._rows.close()
