"""The columns of an index: raw little-endian arrays in separate files, memory-mapped by the server.

Legend: N samples, P = N + 1, R regions, C captions, O classes and A attributes (two more: ids without a name, and the
end), S pairs of a sample and a score step that it has, B boxes shown.

`order_X` holds the numbers of all samples sorted by X, `rank_X` the place of each sample in it. A range of X is a slice
of `order_X`, found by bisection, and postings (`X_starts`, `X_samples`) hold the samples that have a value of X.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vilbert.pipeline.errors import ShardError

SHOWN_BOXES = 8
"""B, boxes drawn on a photograph of the grid, the best scores first."""
SCORE_STEPS = 100
"""Scores are indexed in steps of 0.01, rounded down."""
ABOVE_ALL = 2**8 - 1
"""Score step that stands for the lowest of no scores; the highest of none is 0, so steps are stored plus 1."""


class Column(NamedTuple):
    """One array of the index."""

    dtype: str
    axes: tuple[str | int, ...]
    """Letters of the legend, or numbers."""


SAMPLE_COLUMNS = {
    "boxes": Column("<u4", ("N",)),
    "width": Column("<u4", ("N",)),
    "height": Column("<u4", ("N",)),
    "split": Column("<u2", ("N",)),
    "captions": Column("<u4", ("N",)),
    "image_hash": Column("<u8", ("N",)),
    "present": Column("u1", ("N",)),
    "shown_boxes": Column("<u2", ("N", SHOWN_BOXES, 4)),
    "caption_starts": Column("<u8", ("P",)),
    "caption_words": Column("<u2", ("C",)),
    "longest": Column("<u2", ("N",)),
    "shortest": Column("<u2", ("N",)),
    "word_counts": Column("<u2", ("C",)),
    "word_samples": Column("<u4", ("C",)),
}
"""caption_words: of each caption, in the order of the samples. word_counts, word_samples: the same, sorted by words."""
OBJECT_COLUMNS = {
    "best_score": Column("u1", ("N",)),
    "worst_score": Column("u1", ("N",)),
    "score_steps": Column("<u8", ("N", 2)),
    "score_starts": Column("<u8", (SCORE_STEPS + 1,)),
    "score_samples": Column("<u4", ("S",)),
    "shown_objects": Column("<u2", ("N", SHOWN_BOXES)),
    "object_starts": Column("<u8", ("O",)),
    "object_samples": Column("<u4", ("R",)),
    "object_scores": Column("u1", ("R",)),
    "order_score": Column("<u4", ("N",)),
    "rank_score": Column("<u4", ("N",)),
    "order_worst_score": Column("<u4", ("N",)),
}
"""best_score, worst_score: step of the highest and the lowest object score plus 1; 0 and ABOVE_ALL without regions."""
ATTRIBUTE_COLUMNS = {
    "object_attributes": Column("<u2", ("R",)),
    "attribute_starts": Column("<u8", ("A",)),
    "attribute_samples": Column("<u4", ("R",)),
    "attribute_scores": Column("u1", ("R",)),
}
SORT_ORDERS = ("boxes", "size", "copies", "shuffled")
FILTER_ORDERS = ("split", "captions", "side", "longest", "shortest")
DERIVED_COLUMNS = {
    "copies": Column("<u4", ("N",)),
    **{f"order_{name}": Column("<u4", ("N",)) for name in (*SORT_ORDERS, *FILTER_ORDERS)},
    **{f"rank_{name}": Column("<u4", ("N",)) for name in SORT_ORDERS},
}


def columns_of(*, objects: bool, attributes: bool) -> dict[str, Column]:
    """Return the columns of a data set's index; objects, attributes: whether its regions have these fields."""
    return {
        **SAMPLE_COLUMNS,
        **DERIVED_COLUMNS,
        **(OBJECT_COLUMNS if objects else {}),
        **(ATTRIBUTE_COLUMNS if objects and attributes else {}),
    }


def write_column(folder: Path, name: str, array: NDArray[Any]) -> None:
    """Write a column; the index is not complete before all of them are on the disk."""
    with (folder / f"{name}.bin").open("wb") as file:
        file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        file.flush()
        os.fsync(file.fileno())


def read_columns(folder: Path, columns: Mapping[str, Column], sizes: Mapping[str, int]) -> dict[str, NDArray[Any]]:
    """Return the columns of a folder, memory-mapped; ShardError if a file has not the size that it must have."""
    arrays: dict[str, NDArray[Any]] = {}
    for name, column in columns.items():
        shape = tuple(axis if isinstance(axis, int) else sizes[axis] for axis in column.axes)
        dtype, path = np.dtype(column.dtype), folder / f"{name}.bin"
        expected = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        try:
            found = path.stat().st_size
            if found != expected:
                raise ShardError(f"{path}: has {found:,} bytes, expected {expected:,}; delete {folder}")
            arrays[name] = np.memmap(path, dtype, "r", shape=shape) if expected else np.empty(shape, dtype)
        except OSError as error:
            raise ShardError(f"{path}: cannot be read ({error.strerror}); delete {folder}") from error
    return arrays
