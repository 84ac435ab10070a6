"""A file of published features as a `Source`: a row becomes a sample or a failure, all samples have the same fields."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.rebuild.formats.importers.content_hash import DAMAGE, content_sha256
from vilbert.pipeline.rebuild.formats.importers.image_sizes import ImageSizes
from vilbert.pipeline.rebuild.formats.importers.names import attribute_names, class_names
from vilbert.pipeline.rebuild.formats.importers.published_image import (
    NO_SIZE,
    Head,
    PublishedImage,
    RowError,
    sample_meta,
    to_sample,
)
from vilbert.pipeline.rebuild.formats.registry import ImportOptions
from vilbert.pipeline.rebuild.source import Scanned, SourceDescription
from vilbert.pipeline.shards.dataset import fingerprint_digest
from vilbert.pipeline.shards.failures import FailureRow
from vilbert.pipeline.shards.keys import sample_key
from vilbert.pipeline.shards.sample import Sample
from vilbert.untrusted.pickles import ForbiddenError

MAX_ROW_BYTES = 256 << 20
"""Maximum size of a row, far above any detector's output; limits the memory that a damaged file uses."""
_CLASSES, _ATTRIBUTES = 1601, 400
"""Number of classes of Visual Genome in Anderson et al. 2018, including the background; used by these formats."""
_PROBED = 1_000
"""Number of rows that are searched for the first valid one before a file is refused."""

_Read = TypeVar("_Read")


