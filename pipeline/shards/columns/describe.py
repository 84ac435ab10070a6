"""Describe the columns of a data set as JSON values and as lines of text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vilbert.pipeline.shards.columns.info import ColumnInfo, read_column
from vilbert.pipeline.shards.columns.layout import column_folder, column_names
from vilbert.pipeline.shards.columns.shard import open_column_shard
from vilbert.pipeline.shards.dataset import DatasetInfo, read_info
from vilbert.pipeline.shards.location.folder import Folder
from vilbert.pipeline.shards.location.layout import DATASET_FILE
from vilbert.pipeline.shards.sample import Sample
from vilbert.pipeline.terminal import counted

SUMMARISED_NAMES = 3
"""Number of objects in the description of a sample's regions."""


def describe_columns(folder: Folder, info: DatasetInfo) -> list[dict[str, Any]]:
    """Return descriptions of the columns of a data set as JSON values."""
    return [_describe(column_folder(folder, name), name, info) for name in column_names(folder)]


def _describe(column: Folder, name: str, base: DatasetInfo) -> dict[str, Any]:
    found = read_column(column)
    if found is not None:
        return {
            "name": name,
            "values": _values(found),
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
    """Return the values of a sample in the finished columns, by name; arrays as dtype, shape and bounds."""
    values: dict[str, Any] = {}
    for name in column_names(folder):
        column = column_folder(folder, name)
        if (found := read_column(column)) is None:
            continue
        with open_column_shard(column, found, shard) as opened:
            if key in opened:
                values[name] = _describe_value(found, opened[key])
    return values


def region_columns(folder: Folder) -> dict[str, ColumnInfo]:
    """Return the finished columns of regions, by name."""
    found = {name: read_column(column_folder(folder, name)) for name in column_names(folder)}
    return {name: info for name, info in found.items() if info is not None and info.regions is not None}


def with_regions(folder: Folder, column: ColumnInfo, shard: int, sample: Sample) -> Sample | None:
    """Return a sample of the data set with the regions from a column, or None if the column does not have it.

    Args:
        folder: The data set.
        column: One of `region_columns`.
        shard: The shard of the sample.
        sample: The sample, whose captions, metadata and image are kept.
    """
    with open_column_shard(column_folder(folder, column.name), column, shard) as opened:
        if sample.key not in opened:
            return None
        return replace(sample, regions=opened[sample.key].regions, small=None)


def _describe_value(column: ColumnInfo, value: Any) -> Any:
    if isinstance(value, Sample):
        return _describe_regions(column, value)
    return describe_array(value) if isinstance(value, np.ndarray) else value


def _describe_regions(column: ColumnInfo, sample: Sample) -> str:
    """Return number and fields of a sample's regions, and its objects with the highest scores."""
    regions = sample.regions
    text = f"{counted(len(regions), 'region')}: {', '.join(regions.arrays())}"
    if regions.object_ids is None or regions.object_scores is None:
        return text
    best = np.argsort(-regions.object_scores, kind="stable")[:SUMMARISED_NAMES].tolist()
    names = column.regions.class_names if column.regions is not None else ()
    ids = [int(regions.object_ids[number]) for number in best]
    named = [names[one] if one < len(names) else f"id {one}" for one in ids]
    scored = (f"{name} {regions.object_scores[at]:.2f}" for name, at in zip(named, best, strict=True))
    return f"{text}; {', '.join(scored)}"


def describe_array(array: NDArray[Any]) -> str:
    """Return dtype, shape and bounds of an array."""
    bounds = f" {array.min():.6g} to {array.max():.6g}" if array.size else ""
    return f"{array.dtype} {list(array.shape)}{bounds}"


def column_line(document: Mapping[str, Any]) -> str:
    """Return one line of text that describes a column."""
    missing = f", {document['missing']:,} without one" if document["missing"] else ""
    return (
        f"{document['name']}: {document['values'] or 'unknown values'}, {counted(document['samples'], 'sample')}"
        f"{missing}, {document['bytes']:,} bytes, {document['state']}"
    )


def _shape(shape: tuple[int | str | None, ...]) -> str:
    return f"[{', '.join('?' if side is None else str(side) for side in shape)}]"


def _values(info: ColumnInfo) -> str:
    """Return a description of the values of a column."""
    if info.shape is None:
        return "JSON"
    arrays = f"{info.dtype} {_shape(info.shape)}"
    if info.regions is None:
        return arrays
    whose = "boxes of its own" if info.boxes == "own" else "the boxes of the data set"
    classes = f", {counted(info.regions.top_classes, 'class', 'classes')} kept" if info.regions.top_classes else ""
    return f"regions with {whose}, features {arrays}{classes}"
