"""The rows that a rewritten shard keeps: its samples, and failed rows that are not tried again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from vilbert.extractors.regions import Regions
from vilbert.manifests.record import ImageRecord
from vilbert.pipeline.errors import CorruptShardError
from vilbert.pipeline.shards.columns.info import REMEDY
from vilbert.pipeline.shards.columns.shard import ColumnShard
from vilbert.pipeline.shards.failures import FailureRow, read_failures
from vilbert.pipeline.shards.keys import sample_key
from vilbert.pipeline.shards.location.folder import Folder
from vilbert.pipeline.shards.location.layout import StorageFormat, data_path, failures_path, shard_files
from vilbert.pipeline.shards.sample import Sample
from vilbert.pipeline.shards.storage.store import open_shard

Kept = Mapping[int, Callable[[], Sample | FailureRow]]
"""By row, a function that returns its existing outcome, so that samples are not all held in memory."""


OWN_META = ("image_id", "split", "sha256")
"""Metadata that samples of a column have besides the size of the image."""


@contextmanager
def keep(
    folder: Folder,
    shard: int,
    storage: StorageFormat,
    records: Mapping[int, ImageRecord],
    reasons: Sequence[str],
) -> Iterator[Kept]:
    """Give what is to be kept of a shard that is there, while its files stay open.

    records: the shard's rows of the manifest. reasons: those to try again; none: all of them.
    A retry that was killed between two files of a shard leaves it without a record; what is there is kept all the same.
    Raises CorruptShardError where the shard is not what its record says.
    """
    with folder.local(shard_files(shard, storage)) as directory:
        path = data_path(directory, shard, storage)
        if not path.exists():
            yield {}
            return
        listed = failures_path(directory, shard)
        failures = read_failures(listed) if listed.exists() else []
        with open_shard(path) as reader:
            places = {key: index for index, key in enumerate(reader.keys())}
            kept: dict[int, Callable[[], Sample | FailureRow]] = {
                row: partial(reader.__getitem__, places[key])
                for row, record in records.items()
                if (key := sample_key(record.image_id)) in places
            }
            for failure in failures:
                if reasons and failure.reason not in reasons:
                    kept[failure.row] = partial(_same, failure)
            yield kept


@contextmanager
def keep_values(
    folder: Folder, shard: int, column: str, records: Mapping[int, ImageRecord], reasons: Sequence[str]
) -> Iterator[Kept]:
    """Yield what to keep of a shard of a column, like `keep` for a shard of a data set."""
    with folder.local(shard_files(shard, "tar")) as directory:
        path = data_path(directory, shard, "tar")
        if not path.exists():
            yield {}
            return
        listed = failures_path(directory, shard)
        failures = read_failures(listed) if listed.exists() else []
        with ColumnShard(path, name=column, member="npy") as opened:
            kept: dict[int, Callable[[], Sample | FailureRow]] = {
                row: partial(_value, opened, key, record)
                for row, record in records.items()
                if (key := sample_key(record.image_id)) in opened
            }
            for failure in failures:
                if reasons and failure.reason not in reasons:
                    kept[failure.row] = partial(_same, failure)
            yield kept


def _value(opened: ColumnShard, key: str, record: ImageRecord) -> Sample:
    """Return the features of a column at the given boxes of a row."""
    features = opened[key]
    if features.ndim != 2 or len(features) != len(record.boxes_xyxy or ()) or features.dtype.kind != "f":
        problem = f"has {features.dtype}{list(features.shape)} for {len(record.boxes_xyxy or ())} regions"
        raise CorruptShardError(problem, path=opened.path, key=key, remedy=REMEDY)
    regions = Regions(
        boxes=np.array(record.boxes_xyxy, np.float32).reshape(-1, 4),
        features=features,
        width=record.width or 0,
        height=record.height or 0,
    )
    return Sample(key=key, regions=regions, meta={"image_id": record.image_id, "split": record.split})


def regions_alone(outcome: Sample | FailureRow) -> Sample | FailureRow:
    """Return a sample for a column of regions, without captions and image location, which the data set stores."""
    if isinstance(outcome, FailureRow):
        return outcome
    meta: dict[str, Any] = {name: outcome.meta[name] for name in OWN_META if name in outcome.meta}
    return Sample(key=outcome.key, regions=outcome.regions, meta=meta)


def features_alone(outcome: Sample | FailureRow) -> Sample | FailureRow:
    """Return a sample for a column of features, without classes and attributes."""
    if isinstance(outcome, FailureRow):
        return outcome
    found = outcome.regions
    regions = Regions(boxes=found.boxes, features=found.features, width=found.width, height=found.height)
    return Sample(key=outcome.key, regions=regions, meta=outcome.meta)


def _same(failure: FailureRow) -> FailureRow:
    return failure
