"""UNITER's LMDB: arrays per image in float16, as MessagePack or as a compressed .npz.

Boxes are fractions of the image size, so sizes must come from elsewhere. `soft_labels` has all classes, the background
first; objects are its best classes. `conf`, by which boxes were selected, cannot be stored in a data set.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.rebuild.formats.importers.folder_files import only_inside
from vilbert.pipeline.rebuild.formats.importers.imported_source import ImportedSource
from vilbert.pipeline.rebuild.formats.importers.lmdb_values import LmdbFile, LmdbRows, data_file, is_lmdb, open_lmdb
from vilbert.pipeline.rebuild.formats.importers.mapping_fields import require_array, require_mapping, take_array
from vilbert.pipeline.rebuild.formats.importers.named_rows import NamedReader
from vilbert.pipeline.rebuild.formats.importers.published_image import (
    Background,
    PublishedImage,
    RowError,
    background_first,
)
from vilbert.pipeline.rebuild.formats.registry import ImportOptions
from vilbert.untrusted.documents import DocumentError, parse_json, read_json
from vilbert.untrusted.msgpack_arrays import load_msgpack
from vilbert.untrusted.npz_files import load_npz

KEYS = b"__keys__"
_ZIP = b"PK\x03\x04"
_PHANTOM = ("allow_pickle",)
"""Name of an array that UNITER's script stores by passing an unknown argument to `savez`."""


class Importer:
    """Reads UNITER's LMDB."""

    def detect(self, path: Path) -> bool:
        """Return whether the first value has features and `norm_bb`."""
        try:
            path = _environment(path)
            if not is_lmdb(path):
                return False
            file = open_lmdb(path)
        except (OSError, ShardError):
            return False
        try:
            found = file.first((KEYS,))
            return found is not None and {"features", "norm_bb"} <= _fields(found[1]).keys()
        except (ValueError, RowError):
            return False
        finally:
            file.close()

    def open(self, path: Path, options: ImportOptions) -> ImportedSource:
        """Open an environment; see `registry.Importer`."""
        if options.image_sizes is None:
            raise ShardError(
                f"{path}: uniter-lmdb stores boxes as fractions of the image and no sizes: give a manifest of the "
                "images with --image-sizes"
            )
        environment = _environment(path)
        rows = LmdbRows(open_lmdb(environment), _listed, (KEYS,))
        try:
            counts = _counts(environment, rows)
        except BaseException:
            rows.close()
            raise
        return ImportedSource("uniter-lmdb", path, _Reader(rows, counts, options.background or "first"), options)


def _environment(path: Path) -> Path:
    """Return the environment in the folder of a split, beside `nbb_*.json`."""
    return path if is_lmdb(path) else only_inside(path, "feat_*", "all", "all_compressed")


def _listed(file: LmdbFile) -> list[bytes] | None:
    value = file.get(KEYS)
    if value is None:
        return None
    try:
        keys = parse_json(value)
    except DocumentError as error:
        raise ShardError(f"{file.path}: its list of keys is {error}") from error
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ShardError(f"{file.path}: its value under '__keys__' is not a list of names")
    return [key.encode() for key in keys]


def _counts(path: Path, rows: LmdbRows) -> NDArray[np.int32] | None:
    """Return the number of boxes of each row in `nbb_*.json` beside the environment, -1 if it has no entry."""
    folder = data_file(path).parent
    match = re.fullmatch(r"feat_(.+?)(?:_compressed)?", folder.name)
    file = folder.parent / f"nbb_{match[1]}.json" if match else None
    if file is None or not file.is_file():
        return None
    try:
        counts = read_json(file)
    except (DocumentError, OSError) as error:
        raise ShardError(f"{file}: {error}") from error
    if not isinstance(counts, dict):
        raise ShardError(f"{file}: is not a mapping of names to numbers of boxes")
    found = (counts.get(rows.key(row).decode("utf-8", "replace"), -1) for row in range(len(rows)))
    try:
        return np.fromiter((count if type(count) is int else -2 for count in found), np.int32, len(rows))
    except OverflowError:
        raise ShardError(f"{file}: holds a number of boxes that is too large") from None


def _fields(value: bytes) -> dict[Any, Any]:
    return require_mapping(load_npz(value, skip=_PHANTOM) if value.startswith(_ZIP) else load_msgpack(value))


class _Reader(NamedReader):
    """Values whose number of boxes may be limited by `nbb_*.json`."""

    def __init__(self, rows: LmdbRows, counts: NDArray[np.int32] | None, background: Background) -> None:
        super().__init__(rows, image_id=lambda name: name.removesuffix(".npz"))
        self._counts, self._background = counts, background

    def content(self, row: int) -> bytes:
        """Return key and value of a row, and its number of boxes."""
        count = b"" if self._counts is None else b"\0%d" % self._counts[row]
        return super().content(row) + count

    def parse(self, row: int, image_id: str) -> PublishedImage:
        """Return the image from the bytes of a row."""
        return self._of(_fields(self.rows.read(row)), image_id, row)

    def _of(self, fields: Mapping[str, Any], image_id: str, row: int) -> PublishedImage:
        features, boxes = require_array(fields, "features"), require_array(fields, "norm_bb")
        probs = take_array(fields, "soft_labels")
        if boxes.ndim != 2 or boxes.shape[1] not in (4, 6, 7):
            raise RowError("broken_row", f"norm_bb is {list(boxes.shape)}, expected [N, 6]")
        count = len(features) if self._counts is None or self._counts[row] == -1 else int(self._counts[row])
        if not 0 <= count <= len(features):
            raise RowError("broken_row", f"nbb says {count} boxes, and there are {len(features)} features")
        return PublishedImage(
            image_id=image_id,
            features=features[:count],
            boxes=boxes[:count, :4],
            boxes_are_shares=True,
            class_probs=None if probs is None else background_first(probs[:count], self._background),
        )
