"""Arrow files of the LXMERT example of transformers: Faster R-CNN outputs padded to a number of regions.

Boxes are fractions of the image size, `sizes` is height and width, ids count foreground classes and attributes from 0.
`img_id` is an int32, so the upper bits of ids such as those of Conceptual Captions may be lost in the file.
"""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vilbert.manifests.regular_file import open_regular, require_regular
from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.rebuild.formats.importers.folder_files import only_inside
from vilbert.pipeline.rebuild.formats.importers.imported_source import ImportedSource
from vilbert.pipeline.rebuild.formats.importers.published_image import (
    Background,
    PublishedImage,
    RowError,
    foreground_ids,
)
from vilbert.pipeline.rebuild.formats.registry import ImportOptions

_REQUIRED = {"boxes", "roi_features", "img_id", "sizes"}
_READ = {*_REQUIRED, "obj_ids", "obj_probs", "attr_ids", "attr_probs", "preds_per_image"}
_MAX_ID = 1 << 16
_STREAM, _FILE = b"\xff\xff\xff\xff", b"ARROW1"


class Importer:
    """Reads Arrow files of transformers' frcnn."""

    def detect(self, path: Path) -> bool:
        """Return whether an Arrow stream or file has the columns of the example."""
        import pyarrow as pa

        path = only_inside(path, "*.arrow")
        try:
            if not path.is_file():
                return False
            with open(path, "rb", opener=open_regular) as file:
                head = file.read(8)
                if not head.startswith((_STREAM, _FILE)):
                    return False
            with pa.memory_map(str(path)) as mapped:
                return set(_open(mapped, head).schema.names) >= _REQUIRED
        except (OSError, ValueError, pa.ArrowException):  # ValueError: a name that is not UTF-8
            return False

    def open(self, path: Path, options: ImportOptions) -> ImportedSource:
        """Open a file; see `registry.Importer`."""
        return ImportedSource(
            "frcnn-arrow", path, _Reader(only_inside(path, "*.arrow"), options.background or "none"), options
        )


def _open(mapped: Any, head: bytes) -> Any:
    import pyarrow as pa

    return pa.ipc.open_file(mapped) if head.startswith(_FILE) else pa.ipc.open_stream(mapped)


class _Reader:
    def __init__(self, path: Path, background: Background) -> None:
        import pyarrow as pa

        self._background = background
        try:
            require_regular(path)
            self._mapped = pa.memory_map(str(path))
            head = self._mapped.read(8)
            self._mapped.seek(0)
            # Batches are views of the mapped file: what is not read takes no memory.
            table = _open(self._mapped, head).read_all()
            missing = sorted(_REQUIRED - set(table.column_names))
        except (pa.ArrowException, OSError, ValueError) as error:
            reason = str(error).partition("\n")[0][:200]
            raise ShardError(f"{path}: not an Arrow file, or truncated ({reason}): download it again") from error
        if missing:
            raise ShardError(f"{path}: lacks the columns {', '.join(missing)}")
        self._batches = [batch for batch in table.to_batches() if batch.num_rows]
        self._ends = np.array(list(accumulate(batch.num_rows for batch in self._batches)), np.int64)
        self._checked: set[int] = set()

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def _row(self, row: int) -> dict[str, Any]:
        """Return the values of a row by column; a batch's offsets are checked before they are used."""
        import pyarrow as pa

        number = int(self._ends.searchsorted(row, side="right"))
        batch = self._batches[number]
        try:
            if number not in self._checked:
                batch.validate(full=True)
                self._checked.add(number)
        except pa.ArrowException as error:
            raise RowError("broken_row", f"its record batch is damaged: {str(error)[:200]}") from error
        at = row - (int(self._ends[number]) - batch.num_rows)
        return {name: batch.column(name)[at] for name in batch.schema.names}

    def content(self, row: int) -> bytes:
        values = self._row(row)
        return b"".join(_array(values, name).tobytes() for name in sorted(_READ & values.keys()))

    def head(self, row: int) -> None:
        return None

    def image(self, row: int) -> PublishedImage:
        values = self._row(row)
        image_id = str(values["img_id"].as_py())
        try:
            return self._of(values, image_id)
        except RowError as error:
            raise RowError(error.reason, str(error), image_id) from error

    def _of(self, values: dict[str, Any], image_id: str) -> PublishedImage:
        features, sizes = _array(values, "roi_features"), _array(values, "sizes")
        if features.ndim != 2 or sizes.shape != (2,) or not np.isfinite(sizes).all():
            raise RowError("broken_row", f"roi_features are {list(features.shape)}, sizes {list(sizes.shape)}")
        count = values["preds_per_image"].as_py() if "preds_per_image" in values else len(features)
        if type(count) is not int or not 0 <= count <= len(features):
            raise RowError("broken_row", f"preds_per_image is {count!r}, and there are {len(features)} features")
        objects, attributes = (_whole(values, name, count) for name in ("obj_ids", "attr_ids"))
        scores, attribute_scores = (
            _array(values, name)[:count] if name in values else None for name in ("obj_probs", "attr_probs")
        )
        return PublishedImage(
            image_id=image_id,
            features=features[:count],
            boxes=_array(values, "boxes")[:count],
            boxes_are_shares=True,
            width=round(float(sizes[1])),
            height=round(float(sizes[0])),
            object_ids=None if objects is None else foreground_ids(objects, self._background),
            object_scores=scores,
            attribute_ids=attributes,
            attribute_scores=attribute_scores,
        )

    def close(self) -> None:
        self._batches = []
        self._mapped.close()


def _array(values: dict[str, Any], name: str) -> NDArray[Any]:
    """Return a column's value, a number or lists of numbers, as an array."""
    import pyarrow as pa
    import pyarrow.compute as pc

    value = values[name]
    if isinstance(value, pa.ExtensionScalar):  # an Array2D, where the library datasets is imported
        value = value.value
    if not isinstance(value, pa.ListScalar):
        return np.asarray(value.as_py())
    inner = value.values
    if inner is None:
        raise RowError("broken_row", f"has no {name}")
    shape = [len(inner)]
    while isinstance(inner, (pa.ListArray, pa.LargeListArray, pa.FixedSizeListArray)):
        lengths = pc.min_max(pc.list_value_length(inner)).as_py()
        if inner.null_count or lengths["min"] != lengths["max"]:
            raise RowError("broken_row", f"{name} has lists of different lengths")
        shape.append(lengths["max"] or 0)
        inner = inner.flatten()
    if inner.null_count or not (pa.types.is_floating(inner.type) or pa.types.is_integer(inner.type)):
        raise RowError("broken_row", f"{name} does not hold only numbers")
    array: NDArray[Any] = inner.to_numpy(zero_copy_only=False)
    return array.reshape(shape)


def _whole(values: dict[str, Any], name: str, count: int) -> NDArray[np.int64] | None:
    """Return a column of ids as integers; the example writes them as floats."""
    if name not in values:
        return None
    array = _array(values, name)[:count]
    if array.dtype.kind == "f" and not ((np.abs(array) < _MAX_ID) & (array == np.round(array))).all():
        raise RowError("broken_row", f"{name} are not integers")
    return array.astype(np.int64)
