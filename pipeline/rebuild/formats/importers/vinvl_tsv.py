"""VinVL's TSV: `features.tsv` of Oscar+ and `predictions.tsv` of scene_graph_benchmark, with the files beside them.

A feature of `features.tsv` ends in its box: x1, y1, x2, y2, width and height as fractions of the image size. These six
columns are removed. `PREFIX.hw.tsv` has the sizes of the images, `PREFIX.label.tsv` the names of the objects.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vilbert.manifests.regular_file import open_regular
from vilbert.pipeline.rebuild.formats.importers.folder_files import only_inside
from vilbert.pipeline.rebuild.formats.importers.imported_source import ImportedSource
from vilbert.pipeline.rebuild.formats.importers.line_offsets import Lines
from vilbert.pipeline.rebuild.formats.importers.mapping_fields import take_number
from vilbert.pipeline.rebuild.formats.importers.names import class_names
from vilbert.pipeline.rebuild.formats.importers.published_image import PublishedImage, RowError
from vilbert.pipeline.rebuild.formats.registry import ImportOptions
from vilbert.untrusted.documents import parse_json

_HEAD = 1 << 16
_BOX = 6
_MAX_BOXES = 10_000


class Importer:
    """Reads VinVL's TSV files."""

    def detect(self, path: Path) -> bool:
        """Return whether the first line is a key and JSON with features or objects, or a key, a number and base64."""
        try:
            path = _features_file(path)
            if not path.is_file():
                return False
            with open(path, "rb", opener=open_regular) as file:
                fields = file.read(_HEAD).split(b"\n", 1)[0].split(b"\t")
        except OSError:
            return False
        if len(fields) == 3:
            return fields[1].isdigit() and re.match(rb"[A-Za-z0-9+/]{32}", fields[2]) is not None
        head = fields[1][:_HEAD] if len(fields) == 2 else b""
        return head.lstrip().startswith(b"{") and (
            b'"num_boxes"' in head or b'"features"' in head or (b'"rect"' in head and b'"feature"' in head)
        )

    def open(self, path: Path, options: ImportOptions) -> ImportedSource:
        """Open a file; see `registry.Importer`."""
        return ImportedSource("vinvl-tsv", path, _Reader(_features_file(path), options), options)


def _features_file(path: Path) -> Path:
    """Return the file of features in a folder that also contains labels and sizes."""
    return only_inside(path, "*feature.tsv", "*features.tsv")


class _Reader:
    def __init__(self, path: Path, options: ImportOptions) -> None:
        names = () if options.class_names is None else class_names(options.class_names, 0)
        self._ids = {alias: number for number, name in enumerate(names) for alias in name.split(",")}
        self._lines = Lines(path, options.scratch)
        self._beside: dict[str, _Keyed] = {}
        try:
            for what in ("hw", "label"):
                if (file := _file_beside(path, what)) is not None:
                    self._beside[what] = _Keyed(file, options.scratch)
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self._lines)

    def content(self, row: int) -> bytes:
        return self._lines.line(row) + b"".join(file.line(row) or b"" for file in self._beside.values())

    def head(self, row: int) -> None:
        return None

    def image(self, row: int) -> PublishedImage:
        fields = self._lines.line(row).split(b"\t")
        image_id = fields[0].decode("utf-8", "backslashreplace").strip()
        try:
            sizes, labels = (self._value(what, row, fields[0]) for what in ("hw", "label"))
            if isinstance(sizes, list) and sizes:
                sizes = sizes[0]
            value = parse_json(fields[1]) if len(fields) == 2 else None
            objects = value.get("objects") if isinstance(value, dict) else None
            if isinstance(objects, list):
                return self._of_objects(image_id, objects, _first_size(sizes, value, labels))
            count, packed = _packed(fields, value)
            return self._of_features(image_id, count, packed, labels, _first_size(sizes, value, labels))
        except RowError as error:
            raise RowError(error.reason, str(error), image_id) from error
        except ValueError as error:
            raise RowError("broken_row", str(error), image_id) from error

    def _value(self, what: str, row: int, key: bytes) -> Any:
        """Return the value of a row in a companion file."""
        file = self._beside.get(what)
        line = None if file is None else file.line(row)
        if line is None:
            return None
        found, _, text = line.partition(b"\t")
        if found.strip() != key.strip():
            raise RowError("broken_row", f"line {row + 1} of the {what} file belongs to another image, {found[:80]!r}")
        return parse_json(text)

    def _of_features(
        self, image_id: str, count: int, packed: bytes, labels: Any, size: tuple[int | None, int | None]
    ) -> PublishedImage:
        features = _decode(packed)
        if not count or features.size % count or features.size // count <= _BOX:
            raise RowError("broken_row" if count else "no_regions", f"has {features.size:,} numbers for {count} boxes")
        features = features.reshape(count, -1)
        objects = labels.get("objects") if isinstance(labels, dict) else labels
        ids, scores = self._objects(objects if isinstance(objects, list) else [], count)
        return PublishedImage(
            image_id=image_id,
            features=features[:, :-_BOX],
            boxes=features[:, -_BOX:-2],
            boxes_are_shares=True,
            width=size[0],
            height=size[1],
            object_ids=ids,
            object_scores=scores,
        )

    def _of_objects(self, image_id: str, objects: Sequence[Any], size: tuple[int | None, int | None]) -> PublishedImage:
        if not objects:
            raise RowError("no_regions", "it has no regions")
        if not all(isinstance(one, dict) and isinstance(one.get("feature"), str) for one in objects):
            raise RowError("broken_row", "an object has no feature: set TEST.OUTPUT_FEATURE")
        ids, scores = self._objects(objects, len(objects))
        return PublishedImage(
            image_id=image_id,
            features=np.stack([_decode(one["feature"].encode()) for one in objects]),
            boxes=np.array([_rect(one) for one in objects], np.float64),
            width=size[0],
            height=size[1],
            object_ids=ids,
            object_scores=scores,
        )

    def _objects(self, objects: Sequence[Any], count: int) -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
        """Return ids [N] and scores [N] of the objects from their names; None without --class-names."""
        if not self._ids:
            return None, None
        if len(objects) != count:
            raise RowError("broken_row", f"{len(objects)} objects are named, and there are {count} features")
        ids, scores = [], []
        for one in objects:
            name, score = (one.get("class"), one.get("conf")) if isinstance(one, dict) else (None, None)
            if not isinstance(name, str) or name not in self._ids or type(score) not in (int, float):
                raise RowError("bad_classes", f"its object {name!r:.80} is not one of --class-names, or has no conf")
            ids.append(self._ids[name])
            scores.append(score)
        return np.array(ids, np.int64), np.array(scores, np.float32)

    def close(self) -> None:
        self._lines.close()
        for file in self._beside.values():
            file.close()


