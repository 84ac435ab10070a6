"""A data set as training sees it: its shards, and which samples of them are of the split."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
from numpy.typing import NDArray

from vilbert.manifests.hold_out import HoldOut
from vilbert.pipeline.errors import CorruptShardError, RefusedError
from vilbert.pipeline.shards.columns.layout import BASE
from vilbert.pipeline.shards.dataset import DatasetInfo, contradiction, read_dataset
from vilbert.pipeline.shards.location.layout import DATASET_FILE, StorageFormat, data_path
from vilbert.pipeline.shards.record import ShardRecord, read_records, records_digest
from vilbert.pipeline.shards.selection.file import Selection, SelectionFile
from vilbert.pipeline.shards.storage.store import ShardReader
from vilbert.pipeline.train.data.feature_columns import (
    ColumnSource,
    FeatureColumn,
    read_class_targets,
    read_feature_columns,
)
from vilbert.pipeline.train.data.remote import is_remote, public_url
from vilbert.pipeline.train.data.shard_cache import ShardCache

_log = logging.getLogger(__name__)


class Part(NamedTuple):
    """One of the two parts that a choice of held-out images makes of a data set."""

    choice: HoldOut
    """Which images are held out."""
    held_out: bool
    """Whether the part is these, or all others."""

    def takes(self, image_id: str) -> bool:
        """Say whether an image is of the part."""
        return self.choice.takes(image_id) is self.held_out


class Shard(NamedTuple):
    """What a shard's record says, as far as training needs it."""

    samples: int
    """All samples in it."""
    usable: int
    """Those of the split, of the selection and of the part."""
    bytes: int
    """Size of its file."""
    sha256: str
    """Hex digest of its file."""


class Source(NamedTuple):
    """One data set, its shards and the split that is used of it. Small, and the same in every process."""

    name: str
    """As it was given, without credentials."""
    url: str | None
    """Where its shards come from, where that is not this machine."""
    folder: Path
    """Where its files lie; the cache's folder of a remote data set."""
    storage: StorageFormat
    """How shards are stored."""
    split: str | None
    """The split, None for all samples."""
    shards: tuple[Shard, ...]
    """By number."""
    feature_dim: int
    """D, channels of a feature."""
    top_classes: int
    """K, most probable classes kept of a region; 0 where there are no class probabilities, or those of a column that
    has all classes are used."""
    class_names: tuple[str, ...]
    """Names by class id; `NAME 3` for class 3 of a column NAME that has probabilities of all classes."""
    fingerprint: str
    """Of the settings that made it, see dataset.json."""
    extractor: dict[str, Any]
    """What its regions depend on: of these settings those of the detector and of the selection of boxes."""
    manifest_hash: str
    """Of the manifest that it was extracted from."""
    records_sha256: str
    """One hash for its content."""
    splits: dict[str, int]
    """Samples by split; with a selection those that are selected."""
    part: Part | None = None
    """Of the samples of the split, those that are used; None for all."""
    features: tuple[FeatureColumn | None, ...] = (None,)
    """Where a region's features come from, one behind the other: columns, and None for the data set's own."""
    class_targets: FeatureColumn | None = None
    """Where the class probabilities of masked regions come from; None for those that belong to the boxes."""
    selection: Selection | None = None
    """The samples of `--selection`; None for all."""

    def path(self, shard: int) -> Path:
        """Return where the file of a shard lies, or will once it is fetched."""
        return data_path(self.folder, shard, self.storage)

    @property
    def columns(self) -> tuple[FeatureColumn, ...]:
        """The columns that are read, each once."""
        named = (column for column in (*self.features, self.class_targets) if column is not None)
        return tuple({column.name: column for column in named}.values())

    @property
    def regions(self) -> FeatureColumn | None:
        """The column whose regions, boxes included, are used in place of the data set's."""
        first = self.features[0]
        return first if first is not None and first.own_boxes else None

    @property
    def stored_classes(self) -> int:
        """K, class probabilities that are read from the data set's own shards; 0 where they come from a column."""
        return self.top_classes if self.class_targets is None else 0

    @property
    def target_classes(self) -> int:
        """Class probabilities that are read of a region: K, or all C of a column; 0 if none are stored."""
        if self.class_targets is None or self.class_targets.top_classes:
            return self.top_classes
        return self.class_targets.width


