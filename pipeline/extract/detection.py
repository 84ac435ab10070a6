"""Prepared images to samples or failures, in batches: what of one shard goes through the detector, and how."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

from vilbert.extractors.batch import stored_shape
from vilbert.extractors.decode import ImageError
from vilbert.extractors.extractor import Extractor, ExtractorError
from vilbert.extractors.regions import Regions
from vilbert.manifests.uri import mask_credentials
from vilbert.pipeline.errors import DeviceLostError, first_line, out_of_memory_device
from vilbert.pipeline.extract.batches import group_by_shape
from vilbert.pipeline.extract.prepare import Prepared, failure
from vilbert.pipeline.extract.turns import Turns
from vilbert.pipeline.jobs.journal import Journal
from vilbert.pipeline.shards.failures import FailureRow
from vilbert.pipeline.shards.keys import sample_key
from vilbert.pipeline.shards.sample import Sample
from vilbert.pipeline.shards.small_features import LEAST_COSINE, STORED_AS, PrecisionError

DETECTOR_ERRORS_IN_A_ROW = 10
"""After so many failing images without a success between them, the detector is broken, not the images."""

Outcome = tuple[int, Sample | FailureRow]
"""A row and what became of it."""


class Detection:
    """A worker's detector, and how many images it failed on in a row. Threads use it when it is their turn."""

    def __init__(self, extractor: Extractor, batch_size: int, turns: Turns, *, feature_dtype: str = "float16") -> None:
        """Take the detector; feature_dtype: see `ExtractSettings`."""
        self._extractor = extractor
        self._stored_dtype = STORED_AS[feature_dtype]
        self._batch_size = batch_size
        self._turns = turns
        self._errors = 0
        self._too_many: dict[tuple[int, int], int] = {}
        """Images of a resized shape that were too many for the memory at once."""

    def outcomes(
        self, prepared: Iterable[Prepared | FailureRow], journal: Journal, singly: Collection[int] = ()
    ) -> Iterator[Outcome]:
        """Yield what becomes of each row, as batches get done, so not in the order of rows.

        singly: rows whose batch goes through the detector one by one.
        """
        failed: list[FailureRow] = []

        def decoded() -> Iterator[Prepared]:
            for item in prepared:
                if isinstance(item, FailureRow):
                    failed.append(item)
                else:
                    yield item

        batches = group_by_shape(
            decoded(),
            lambda item: self._extractor.resized_shape(*stored_shape(item.detector_input)),
            self._batch_size,
            max_lag=8 * self._batch_size,
        )
        for batch in batches:
            parts = [[item] for item in batch] if any(item.row in singly for item in batch) else [batch]
            for part in parts:
                yield from self.detect(part, journal)
            yield from ((row.row, row) for row in failed)
            failed.clear()
        yield from ((row.row, row) for row in failed)

    def detect(self, batch: Sequence[Prepared], journal: Journal) -> Iterator[Outcome]:
        """Run the detector on a batch; where that fails, on each half, so that only the image at fault is lost."""
        shape = self._extractor.resized_shape(*stored_shape(batch[0].detector_input))
        if 1 < len(batch) >= self._too_many.get(shape, len(batch) + 1):
            yield from self._detect_halves(batch, journal)
            return
        found = self._extract(batch, journal)
        if self._turns.shared and is_out_of_memory(found):
            # Another shard's batch may have the room, and what fits must not depend on who is there at the moment.
            found = self._extract(batch, journal, alone=True)
        if is_out_of_memory(found):
            self._too_many[shape] = len(batch)
        if not isinstance(found, Exception):
            self._errors = 0
            yield from (
                (item.row, self._stored(item, outcome(item, regions)))
                for item, regions in zip(batch, found, strict=True)
            )
        elif len(batch) > 1:
            yield from self._detect_halves(batch, journal)
        else:
            yield batch[0].row, self._failed_alone(batch[0], found)

    def _detect_halves(self, batch: Sequence[Prepared], journal: Journal) -> Iterator[Outcome]:
        middle = len(batch) // 2
        yield from self.detect(batch[:middle], journal)
        yield from self.detect(batch[middle:], journal)

    def _extract(
        self, batch: Sequence[Prepared], journal: Journal, *, alone: bool = False
    ) -> Sequence[Regions] | Exception:
        """Return the regions of images, or what the detector tripped over; alone: with no other shard at it.

        Raises DeviceLostError where the GPU is out of order, for which an image may be to blame: the journal tells.
        """
        with journal.detecting([item.row for item in batch]), self._turns.at_images(alone=alone):
            try:
                images: list[Any] = [item.detector_input for item in batch]
                found = self._extractor.extract(images, [item.boxes for item in batch])
                return self._checked(found, len(batch))
            except ExtractorError:
                raise
            except Exception as error:  # the per-image boundary: whatever a detector trips over is written down
                if is_device_lost(error):
                    raise DeviceLostError(f"the GPU failed: {first_line(error)}; run the same command again") from error
                # Without its frames, which hold the tensors of the batch: the halves need their memory.
                return error.with_traceback(None)

    def _checked(self, found: Sequence[Regions], images: int) -> Sequence[Regions]:
        """Return what the detector returned; raise ExtractorError where it breaks the contract of `Extractor`."""
        width = self._extractor.feature_dim
        if len(found) != images or not all(isinstance(regions, Regions) for regions in found):
            raise ExtractorError(f"the detector returned {len(found)} results for {images} images, expected Regions")
        if other := [it.features.shape[1] for it in found if it.features.shape[1] != width]:
            raise ExtractorError(f"the detector's features have {other[0]} channels, but its feature_dim is {width}")
        return found

    def _stored(self, item: Prepared, made: Sample | FailureRow) -> Sample | FailureRow:
        """Return the sample with its features as they are to be stored, or the failure of one that cannot be."""
        if isinstance(made, FailureRow) or self._stored_dtype not in LEAST_COSINE:
            return made
        try:
            return made.with_features(self._stored_dtype)
        except PrecisionError as error:
            return failure(item.row, item.record, ImageError("feature_precision", str(error)))

    def _failed_alone(self, item: Prepared, error: Exception) -> FailureRow:
        self._errors += 1
        if self._errors >= DETECTOR_ERRORS_IN_A_ROW:
            raise ExtractorError(
                f"the detector failed on {self._errors} images in a row, "
                f"last on {mask_credentials(item.record.uri)}: {type(error).__name__}: {error}"
            ) from error
        reason = "out_of_memory" if is_out_of_memory(error) else "detector_error"
        return failure(item.row, item.record, ImageError(reason, f"{type(error).__name__}: {first_line(error)}"))


