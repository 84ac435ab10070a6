"""The images of a comparison, for a detector that runs during the comparison and for the report."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from vilbert.documents import is_digest
from vilbert.extractors.decode import DecodeSettings
from vilbert.manifests.manifest import Manifest
from vilbert.manifests.record import ImageRecord, ManifestError
from vilbert.manifests.uri import ImageReader
from vilbert.pipeline.extract.fetching.fetcher import Fetcher
from vilbert.pipeline.extract.fetching.settings import FetchSettings
from vilbert.pipeline.extract.prepare import Prepared, failure, prepare
from vilbert.pipeline.rebuild.compare.choice import KEYS_AT_ONCE, key_hash
from vilbert.pipeline.shards.failures import FailureRow
from vilbert.pipeline.shards.keys import sample_key
from vilbert.pipeline.shards.sample import Sample

LENIENT = DecodeSettings(allow_truncated=True, min_side=1, max_aspect=1e9)
"""Decoding settings that accept the images of any set, whatever limits it was extracted with."""


class Images:
    """Reads images by their record in a manifest, or by the metadata of a sample."""

    def __init__(self, manifest: Path | None) -> None:
        self.manifest = None if manifest is None else Manifest.open(manifest)
        self._hashes, self._rows, self._seed = np.empty(0, np.uint64), np.empty(0, np.int64), 0
        self._fetcher = Fetcher(FetchSettings(), ImageReader(), max_bytes=LENIENT.max_bytes)

    def locate(self, hashes: NDArray[np.uint64], seed: int) -> None:
        """Find the images with these hashes (ascending) in the manifest, if there is one."""
        self._hashes, self._seed = hashes, seed
        self._rows = np.full(len(hashes), -1, np.int64)
        for row, image_id in self.ids():
            place = self._place(sample_key(image_id))
            if place is not None:
                self._rows[place] = row

    def _place(self, key: str) -> int | None:
        wanted = np.uint64(key_hash(key, self._seed))
        place = int(self._hashes.searchsorted(wanted))
        return place if place < len(self._hashes) and self._hashes[place] == wanted else None

    def ids(self) -> Iterator[tuple[int, str]]:
        """Yield the row and the id of each image of the manifest; nothing without a manifest."""
        rows = 0 if self.manifest is None else self.manifest.rows
        for start in range(0, rows, KEYS_AT_ONCE):
            assert self.manifest is not None
            of_block = self.manifest.values("image_id", np.arange(start, min(start + KEYS_AT_ONCE, rows)))
            yield from ((row, str(image_id)) for row, image_id in of_block)

    def record(self, sample: Sample) -> ImageRecord:
        """Return the location of a sample's image, from the manifest or else from the sample."""
        if self.manifest is not None:
            place = self._place(sample.key)
            row = -1 if place is None else int(self._rows[place])
            if row >= 0:
                return self.manifest.read(row, row + 1)[0]
            if sample.image is None:
                raise ManifestError(f"{self.manifest.path}: has no image {sample.meta['image_id']}")
        digest = sample.meta.get("sha256")
        return ImageRecord(
            image_id=sample.meta["image_id"],
            uri=str(sample.meta.get("uri", "")),
            sha256=digest if is_digest(digest) else None,
            exif_orientation=bool(sample.meta.get("transposed", True)),
        )

    def prepare(self, row: int, sample: Sample) -> Prepared | FailureRow:
        """Return the decoded image of a sample, or the reason why it is not available."""
        try:
            record = self.record(sample)
        except ManifestError as error:
            return FailureRow(
                row=row, image_id=sample.meta["image_id"], uri="", reason="missing_file", detail=str(error)
            )
        if sample.image is None and not record.uri:
            detail = "the set neither keeps the image nor says where it is: give --manifest"
            return FailureRow(row=row, image_id=record.image_id, uri="", reason="missing_file", detail=detail)
        kept = sample.image
        read = partial(self._fetcher.read, record.uri) if kept is None else lambda: kept
        found = prepare(row, record, LENIENT, read)
        size = (sample.regions.height, sample.regions.width)
        if isinstance(found, Prepared) and found.image.pixels.shape[:2] != size:
            return _other_size(found, size)
        return found

    def prepare_record(self, row: int, record: ImageRecord) -> Prepared | FailureRow:
        """Return the decoded image of a manifest row, or the reason why it is not available."""
        return prepare(row, record, LENIENT, partial(self._fetcher.read, record.uri))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._fetcher.stop()


def _other_size(found: Prepared, size: tuple[int, int]) -> FailureRow:
    from vilbert.extractors.decode import ImageError

    height, width = found.image.pixels.shape[:2]
    detail = f"the image is {width} by {height} pixels, the regions are of one of {size[1]} by {size[0]}"
    return failure(found.row, found.record, ImageError("corrupt", detail))