def read_source(
    name: str,
    *,
    split: str | None,
    cache: ShardCache | None,
    features: Sequence[str] = (BASE,),
    class_targets: str = BASE,
    selections: Mapping[str, SelectionFile] = MappingProxyType({}),
) -> Source:
    """Read a data set's dataset.json and records; shards are left alone.

    name: a folder, or the URL of one. split: whose samples are used, None for all; `auto` is `train`, or where it has
    no samples those without a split. cache: where a remote data set's files go. features: `base` and names of columns.
    class_targets: `base`, or the column with the class probabilities of regions.
    selections: as `open_selections` returns them; that of this data set is used, if any.

    Raises RefusedError for a data set that is not complete, a URL that cannot be used or a remote one without a cache,
    CorruptShardError where the records are not those that dataset.json was completed with.
    """
    folder, url, shown = _locate(name, cache)
    info = read_dataset(folder)
    if not info.complete or info.records_sha256 is None:
        raise RefusedError(
            f"{shown}: not complete: run the same `vilbert extract` or `vilbert convert` again until it says that all "
            "shards are done"
        )
    chosen = _choose_samples(info, _check_records(folder, info), split, selections.get(info.records_sha256))
    place = ColumnSource(info, folder, url, cache, shown, chosen.selection)
    regions = _describe_regions(place, features, class_targets)
    return Source(
        name=shown,
        url=url,
        folder=folder,
        storage=info.storage,
        fingerprint=info.fingerprint,
        manifest_hash=info.manifest_hash,
        records_sha256=info.records_sha256,
        **chosen._asdict(),
        **regions._asdict(),
    )


def _locate(name: str, cache: ShardCache | None) -> tuple[Path, str | None, str]:
    """Return a data set's folder on this machine, its URL if it is remote, and its name for messages."""
    if not is_remote(name):
        return Path(url2pathname(urlsplit(name).path)) if name.startswith("file://") else Path(name), None, name
    if cache is None:
        raise RefusedError(f"{public_url(name)}: remote data sets need a folder for downloaded shards: give --cache")
    return cache.fetch_dataset(name), name, public_url(name)


class _Choice(NamedTuple):
    """The samples that are used; fields of `Source`."""

    split: str | None
    splits: dict[str, int]
    shards: tuple[Shard, ...]
    selection: Selection | None


def _choose_samples(
    info: DatasetInfo, records: Sequence[ShardRecord], split: str | None, file: SelectionFile | None
) -> _Choice:
    """Return the samples of a split, and of a selection if there is one."""
    selection = None if file is None else file.load([record.samples for record in records])
    splits = info.splits if selection is None else selection.by_split()
    if split == "auto":
        split = "train" if splits.get("train") or not splits.get("") else ""
    if selection is None:
        usable = [record.samples if split is None else record.splits.get(split, 0) for record in records]
    else:
        usable = selection.counts(split).tolist()
    shards = tuple(
        Shard(samples=record.samples, usable=count, bytes=record.bytes, sha256=record.sha256)
        for record, count in zip(records, usable, strict=True)
    )
    return _Choice(split, splits, shards, selection)


class _Regions(NamedTuple):
    """What the regions of a sample have; fields of `Source`."""

    features: tuple[FeatureColumn | None, ...]
    class_targets: FeatureColumn | None
    feature_dim: int
    extractor: dict[str, Any]
    top_classes: int
    class_names: tuple[str, ...]


def _describe_regions(place: ColumnSource, features: Sequence[str], class_targets: str) -> _Regions:
    """Return where features and class targets come from, and what they are."""
    info = place.info
    columns = read_feature_columns(place, features)
    targets = read_class_targets(place, class_targets, columns)
    widths = [info.feature_dim if column is None else column.width for column in columns]
    extractor = info.fingerprint_fields.get("extractor")
    facts: dict[str, Any] = dict(extractor) if isinstance(extractor, dict) else {}
    if columns != (None,):  # a model of other features is another model: compared as the detector's facts are
        facts["features"] = [f"{name} [{width}]" for name, width in zip(features, widths, strict=True)]
    top_classes, class_names = info.top_classes, info.class_names
    if targets is not None:
        top_classes, class_names = targets.top_classes, targets.target_names
    if (own := columns[0]) is not None and own.own_boxes:  # all is as in a data set that this detector extracted
        facts, top_classes, class_names = own.extractor, own.top_classes, own.class_names
    return _Regions(columns, targets, sum(widths), facts, top_classes, class_names)


