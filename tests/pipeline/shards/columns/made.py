"""Columns of regions without a detector."""

from __future__ import annotations

from pathlib import Path

from vilbert.pipeline.shards.columns.energon import write_energon_files
from vilbert.pipeline.shards.columns.info import Boxes, describe_column, encode_column
from vilbert.pipeline.shards.dataset import read_dataset
from vilbert.pipeline.shards.location.folder import LocalFolder


def make_region_column(base: Path, regions: Path, name: str, *, boxes: Boxes = "own") -> Path:
    """Turn a data set into a column of one with the same keys, as `extract --add-to` leaves it; return its folder.

    Args:
        base: The data set that gets the column.
        regions: A complete data set of tar shards with the same rows; it is moved.
        name: Of the column.
        boxes: Whose boxes its regions are said to have.
    """
    target = base / "columns" / name
    target.parent.mkdir(exist_ok=True)
    regions.rename(target)
    column = describe_column(name, read_dataset(target), read_dataset(base), member="regions", boxes=boxes)
    write_energon_files(LocalFolder(target), column)
    (target / "column.json").write_bytes(encode_column(column))
    return target
