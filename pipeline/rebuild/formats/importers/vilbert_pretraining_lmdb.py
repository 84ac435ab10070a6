"""ViLBERT's pre-training LMDB: tensorpack's `LMDBSerializer` with MessagePack, one value per image, with its caption.

A value is the list features, cls_prob, boxes, num_boxes, image_h, image_w, image_id, caption. volta's values are
mappings of named arrays. By default, tensorpack serialises with pyarrow; current pyarrow cannot read that.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.rebuild.formats.importers.folder_files import only_inside
from vilbert.pipeline.rebuild.formats.importers.imported_source import ImportedSource
from vilbert.pipeline.rebuild.formats.importers.lmdb_values import LmdbFile, LmdbRows, is_lmdb, open_lmdb
from vilbert.pipeline.rebuild.formats.importers.mapping_fields import (
    require_array,
    require_mapping,
    take_array,
    take_column,
    take_number,
    take_text,
)
from vilbert.pipeline.rebuild.formats.importers.published_image import (
    Background,
    Head,
    PublishedImage,
    RowError,
    background_first,
    foreground_ids,
)
from vilbert.pipeline.rebuild.formats.registry import ImportOptions
from vilbert.untrusted.msgpack_arrays import MessageError, load_msgpack

KEYS = b"__keys__"
COLUMNS = ("features", "cls_prob", "boxes", "num_boxes", "image_h", "image_w", "image_id", "caption")
_ALIASES = {"img_id": "image_id", "img_h": "image_h", "img_w": "image_w"}


class Importer:
    """Reads ViLBERT's pre-training LMDB."""

    def detect(self, path: Path) -> bool:
        """Return whether an LMDB has tensorpack's list of keys, in any serialisation."""
        try:
            path = _environment(path)
            if not is_lmdb(path):
                return False
            file = open_lmdb(path)
        except (OSError, ShardError):
            return False
        try:
            keys = file.get(KEYS)
            return keys is not None and keys[:1] != b"["  # UNITER's is JSON
        except RowError:
            return False
        finally:
            file.close()

    def open(self, path: Path, options: ImportOptions) -> ImportedSource:
        """Open an environment; see `registry.Importer`."""
        rows = LmdbRows(open_lmdb(_environment(path)), _listed, (KEYS,))
        return ImportedSource("vilbert-pretraining-lmdb", path, _Reader(rows, options.background or "none"), options)


def _environment(path: Path) -> Path:
    """Return the LMDB file of a folder that also contains the captions."""
    return path if is_lmdb(path) else only_inside(path, "*.lmdb")


def _listed(file: LmdbFile) -> list[bytes] | None:
    try:
        value = file.get(KEYS)
        if value is None:
            return None
        keys = load_msgpack(value)
    except (MessageError, RowError) as error:
        raise ShardError(
            f"{file.path}: its list of keys {error}. If tensorpack wrote it with pyarrow, its default, only "
            "a pyarrow of that time can read it: write it again with TENSORPACK_SERIALIZE=msgpack"
        ) from error
    if not isinstance(keys, list) or not all(isinstance(key, (bytes, str)) for key in keys):
        raise ShardError(f"{file.path}: its value under '__keys__' is not a list of keys")
    return [key if isinstance(key, bytes) else key.encode() for key in keys]


class _Reader:
    def __init__(self, rows: LmdbRows, background: Background) -> None:
        self._rows, self._background = rows, background

    def __len__(self) -> int:
        return len(self._rows)

    def content(self, row: int) -> bytes:
        return b"%s\0%s" % (self._rows.key(row), self._rows.read(row))

    def _fields(self, row: int) -> tuple[dict[str, Any], str]:
        fields = _named(load_msgpack(self._rows.read(row)))
        image_id = take_text(fields, "image_id")
        if image_id is None:
            raise RowError("broken_row", "has no image_id")
        return fields, image_id

    def head(self, row: int) -> Head:
        fields, image_id = self._fields(row)
        return Head(
            image_id=image_id,
            width=take_number(fields, "image_w"),
            height=take_number(fields, "image_h"),
            regions=take_number(fields, "num_boxes"),
            meta=_meta(fields),
        )

    def image(self, row: int) -> PublishedImage:
        fields, image_id = self._fields(row)
        try:
            return self._of(fields, image_id)
        except RowError as error:
            raise RowError(error.reason, str(error), image_id) from error

    def _of(self, fields: Mapping[str, Any], image_id: str) -> PublishedImage:
        features, boxes, probs = require_array(fields, "features"), require_array(fields, "boxes"), None
        count = take_number(fields, "num_boxes")
        count = len(features) if count is None else count
        if not 0 <= count <= len(features):
            raise RowError("broken_row", f"num_boxes is {count:,}, and there are {len(features)} features")
        if (stored := take_array(fields, "cls_prob")) is not None:
            first = "first" if self._background == "none" else self._background
            probs = background_first(stored[:count], first)
        objects, scores = take_column(fields, "obj_id"), take_column(fields, "obj_conf")
        attributes, attribute_scores = take_column(fields, "attr_id"), take_column(fields, "attr_conf")
        return PublishedImage(
            image_id=image_id,
            features=features[:count],
            boxes=boxes[:count],
            width=take_number(fields, "image_w"),
            height=take_number(fields, "image_h"),
            object_ids=None if objects is None else foreground_ids(objects[:count], self._background),
            object_scores=None if scores is None else scores[:count],
            class_probs=probs,
            attribute_ids=None if attributes is None else attributes[:count],
            attribute_scores=None if attribute_scores is None else attribute_scores[:count],
            meta=_meta(fields),
        )

    def close(self) -> None:
        self._rows.close()


def _meta(fields: Mapping[str, Any]) -> dict[str, Any]:
    caption = take_text(fields, "caption")
    return {} if caption is None else {"captions": [caption]}


def _named(value: object) -> dict[str, Any]:
    """Return the fields of a value by name."""
    if isinstance(value, list):
        if not len(COLUMNS) - 1 <= len(value) <= len(COLUMNS):
            raise RowError("broken_row", f"holds a list of {len(value)} values, expected {', '.join(COLUMNS)}")
        return dict(zip(COLUMNS, value, strict=False))
    return {_ALIASES.get(name, name): part for name, part in require_mapping(value).items()}
