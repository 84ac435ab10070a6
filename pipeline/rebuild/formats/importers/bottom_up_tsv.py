"""Bottom-Up Attention TSV: one image per line, arrays in base64.

Written by `generate_tsv.py` of peteanderson80/bottom-up-attention and its forks. A file has no header; the number of
columns identifies the variant. Class ids count foreground classes from 0; class probabilities have the background
first.
"""

from __future__ import annotations

import binascii
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vilbert.manifests.regular_file import open_regular
from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.rebuild.formats.importers.imported_source import ImportedSource
from vilbert.pipeline.rebuild.formats.importers.line_offsets import Lines, is_gzip
from vilbert.pipeline.rebuild.formats.importers.published_image import (
    Background,
    Head,
    PublishedImage,
    RowError,
    background_first,
    foreground_ids,
)
from vilbert.pipeline.rebuild.formats.registry import ImportOptions

ORIGINAL = ("image_id", "image_w", "image_h", "num_boxes", "boxes", "features")
LXMERT = (
    *("img_id", "img_h", "img_w", "objects_id", "objects_conf", "attrs_id", "attrs_conf", "num_boxes", "boxes"),
    "features",
)
VARIANTS: dict[int, tuple[str, ...]] = {
    6: ORIGINAL,
    7: (*ORIGINAL, "cls_prob"),  # jiasenlu's fork, for ViLBERT
    10: LXMERT,
    13: (*LXMERT, "cls_prob", "attrs", "classes"),  # volta
}
_NAMES = {"img_id": "image_id", "img_w": "image_w", "img_h": "image_h"}
_MAX_BOXES = 10_000
_HEAD = 1 << 16
_TRIED = 20
"""Number of first lines of which one must be complete."""
_SMALL = 200
"""Maximum number of characters of an id or number."""


class Importer:
    """Reads Bottom-Up Attention TSV files, plain and .gz."""

    def detect(self, path: Path) -> bool:
        """Return whether the first line has the columns of a variant."""
        try:
            if not path.is_file():
                return False
            fields = _first_fields(path)
            names = _named(fields)
            if names is not None:
                return True
            columns = VARIANTS.get(len(fields)) or _truncated_variant(fields)
            if columns is None:
                return False
            values = dict(zip(columns, fields, strict=False))
            sizes = [values.get(name, b"1") for name in ("image_w", "image_h", "img_w", "img_h")]
            return all(unquoted(size).isdigit() for size in sizes)
        except (OSError, EOFError, ValueError, ShardError):
            return False

    def open(self, path: Path, options: ImportOptions) -> ImportedSource:
        """Open a file; see `registry.Importer`."""
        lines = Lines(path, options.scratch)
        try:
            reader = _Reader(path, lines, options.background or "none")
        except BaseException:
            lines.close()
            raise
        return ImportedSource("bottom-up-tsv", path, reader, options)


def _first_fields(path: Path) -> list[bytes]:
    """Return the columns in the first kilobytes of a file."""
    import gzip

    with open(path, "rb", opener=open_regular) as file:
        head = gzip.GzipFile(fileobj=file).read(_HEAD) if is_gzip(path) else file.read(_HEAD)
    return head.split(b"\n", 1)[0].rstrip(b"\r").split(b"\t")


def _truncated_variant(fields: Sequence[bytes]) -> tuple[str, ...] | None:
    """Return the variant of a first line that is longer than the part that was read, from its small columns."""
    if len(fields) in (5, 6) and all(unquoted(field).isdigit() for field in fields[1:4]):
        return ORIGINAL
    if len(fields) in (8, 9, 10) and all(unquoted(fields[at]).isdigit() for at in (1, 2, 7)):
        return LXMERT
    return None


def _named(fields: Sequence[bytes]) -> tuple[str, ...] | None:
    """Return the columns of a header line, None if it is not one."""
    known = {name for columns in VARIANTS.values() for name in columns}
    names = tuple(unquoted(field).decode("utf-8", "replace") for field in fields)
    if len(set(names) & known) < len(ORIGINAL) or len(set(names)) != len(names):
        return None
    return names


class _Reader:
    """The lines of a file as images."""

    def __init__(self, path: Path, lines: Lines, background: Background) -> None:
        self._lines, self._background = lines, background
        self._headings, self._columns = _columns(path, lines)

    def __len__(self) -> int:
        return len(self._lines) - self._headings

    def content(self, row: int) -> bytes:
        return self._lines.line(row + self._headings)

    def head(self, row: int) -> Head | None:
        fields = self._lines.head(row + self._headings, _HEAD).split(b"\t")[:-1]
        values = {_NAMES.get(name, name): unquoted(field) for name, field in zip(self._columns, fields, strict=False)}
        if not values.keys() >= {"image_id", "image_w", "image_h", "num_boxes"}:
            return None
        image_id = values["image_id"].decode("utf-8")
        width, height, count = (_number(values[name], name) for name in ("image_w", "image_h", "num_boxes"))
        return Head(image_id=image_id, width=width, height=height, regions=count)

    def image(self, row: int) -> PublishedImage:
        fields = self.content(row).split(b"\t")
        if len(fields) != len(self._columns):
            image_id = unquoted(fields[0])[:_SMALL].decode("utf-8", "replace")
            raise RowError(
                "broken_row", f"has {len(fields)} columns, the first complete line has {len(self._columns)}", image_id
            )
        values = {_NAMES.get(name, name): unquoted(field) for name, field in zip(self._columns, fields, strict=True)}
        return parse_fields(values, self._background)

    def close(self) -> None:
        self._lines.close()