HARMLESS = ("no kernel image", "invalid device function", "invalid configuration argument")
"""In the messages of CUDA's errors: those after which the process can go on."""


def is_out_of_memory(found: object) -> bool:
    """Return whether this is the error of a GPU or a machine whose memory is full."""
    return isinstance(found, Exception) and out_of_memory_device(found) is not None


def is_device_lost(error: Exception) -> bool:
    """Say whether it is an error after which all that the process asks of its GPU fails: Xid, ECC, illegal access."""
    import torch

    harmless = is_out_of_memory(error) or any(reason in str(error) for reason in HARMLESS)
    return isinstance(error, torch.AcceleratorError) and not harmless


def outcome(item: Prepared, regions: Regions) -> Sample | FailureRow:
    """Return the sample of an image with these regions, or the failure of one without any."""
    if not len(regions):
        return failure(item.row, item.record, ImageError("no_regions", "the detector proposed no region"))
    record, image = item.record, item.image
    return Sample(
        key=sample_key(record.image_id),
        regions=regions,
        meta={
            "image_id": record.image_id,
            "captions": list(record.captions),
            "split": record.split,
            "uri": mask_credentials(record.uri),
            "sha256": item.sha256,
            "format": image.format,
            "mode": image.mode,
            "transposed": image.transposed,
        },
        image=item.data,
    )
