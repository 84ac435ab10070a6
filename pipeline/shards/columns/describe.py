"""The columns of a data set as JSON values and as lines of text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vilbert.pipeline.shards.columns.info import read_column
from vilbert.pipeline.shards.columns.layout import column_folder, column_names
from vilbert.pipeline.shards.columns.shard import ColumnShard
from vilbert.pipeline.shards.dataset import DatasetInfo, read_info
from vilbert.pipeline.shards.location.folder import Folder
from vilbert.pipeline.shards.location.layout import DATASET_FILE, data_path
from vilbert.pipeline.terminal import counted


def describe_columns(folder: Folder, info: DatasetInfo) -> list[dict[str, Any]]:
    """Return what the columns of a data set hold, as JSON values."""
    return [_describe(column_folder(folder, name), name, info) for name in column_names(folder)]


def _describe(column: Folder, name: str, base: DatasetInfo) -> dict[str, Any]:
    found = read_column(column)
    if found is not None:
        kind = "JSON" if found.shape is None else f"{found.dtype} {_shape(found.shape)}"
        return {
            "name": name,
            "values": kind,
            "samples": found.samples,
            "missing": found.missing,
            "bytes": found.bytes,
            "state": "complete" if found.base == base.records_sha256 else "of an older state of the data set",
            "fingerprint": found.fingerprint,
        }
    if column.read(DATASET_FILE) is None:
        return {"name": name, "values": "", "samples": 0, "missing": 0, "bytes": 0, "state": "incomplete"}
    regions = read_info(column)
    return {
        "name": name,
        "values": f"regions, {regions.feature_dim} channels",
        "samples": regions.totals.samples,
        "missing": sum(regions.totals.failures.values()),
        "bytes": regions.totals.bytes,
        "state": "complete" if regions.complete else "incomplete",
        "fingerprint": regions.fingerprint,
    }


def values_of_sample(folder: Folder, shard: int, key: str) -> dict[str, Any]:
    """Return what the finished columns hold of a sample, by name: JSON values, arrays as dtype, shape and bounds."""
    values: dict[str, Any] = {}
    for name in column_names(folder):
        column = column_folder(folder, name)
        if (found := read_column(column)) is None:
            continue
        file = data_path(Path(), shard, "tar").as_posix()
        with column.local([file]) as directory, ColumnShard(directory / file, name=name, member=found.member) as opened:
            if key in opened:
                value = opened[key]
                values[name] = describe_array(value) if isinstance(value, np.ndarray) else value
    return values


def describe_array(array: NDArray[Any]) -> str:
    """Return dtype, shape and bounds of an array."""
    bounds = f" {array.min():.6g} to {array.max():.6g}" if array.size else ""
    return f"{array.dtype} {list(array.shape)}{bounds}"


def column_line(document: Mapping[str, Any]) -> str:
    """Return the text of one column."""
    missing = f", {document['missing']:,} without one" if document["missing"] else ""
    return (
        f"{document['name']}: {document['values'] or 'unknown values'}, {counted(document['samples'], 'sample')}"
        f"{missing}, {document['bytes']:,} bytes, {document['state']}"
    )


def _shape(shape: tuple[int | str | None, ...]) -> str:
    return f"[{', '.join('?' if side is None else str(side) for side in shape)}]"
