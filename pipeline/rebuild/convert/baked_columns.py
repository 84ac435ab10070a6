"""`--columns`: a data set whose columns are part of its samples.

A column of one vector per region is appended to the features, in the order of the option. A column with boxes of its
own replaces the regions: boxes, features and labels. Any other column becomes a field of the metadata of its own name,
arrays as lists of numbers.

Shapes: N regions, D feature channels of the data set, M of a column.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vilbert.extractors.regions import Regions
from vilbert.pipeline.errors import CorruptShardError, RefusedError
from vilbert.pipeline.rebuild.convert.joined import FIXED, check_fields
from vilbert.pipeline.rebuild.dataset_source import DatasetSource
from vilbert.pipeline.rebuild.source import Scanned, SourceDescription
from vilbert.pipeline.shards.columns.info import REMEDY, ColumnInfo, read_column, why_unusable
from vilbert.pipeline.shards.columns.layout import COLUMN_FILE, check_column_name, column_folder, column_names
from vilbert.pipeline.shards.columns.shard import ColumnReader, RegionShard, open_column_shard
from vilbert.pipeline.shards.dataset import MAX_CHANNELS, fingerprint_digest
from vilbert.pipeline.shards.failures import FailureRow
from vilbert.pipeline.shards.location.folder import Folder
from vilbert.pipeline.shards.record import read_each_record, records_digest
from vilbert.pipeline.shards.sample import Sample, format_of, read_fields
from vilbert.pipeline.shards.selection.file import SelectionFile
from vilbert.pipeline.shards.storage.closing import Closing

OPEN_SHARDS = 64
"""Number of shards whose columns stay open."""
NO_VALUE = "no_column_value"
"""Reason of a row without a value in a column of features or regions."""
OF_ADD_TO = ("base", "missing", "boxes_from", "labels")
"""Properties of a column that describe the storage of its values, not the values."""


class _Column(NamedTuple):
    folder: Folder
    info: ColumnInfo
    contents: tuple[bytes, ...]
    """SHA-256 of each shard."""

    @property
    def width(self) -> int | None:
        """M for a column of features, None for others."""
        return self.info.of_regions

    @property
    def own_boxes(self) -> bool:
        """Whether its regions replace those of the data set."""
        return self.info.boxes == "own"

    @property
    def required(self) -> bool:
        """Whether a sample without a value becomes a failure."""
        return self.own_boxes or self.width is not None


class _OpenShard(NamedTuple):
    columns: list[ColumnReader]
    stack: ExitStack


class BakedColumns(Closing):
    """A data set with some of its columns in its samples. A `Source`."""

    def __init__(self, base: DatasetSource, names: Sequence[str], *, verify: bool = True) -> None:
        """Find the columns.

        Args:
            base: The data set; closed with this source.
            names: Names of its columns, in the order in which features are appended.
            verify: Whether the SHA-256 of the columns' shards is compared before a value is used.

        Raises:
            RefusedError: A column does not exist, is not finished, belongs to an older state of the data set, or has
                values that cannot be stored in a sample, or features at different boxes would be joined.
        """
        self.base, self._verify = base, verify
        self._columns = [_find(base, name) for name in names]
        of_features = [column.info.name for column in self._columns if column.required]
        own = [column.info.name for column in self._columns if column.own_boxes]
        if own and len(of_features) > 1:
            raise RefusedError(
                f"--columns {' '.join(of_features)}: {base.folder.name}: column {own[0]} has boxes of its own and "
                "replaces the regions of the samples; name no other column of features or regions with it"
            )
        self._open: OrderedDict[int, _OpenShard] = OrderedDict()
        self._description = self._describe()

    @property
    def description(self) -> SourceDescription:
        """What all samples share."""
        return self._description

    @property
    def labelled(self) -> list[str]:
        """Columns at the boxes of the data set of which only features are used, although they have labels."""
        return [column.info.name for column in self._columns if column.info.member == "regions" and column.width]

    @property
    def rows(self) -> int:
        """Samples and failed rows of the data set."""
        return self.base.rows

    @property
    def content(self) -> str:
        """Hash of the records of the data set."""
        return self.base.content

    def selected_rows(self, file: SelectionFile) -> NDArray[np.bool_]:
        """Return which rows a selection of the data set contains, bool [rows]; RefusedError if it is damaged."""
        return self.base.selected_rows(file)

    def read(self, start: int, stop: int) -> Iterator[Sample | FailureRow]:
        """Yield the rows [start, stop); a sample without a value in a column of features or regions is a failure."""
        for shard, first, last in self.base.spans(start, stop):
            opened = self._shard(shard)
            for outcome in self.base.read(start, start + last - first):
                yield outcome if isinstance(outcome, FailureRow) else self._baked(outcome, opened)
            start += last - first

    def scan(self, start: int, stop: int, *, metadata: bool) -> Iterator[Scanned | FailureRow]:
        """Yield the rows [start, stop) without arrays."""
        for shard, first, last in self.base.spans(start, stop):
            opened = self._shard(shard)
            for entry in self.base.scan(start, start + last - first, metadata=metadata):
                if isinstance(entry, FailureRow):
                    yield entry
                elif (absent := self._absent(entry.key, opened)) is not None:
                    yield _failure(entry.key, entry.metadata or {}, absent)
                elif entry.metadata is None:
                    yield entry
                else:
                    boxes = self._number_of_boxes(entry.key, opened)
                    yield Scanned(entry.key, {**entry.metadata, **boxes, **self._fields(entry.key, opened)})
            start += last - first

    def close(self) -> None:
        """Release files."""
        while self._open:
            self._open.popitem()[1].stack.close()
        self.base.close()

    def _describe(self) -> SourceDescription:
        base = self.base.description
        contents = {column.info.name: column.info.records_sha256 for column in self._columns}
        fingerprint: dict[str, Any] = {**base.fingerprint, "columns": contents}
        if own := next((column for column in self._columns if column.own_boxes), None):
            return _with_regions(base, own.info, fingerprint)
        wide = [column for column in self._columns if column.width is not None]
        if not wide:
            return dataclasses.replace(base, fingerprint=fingerprint)
        channels = int(base.fields["features"]["shape"][1]) + sum(column.width or 0 for column in wide)
        if channels > MAX_CHANNELS:
            raise RefusedError(f"--columns: features would have {channels:,} channels; at most {MAX_CHANNELS:,} can be")
        dtypes = {base.fields["features"]["dtype"], *(str(column.info.dtype) for column in wide)}
        dtype = "float32" if "float32" in dtypes else "float16"
        fields = {**read_fields(base.fields), "features": {"dtype": dtype, "shape": ["N", channels]}}
        operation = {"columns": [_origin(column.info) for column in wide]}
        was = dict(base.fingerprint["fingerprint_fields"])
        extractor = was.get("extractor")
        if isinstance(extractor, dict):
            was["extractor"] = {**extractor, "converted": [*extractor.get("converted", []), operation]}
        else:
            was["columns"] = [*was.get("columns", []), operation]
        fingerprint["fingerprint_fields"] = {**was, "format": format_of(fields)}
        return dataclasses.replace(base, fields=fields, fingerprint=fingerprint)

    def _baked(self, sample: Sample, opened: _OpenShard) -> Sample | FailureRow:
        if (absent := self._absent(sample.key, opened)) is not None:
            return _failure(sample.key, sample.meta, absent)
        regions, small = sample.regions, sample.small
        parts: list[NDArray[Any]] = [regions.features]
        for column, shard in zip(self._columns, opened.columns, strict=True):
            if column.own_boxes:
                regions, small = _own_regions(shard, sample), None
            elif column.width is not None:
                vectors = shard.features(sample.key)
                expected = len(regions), column.width
                if vectors.shape != expected or vectors.dtype.kind != "f":
                    problem = f"has {vectors.dtype}{list(vectors.shape)}, expected {list(expected)} floats"
                    raise CorruptShardError(problem, path=shard.path, key=sample.key, remedy=REMEDY)
                parts.append(vectors)
        if len(parts) > 1:
            features = np.concatenate(parts, axis=1, dtype=self._description.fields["features"]["dtype"])
            regions, small = dataclasses.replace(regions, features=features), None
        meta = {**sample.meta, **self._fields(sample.key, opened)}
        return dataclasses.replace(sample, regions=regions, small=small, meta=meta)

    def _absent(self, key: str, opened: _OpenShard) -> str | None:
        """Return the name of the first column of features or regions without a value for a sample."""
        for column, shard in zip(self._columns, opened.columns, strict=True):
            if column.required and key not in shard:
                return column.info.name
        return None

    def _fields(self, key: str, opened: _OpenShard) -> dict[str, Any]:
        """Return the metadata of a sample from columns."""
        found = {}
        for column, shard in zip(self._columns, opened.columns, strict=True):
            if not column.required and key in shard:
                value = shard[key]
                found[column.info.name] = value.tolist() if isinstance(value, np.ndarray) else value
        try:
            check_fields(key, found)
        except ValueError as error:
            raise RefusedError(f"--columns: {error}; such a column cannot replace this field") from None
        return found

    def _number_of_boxes(self, key: str, opened: _OpenShard) -> dict[str, int]:
        """Return the number of boxes as metadata if a column replaces the boxes."""
        for column, shard in zip(self._columns, opened.columns, strict=True):
            if column.own_boxes and isinstance(shard, RegionShard):
                return {"num_boxes": int(shard.part(key, ()).metadata["num_boxes"])}
        return {}

    def _shard(self, shard: int) -> _OpenShard:
        if shard in self._open:
            self._open.move_to_end(shard)
            return self._open[shard]
        while len(self._open) >= OPEN_SHARDS:
            self._open.popitem(last=False)[1].stack.close()
        with ExitStack() as stack:
            columns = []
            for column in self._columns:
                sha256 = column.contents[shard].hex() if self._verify else None
                opened = open_column_shard(column.folder, column.info, shard, sha256=sha256)
                columns.append(stack.enter_context(opened))
            self._open[shard] = _OpenShard(columns, stack.pop_all())
        return self._open[shard]


def _with_regions(base: SourceDescription, column: ColumnInfo, fingerprint: dict[str, Any]) -> SourceDescription:
    """Return the description of a data set with a column's regions: as if extracted with the column's detector."""
    regions = column.regions
    assert regions is not None  # of each column of regions
    facts = {name: value for name, value in regions.fingerprint_fields.items() if name not in OF_ADD_TO}
    if "keep_images" in base.fingerprint["fingerprint_fields"]:
        facts["keep_images"] = base.fingerprint["fingerprint_fields"]["keep_images"]
    return dataclasses.replace(
        base,
        fields=read_fields(regions.fields),
        class_names=regions.class_names,
        attribute_names=regions.attribute_names,
        fingerprint={**fingerprint, "fingerprint_fields": facts},
    )


def _own_regions(shard: ColumnReader, sample: Sample) -> Regions:
    """Return the regions of a sample from a column."""
    assert isinstance(shard, RegionShard)
    regions, size = shard[sample.key].regions, (sample.regions.width, sample.regions.height)
    if (regions.width, regions.height) != size:
        problem = f"is of {regions.width}x{regions.height} pixels, the data set's image has {size[0]}x{size[1]}"
        raise CorruptShardError(problem, path=shard.path, key=sample.key, remedy=REMEDY)
    return regions


def other_columns(source: object, names: Sequence[str]) -> list[str]:
    """Return which columns of a source are not put into the samples; none for a file of published features."""
    base = source.base if isinstance(source, BakedColumns) else source
    if not isinstance(base, DatasetSource):
        return []
    labels = source.labelled if isinstance(source, BakedColumns) else []
    others = [name for name in column_names(base.folder) if name not in names]
    return [*others, *(f"labels of {name} (--add-fields-from takes fields from its folder)" for name in labels)]


def _find(base: DatasetSource, name: str) -> _Column:
    check_column_name(name, option="--columns")
    place = base.folder.name
    if name in FIXED:
        raise RefusedError(
            f"--columns {name}: is a field of the regions or the image's id, which a column cannot replace"
        )
    names = column_names(base.folder)
    if name not in names:
        raise RefusedError(f"--columns {name}: {place} has no such column; its columns: {', '.join(names) or 'none'}")
    folder = column_folder(base.folder, name)
    info = read_column(folder)
    if why := why_unusable(info, base.info):
        raise RefusedError(f"--columns {name}: {place}: {why}")
    assert info is not None
    of_regions = info.of_regions is not None and info.dtype != "uint16"
    if info.shape is not None and "N" in info.shape and not of_regions and info.boxes == "base":
        raise RefusedError(
            f"--columns {name}: {place}: holds {info.dtype} {list(info.shape)}, one value per region; a sample can "
            "store "
            "floats [N, M], one array per image, and JSON values"
        )
    records = tuple(read_each_record(folder, range(info.shards)))
    if records_digest(records) != info.records_sha256:
        raise CorruptShardError(
            "its records_sha256 is not that of the records in shards/",
            path=Path(folder.name, COLUMN_FILE),
            remedy=REMEDY,
        )
    return _Column(folder, info, tuple(bytes.fromhex(record.sha256) for record in records))


def _origin(info: ColumnInfo) -> str:
    """Return a hash of everything a column's features depend on except the data set."""
    fields = {name: value for name, value in info.fingerprint_fields.items() if name not in OF_ADD_TO[:2]}
    return fingerprint_digest(fields)


def _failure(key: str, meta: dict[str, Any], column: str) -> FailureRow:
    """Return the failure of a sample without a value; the row number is set in the output."""
    return FailureRow(
        row=0,
        image_id=str(meta.get("image_id", key)),
        uri=str(meta.get("uri", "")),
        reason=NO_VALUE,
        detail=f"column {column} has no value for it",
    )