class _Keyed:
    """The lines of a companion file, in the order of the features."""

    def __init__(self, path: Path, scratch: Path | None) -> None:
        self._lines = Lines(path, scratch)
        self.close = self._lines.close

    def line(self, row: int) -> bytes | None:
        return self._lines.line(row) if row < len(self._lines) else None


def _file_beside(path: Path, what: str) -> Path | None:
    """Return `PREFIX.hw.tsv` of `PREFIX.feature.tsv` or `PREFIX.features.tsv`, and `hw.tsv` of `features.tsv`."""
    stem = path.name.removesuffix(".tsv").removesuffix("features").removesuffix("feature").removesuffix("predictions")
    names = {"hw": ("hw.tsv",), "label": ("label.tsv", "labels.tsv", "predictions.tsv")}[what]
    for name in names:
        found = path.with_name(f"{stem}{name}")
        if found.is_file() and found != path:
            return found
    return None


def _packed(fields: Sequence[bytes], value: Any) -> tuple[int, bytes]:
    """Return the number of boxes, and the features from base64."""
    if len(fields) == 3 and fields[1].strip().isdigit() and len(fields[1]) < 10:
        count, packed = int(fields[1]), fields[2]
    elif isinstance(value, dict) and isinstance(value.get("features"), str):
        number = take_number(value, "num_boxes")
        count, packed = -1 if number is None else number, value["features"].encode()
    else:
        raise RowError("broken_row", "has neither features nor objects")
    if not 0 <= count <= _MAX_BOXES:
        raise RowError("broken_row", f"num_boxes is {count:,}")
    return count, packed


def _decode(text: bytes) -> NDArray[np.float32]:
    try:
        data = binascii.a2b_base64(text.strip(), strict_mode=True)
    except binascii.Error as error:
        raise RowError("broken_row", f"features are not base64: {error}") from None
    if len(data) % 4:
        raise RowError("broken_row", f"features have {len(data):,} bytes, which float32 do not have")
    return np.frombuffer(data, "<f4")


def _rect(one: Mapping[str, Any]) -> list[float]:
    rect = one.get("rect")
    if not isinstance(rect, list) or len(rect) != 4 or not all(type(side) in (int, float) for side in rect):
        raise RowError("broken_row", f"rect is {rect!r:.80}, expected four numbers")
    return rect


def _first_size(*places: Any) -> tuple[int | None, int | None]:
    """Return the width and height that the first of several mappings has."""
    for place in places:
        for width, height in (("width", "height"), ("image_w", "image_h")):
            if isinstance(place, dict) and width in place and height in place:
                return take_number(place, width), take_number(place, height)
    return None, None