def _columns(path: Path, lines: Lines) -> tuple[int, tuple[str, ...]]:
    """Return the number of header lines, and the columns: of the header, or of the first complete line.

    Raises:
        ShardError: None of the first lines has the columns of a variant.
    """
    counts = [len(lines.line(row).split(b"\t")) for row in range(min(len(lines), _TRIED))]
    if counts and (named := _named(lines.line(0).split(b"\t"))) is not None:
        return 1, named
    known = [count for count in counts if count in VARIANTS]
    if counts and not known:
        raise ShardError(
            f"{path}: its first line has {counts[0]} columns; the variants of this format have "
            f"{', '.join(map(str, VARIANTS))}"
        )
    return 0, VARIANTS[known[0]] if known else ORIGINAL


def unquoted(field: bytes) -> bytes:
    """Return a field without quoting: CSV's quotes, or Python 3's `b'…'`."""
    field = field.strip()
    if len(field) > 1 and field[:1] == field[-1:] == b'"':
        field = field[1:-1].replace(b'""', b'"')
    if len(field) > 2 and field[:1] == b"b" and field[1:2] == field[-1:] and field[-1:] in b"'\"":
        field = field[2:-1]
    return field


def parse_fields(values: Mapping[str, bytes], background: Background) -> PublishedImage:
    """Return the image from the columns of a row, by name; `cls_prob`, objects and attributes are optional.

    Raises:
        RowError: A column is invalid.
    """
    try:
        image_id = values["image_id"].decode("utf-8")
    except UnicodeDecodeError:
        raise RowError("broken_row", "its image id is not UTF-8") from None
    try:
        width, height, count = (_number(values[name], name) for name in ("image_w", "image_h", "num_boxes"))
        if count > _MAX_BOXES:
            raise RowError("broken_row", f"num_boxes is {count:,}")
        probs = _floats(values, "cls_prob", count)
        object_ids = _integers(values, "objects_id", count)
        features = _floats(values, "features", count)
        boxes = _boxes(values["boxes"], count)
    except RowError as error:
        raise RowError(error.reason, str(error), image_id) from None
    if features is None:
        raise RowError("no_regions", "it has no regions", image_id)
    return PublishedImage(
        image_id=image_id,
        features=features,
        boxes=boxes,
        width=width,
        height=height,
        object_ids=None if object_ids is None else foreground_ids(object_ids, background),
        object_scores=_column(values, "objects_conf", count),
        # The tools write ids of foreground classes beside probabilities of all classes.
        class_probs=None if probs is None else background_first(probs, "first" if background == "none" else background),
        attribute_ids=_integers(values, "attrs_id", count),
        attribute_scores=_column(values, "attrs_conf", count),
    )


def _number(field: bytes, name: str) -> int:
    if not field.isdigit() or len(field) > 10:
        raise RowError("broken_row", f"{name} is {field[:40]!r}, expected an integer")
    return int(field)


def _decode(field: bytes, name: str) -> bytes:
    try:
        return binascii.a2b_base64(field, strict_mode=True)
    except binascii.Error as error:
        raise RowError("broken_row", f"{name} is not base64: {error}") from None


def _boxes(field: bytes, count: int) -> NDArray[Any]:
    data = _decode(field, "boxes")
    for dtype in ("<f4", "<f8"):
        if len(data) == count * 4 * np.dtype(dtype).itemsize:
            return np.frombuffer(data, dtype).reshape(count, 4)
    raise RowError("broken_row", f"boxes have {len(data):,} bytes, expected {count * 16:,} for {count} boxes")


def _floats(values: Mapping[str, bytes], name: str, count: int) -> NDArray[np.float32] | None:
    """Return an array [count, columns]; None if the column is missing or there are no regions."""
    if not values.get(name) or not count:
        return None
    data = _decode(values[name], name)
    if not data or len(data) % (4 * count):
        raise RowError("broken_row", f"{name} have {len(data):,} bytes, which {count} regions of float32 do not have")
    return np.frombuffer(data, "<f4").reshape(count, -1)


def _column(values: Mapping[str, bytes], name: str, count: int) -> NDArray[np.float32] | None:
    array = _floats(values, name, count)
    if array is None:
        return None
    if array.shape[1] != 1:
        raise RowError("broken_row", f"{name} has {array.size:,} values for {count} regions")
    return array[:, 0]


def _integers(values: Mapping[str, bytes], name: str, count: int) -> NDArray[np.int64] | None:
    if not values.get(name):
        return None
    data = _decode(values[name], name)
    if len(data) != 8 * count:
        raise RowError("broken_row", f"{name} has {len(data):,} bytes, expected {8 * count:,} for {count} regions")
    return np.frombuffer(data, "<i8")
