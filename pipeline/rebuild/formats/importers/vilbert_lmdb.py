"""ViLBERT's task LMDB: a pickled mapping per image, in both variants.

vilbert_beta pickled the columns of a TSV as strings (arrays in base64), vilbert-multi-task pickled arrays.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.rebuild.formats.importers.bottom_up_tsv import parse_fields, unquoted
from vilbert.pipeline.rebuild.formats.importers.imported_source import ImportedSource
from vilbert.pipeline.rebuild.formats.importers.lmdb_values import LmdbRows, is_lmdb, open_lmdb
from vilbert.pipeline.rebuild.formats.importers.mapping_fields import (
    require_array,
    require_mapping,
    take_array,
    take_column,
    take_number,
)
from vilbert.pipeline.rebuild.formats.importers.named_rows import NamedReader
from vilbert.pipeline.rebuild.formats.importers.pickled_keys import KEYS, is_pickle, read_pickled_keys
from vilbert.pipeline.rebuild.formats.importers.published_image import (
    Background,
    PublishedImage,
    RowError,
    background_first,
    foreground_ids,
)
from vilbert.pipeline.rebuild.formats.registry import ImportOptions
from vilbert.untrusted.pickled_arrays import load_arrays
from vilbert.untrusted.pickles import ForbiddenError, PickleError

_TEXTS = ("image_w", "image_h", "num_boxes", "boxes", "features", "cls_prob")
_ALIASES = {"img_id": "image_id", "img_w": "image_w", "img_h": "image_h"}  # of volta


class Importer:
    """Reads ViLBERT's task LMDB."""

    def detect(self, path: Path) -> bool:
        """Return whether the first value is a pickled mapping with boxes and features, or a hostile pickle.

        Opening a hostile file raises an error that names the forbidden object.
        """
        try:
            fields = first_mapping(path)
        except ForbiddenError:
            return True
        return fields is not None and {"boxes", "features"} <= fields.keys()

    def open(self, path: Path, options: ImportOptions) -> ImportedSource:
        """Open an environment; see `registry.Importer`."""
        rows = LmdbRows(open_lmdb(path), read_pickled_keys, (KEYS,))
        reader = NamedReader(rows, partial(_parse, options.background or "none"))
        return ImportedSource("vilbert-lmdb", path, reader, options)


def first_mapping(path: Path) -> dict[Any, Any] | None:
    """Return the first value of an LMDB of pickled mappings, None for any other file.

    Raises:
        ForbiddenError: The value is a hostile pickle.
    """
    try:
        if not is_lmdb(path):
            return None
        file = open_lmdb(path)
    except (OSError, ShardError):
        return None
    try:
        found = file.first((KEYS,))
        if found is None or not is_pickle(found[1]):
            return None
        return require_mapping(load_arrays(found[1]))
    except ForbiddenError:
        raise
    except (PickleError, RowError):
        return None
    finally:
        file.close()


def _parse(background: Background, image_id: str, data: bytes) -> PublishedImage:
    """Return an image. Its id is the key, as in ViLBERT's reader; volta's values contain another id."""
    fields = require_mapping(load_arrays(data))
    fields = {_ALIASES.get(name, name): value for name, value in fields.items()}
    if isinstance(fields.get("features"), (str, bytes)):
        return parse_fields({**_encoded(fields), "image_id": image_id.encode()}, background)
    return _of_arrays(fields, image_id, background)


def _encoded(fields: Mapping[str, Any]) -> dict[str, bytes]:
    """Return strings and numbers as the bytes of TSV columns, for `parse_fields`."""
    encoded: dict[str, bytes] = {}
    for name, value in fields.items():
        if type(value) is int:
            encoded[name] = str(value).encode()
        elif isinstance(value, str):
            encoded[name] = unquoted(value.encode("utf-8", "replace"))
        elif isinstance(value, bytes):
            encoded[name] = unquoted(value)
    missing = [name for name in _TEXTS[:-1] if name not in encoded]
    if missing:
        raise RowError("broken_row", f"has no {', '.join(missing)}")
    return encoded


def _of_arrays(fields: Mapping[str, Any], image_id: str, background: Background) -> PublishedImage:
    probs, object_ids = take_array(fields, "cls_prob"), take_column(fields, "objects_id")
    return PublishedImage(
        image_id=image_id,
        features=require_array(fields, "features"),
        boxes=require_array(fields, "boxes"),
        width=take_number(fields, "image_w"),
        height=take_number(fields, "image_h"),
        object_ids=None if object_ids is None else foreground_ids(object_ids, background),
        object_scores=take_column(fields, "objects_conf"),
        class_probs=None if probs is None else background_first(probs, "first" if background == "none" else background),
        attribute_ids=take_column(fields, "attrs_id"),
        attribute_scores=take_column(fields, "attrs_conf"),
    )