class RowReader(Protocol):
    """Random access to the rows of a file or folder of one format."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def content(self, row: int) -> bytes:
        """Return the bytes of a row, for the hash of the content; raise RowError if they cannot be read."""

    def head(self, row: int) -> Head | None:
        """Return the part of a row that planning needs, without its arrays; None if the row must be read for it.

        Raises what `image` raises. A row that is accepted here may still be damaged.
        """

    def image(self, row: int) -> PublishedImage:
        """Return the image of a row.

        Raises:
            RowError: The row is damaged; ValueError, TypeError and LookupError are treated in the same way.
            ForbiddenError: The row is hostile.
            ShardError: The file as a whole is damaged.
        """

    def close(self) -> None:
        """Release files."""


class ImportedSource:
    """The rows of a `RowReader` as samples. A `Source`."""

    def __init__(self, name: str, path: Path, reader: RowReader, options: ImportOptions) -> None:
        """Find the first row with a sample; it determines the fields of all samples.

        Args:
            name: The format's name.
            path: The file or folder.
            reader: Its rows; closed with the source, and if this raises.
            options: Facts that the file does not contain.

        Raises:
            ShardError: No row has a valid sample.
        """
        self._name, self._path, self._reader, self._options = name, path, reader, options
        self._content: str | None = None
        self._uri = os.fsencode(path).decode("utf-8", "backslashreplace")
        try:
            self._sizes = None if options.image_sizes is None else ImageSizes.read(options.image_sizes)
            self._class_names = class_names(options.class_names, _CLASSES)
            self._attribute_names = attribute_names(options.attribute_names, _ATTRIBUTES)
            self._description = self._describe()
        except BaseException:
            reader.close()
            raise

    @property
    def description(self) -> SourceDescription:
        """Properties that all samples share."""
        return self._description

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self._reader)

    def read(self, start: int, stop: int) -> Iterator[Sample | FailureRow]:
        """Yield the rows [start, stop); see `Source.read`."""
        if not 0 <= start <= stop <= self.rows:
            raise IndexError(f"rows [{start}, {stop}) of {self._path}, which has {self.rows}")
        for row in range(start, stop):
            try:
                sample = self._sample(self._image(row))
                _require_fields(sample, self._description.fields)
                yield sample
            except RowError as error:
                yield self._failure(row, error)

    def scan(self, start: int, stop: int, *, metadata: bool) -> Iterator[Scanned | FailureRow]:
        """Yield the rows [start, stop) without their arrays; see `ScannableSource.scan`.

        A row whose arrays are damaged is listed as a sample here, and becomes a failure when it is read.
        """
        for row in range(start, stop):
            try:
                yield self._scanned(row, metadata=metadata)
            except RowError as error:
                yield self._failure(row, error)

    def _scanned(self, row: int, *, metadata: bool) -> Scanned:
        head = self._guarded(self._reader.head, row)
        if head is None or (metadata and head.regions is None):
            head = Head.of(self._image(row))
        image_id, width, height = self._identify(head)
        if not metadata:
            return Scanned(sample_key(image_id), None)
        if width is None or height is None:
            raise RowError("no_image_size", NO_SIZE, image_id)
        size = {"width": width, "height": height, "num_boxes": head.regions}
        return Scanned(sample_key(image_id), {**sample_meta(image_id, head.meta), **size})

    def close(self) -> None:
        """Release files."""
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _failure(self, row: int, error: RowError) -> FailureRow:
        return FailureRow(
            row=row,
            image_id=error.image_id or f"row {row}",
            uri=f"{self._uri}#{row}",
            reason=error.reason,
            detail=str(error),
        )

    def _image(self, row: int) -> PublishedImage:
        return self._guarded(self._reader.image, row)

    def _guarded(self, read: Callable[[int], _Read], row: int) -> _Read:
        """Return the result of reading a row; a damaged row raises RowError, a hostile one ShardError."""
        try:
            return read(row)
        except ForbiddenError as error:
            raise ShardError(
                f"{self._path}: refused: row {row:,} {error}. Files of features contain arrays, strings and numbers "
                "only; download it "
                "from its authors again"
            ) from error
        except DAMAGE as error:
            raise RowError("broken_row", str(error) or type(error).__name__) from error

    def _sample(self, image: PublishedImage) -> Sample:
        image_id, width, height = self._identify(image)
        return to_sample(
            dataclasses.replace(image, image_id=image_id, width=width, height=height),
            top_classes=self._options.top_classes,
            classes=len(self._class_names),
            attributes=len(self._attribute_names),
        )

    def _identify(self, row: PublishedImage | Head) -> tuple[str, int | None, int | None]:
        """Return the image id, the width and the height of a row."""
        image_id, width, height = row.image_id, row.width, row.height
        if not image_id:
            raise RowError("broken_row", "its image id is empty")
        if self._options.number_ids and (number := re.search(r"[0-9]{1,4000}$", image_id)):
            image_id = number[0].lstrip("0") or "0"
        if self._sizes is not None and (width is None or height is None):
            width, height = self._sizes.find(image_id)
        return image_id, width, height

    def _describe(self) -> SourceDescription:
        problem: RowError | None = None
        probed = min(self.rows, _PROBED)
        for row in range(probed):
            try:
                image = self._image(row)
                self._count_classes(image)
                sample = self._sample(image)
            except RowError as error:
                problem = problem or error
                continue
            fields = _fields_of(sample)
            return SourceDescription(
                format=self._name,
                fields=fields,
                class_names=self._class_names if {"object_ids", "class_ids"} & fields.keys() else (),
                attribute_names=self._attribute_names if "attribute_ids" in fields else (),
                fingerprint=self._fingerprint(),
                missing=tuple(self._missing(image, fields)),
            )
        if problem is None:
            raise ShardError(f"{self._path}: holds no rows; the output would be empty")
        raise ShardError(
            f"{self._path}: none of the first {probed:,} rows gives a sample; the first row: {problem}. The "
            "output would be empty"
        )

    def _count_classes(self, image: PublishedImage) -> None:
        """Set the number of classes to the number of probabilities of a row; refuse another number of names."""
        if image.class_probs is None or image.class_probs.ndim != 2:
            return
        count = image.class_probs.shape[1]
        if self._options.class_names is None and 2 <= count <= 1 << 16:
            self._class_names = class_names(None, count)
        elif count != len(self._class_names):
            raise ShardError(
                f"--class-names {self._options.class_names}: names {len(self._class_names) - 1:,} classes, and "
                f"{self._path} has probabilities of {count - 1:,} and the background"
            )

    def _missing(self, image: PublishedImage, fields: dict[str, dict[str, Any]]) -> Iterator[str]:
        groups = {"object_ids": "objects", "class_ids": "class probabilities", "attribute_ids": "attributes"}
        for name, what in groups.items():
            if name not in fields:
                yield what
        if {"object_ids", "class_ids"} & fields.keys() and self._options.class_names is None:
            yield "class names"
        if "attribute_ids" in fields and self._options.attribute_names is None:
            yield "attribute names"
        if image.width is None:
            yield "image sizes"
        if not image.meta.get("captions"):
            yield "captions"

    @property
    def content(self) -> str:
        """Hex digest of all rows and of the options that the samples depend on. The first call reads the whole file."""
        if self._content is None:
            rows = content_sha256(self._reader, self._path, scratch=self._options.scratch)
            sizes = None if self._sizes is None else self._sizes.manifest_hash
            facts = {**self._description.fingerprint, "rows_sha256": rows, "image_sizes": sizes}
            self._content = fingerprint_digest(facts)
        return self._content

    def _fingerprint(self) -> dict[str, Any]:
        """Return the options with which the file is read, and the user's description of the detector."""
        options = self._options
        return {
            **({} if options.origin is None else {"origin": options.origin}),
            "class_names": hashlib.sha256("\n".join(self._class_names).encode()).hexdigest(),
            "attribute_names": hashlib.sha256("\n".join(self._attribute_names).encode()).hexdigest(),
            "background": options.background,
            "top_classes": options.top_classes,
            "number_ids": options.number_ids,
        }


def _fields_of(sample: Sample) -> dict[str, dict[str, Any]]:
    return {
        name: {"dtype": array.dtype.name, "shape": ["N", *array.shape[1:]]}
        for name, array in sample.regions.arrays().items()
    }


def _require_fields(sample: Sample, fields: dict[str, dict[str, Any]]) -> None:
    found = _fields_of(sample)
    if found == fields:
        return
    if found.keys() != fields.keys():
        problem = f"has the fields {', '.join(found)}; the first rows have {', '.join(fields)}"
    else:
        name = next(name for name in fields if found[name] != fields[name])
        problem = f"{name} is {_shown(found[name])}; in the first rows it is {_shown(fields[name])}"
    raise RowError("other_fields", problem, str(sample.meta["image_id"]))


def _shown(field: dict[str, Any]) -> str:
    return f"{field['dtype']}[{', '.join(map(str, field['shape']))}]"