def _check_records(folder: Path, info: DatasetInfo) -> list[ShardRecord]:
    """Return the records in the order of their shards where they are those that dataset.json speaks of."""
    records = read_records(folder)
    if (
        len(records) != info.shards
        or list(records) != list(range(info.shards))
        or records_digest(records.values()) != info.records_sha256
    ):
        raise CorruptShardError(
            "the records in shards/ do not match it",
            path=folder / DATASET_FILE,
            remedy="run the same `vilbert extract` or `vilbert convert` again, or restore the folder from a copy",
        )
    found = list(records.values())
    if problem := contradiction(info, found):
        remedy = "run the same `vilbert extract` or `vilbert convert` again; `vilbert verify` lists all that is wrong"
        raise CorruptShardError(problem, path=folder / DATASET_FILE, remedy=remedy)
    return found


def check_sources(sources: Sequence[Source]) -> None:
    """Raise RefusedError where the data sets do not go together, or none has a sample of the split."""
    first = sources[0]
    for other in sources[1:]:
        for what in ("feature_dim", "top_classes", "class_names"):
            ours, theirs = getattr(first, what), getattr(other, what)
            if ours != theirs:
                raise RefusedError(
                    f"{first.name} has {what} {_shorten(ours)}, {other.name} has {_shorten(theirs)}: "
                    "train on data sets of one detector"
                )
    without = [source for source in sources if not any(shard.usable for shard in source.shards)]
    if len(without) == len(sources):
        there: Counter[str] = Counter()
        for source in sources:
            there.update(source.splits)
        listing = ", ".join(f"{name!r} ({count} samples)" for name, count in sorted(there.items())) or "none"
        names = ", ".join(source.name for source in sources)
        if first.split is None:
            raise RefusedError(f"{names}: no samples")
        raise RefusedError(
            f"split {first.split!r}: no samples in {names}; their splits are: {listing}. Choose one of "
            "them, or all samples with --split all; evaluate on some of the training samples with --eval-split "
            "held-out, or on none with --eval-split none"
        )
    for source in without:
        _log.warning("%s: no sample of split %r; the data set is not used", source.name, source.split)


def _shorten(value: object) -> str:
    return f"{len(value)} names from {value[1:3]!r}" if isinstance(value, tuple) else repr(value)


def usable_indices(
    reader: ShardReader,
    shard: Shard,
    split: str | None,
    part: Part | None = None,
    places: NDArray[np.uint32] | None = None,
) -> NDArray[np.uint32] | None:
    """Return which samples of an open shard are of the split and the part, uint32 [usable]; None where all are.

    A shard of which all samples, or all selected ones, are used is not read. CorruptShardError where the shard does not
    hold what its record says.

    places: of the selected samples in the shard; None for all.
    """
    if len(reader) != shard.samples:
        problem = f"holds {len(reader)} samples, its record says {shard.samples}"
        raise CorruptShardError(problem, path=reader.path)
    if shard.usable == shard.samples:
        return None
    if places is not None and shard.usable == len(places):
        return places
    found = []
    for at in range(len(reader)) if places is None else places.tolist():
        metadata = reader.metadata(at)
        is_of_split = split is None or str(metadata.get("split", "")) == split
        if is_of_split and (part is None or part.takes(str(metadata["image_id"]))):
            found.append(at)
    if len(found) != shard.usable:
        whose = "its record says" if places is None else "the selection says"
        whose = whose if part is None else "when they were counted there were"
        problem = f"holds {len(found)} samples of split {split!r}, {whose} {shard.usable}"
        raise CorruptShardError(problem, path=reader.path)
    return np.array(found, dtype=np.uint32)
