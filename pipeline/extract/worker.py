"""The work of one worker: rows of a manifest in, a finished shard out. The same with Ray and without.

Two shards are in a worker at a time: while one has the detector, the next is being read and decoded, so the detector
does not wait between shards. Nothing in a shard depends on when things happen, or on which worker they happen.
"""

from __future__ import annotations

import platform
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

from extractors.decode import ImageError
from extractors.extractor import Extractor, ExtractorError, ExtractorSettings, build_extractor
from extractors.regions import Regions
from manifests.manifest import Manifest
from manifests.uri import ImageReader
from pipeline import __version__
from pipeline.extract.batches import group_by_shape, map_ahead
from pipeline.extract.prepare import Prepared, failure, prepare
from pipeline.extract.settings import ExtractSettings
from pipeline.shards.dataset import fingerprint_digest
from pipeline.shards.failures import FailureRow
from pipeline.shards.keys import sample_key
from pipeline.shards.record import ShardRecord
from pipeline.shards.sample import FORMAT, Sample
from pipeline.shards.writer import ShardWriter

SHARDS_IN_FLIGHT = 2
"""Of a worker: one has the detector, the other is being decoded."""

DETECTOR_ERRORS_IN_A_ROW = 10
"""After so many failing images without a success between them, the detector is broken, not the images."""


class StoppedError(Exception):
    """The worker was told to stop; its unfinished shards leave nothing behind."""


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a worker's detector is. All workers of a data set have the same."""

    fingerprint: dict[str, Any]
    feature_dim: int
    class_names: tuple[str, ...]
    attribute_names: tuple[str, ...]
    software: dict[str, str]
    """Versions, for the record: they are not part of the fingerprint."""


class Worker:
    """Holds a detector, the manifest and decoding threads. Its methods may be called from several threads."""

    def __init__(self, settings: ExtractSettings) -> None:
        self._settings = settings
        self._detector_turn = threading.Lock()
        self._stop = threading.Event()
        self._rows_in_flight: dict[int, int] = {}
        self._detector_errors = 0

    def start(self) -> Description:
        """Build the detector. Raises ExtractorError where it cannot be built."""
        import torch

        settings = self._settings
        torch.set_num_threads(settings.cpus_per_worker)
        self._manifest = Manifest.open(settings.manifest)
        self._reader = ImageReader()
        self._decoders = ThreadPoolExecutor(settings.cpus_per_worker, thread_name_prefix="decode")
        self._extractor: Extractor = build_extractor(
            ExtractorSettings(detector=settings.detector, selection=settings.selection)
        )
        facts = self._extractor.fingerprint()
        fingerprint = {
            "format": FORMAT,
            "extractor": facts,
            "decoding": asdict(settings.decoding),
            "batch_size": settings.batch_size,
            # Sums are taken in another order with another number of threads, which can change a last bit.
            **({"cpus_per_worker": settings.cpus_per_worker} if facts["device"] == "cpu" else {}),
        }
        self._fingerprint = fingerprint_digest(fingerprint)
        return Description(
            fingerprint=fingerprint,
            feature_dim=self._extractor.feature_dim,
            class_names=self._extractor.class_names,
            attribute_names=self._extractor.attribute_names,
            software={"vilbert-pipeline": __version__, "python": platform.python_version()}
            | {name: version(name) for name in ("torch", "torchvision", "pillow", "numpy")},
        )

    def extract_shard(self, shard: int, rows: tuple[int, int]) -> ShardRecord:
        """Write the shard of the manifest rows [start, stop) and return its record."""
        import torch

        settings = self._settings
        torch.set_num_threads(settings.cpus_per_worker)  # holds for the calling thread
        start, stop = rows
        records = self._manifest.read(start, stop)
        prepared = map_ahead(
            self._decoders,
            lambda item: prepare(*item, settings.decoding, self._reader),
            enumerate(records, start),
            window=2 * settings.batch_size,
        )
        failures: list[FailureRow] = []
        with ShardWriter(settings.output, shard=shard, format=settings.format) as writer:
            try:
                with self._detector_turn:
                    for outcome in self._in_row_order(self._detect_all(prepared), start):
                        if isinstance(outcome, FailureRow):
                            failures.append(outcome)
                        else:
                            writer.add(outcome)
                        self._rows_in_flight[shard] = self._rows_in_flight.get(shard, 0) + 1
                return writer.commit(rows=rows, failures=failures, fingerprint=self._fingerprint)
            finally:
                self._rows_in_flight.pop(shard, None)

    def rows_in_flight(self) -> int:
        """Return how many rows are done of the shards that are not."""
        return sum(self._rows_in_flight.copy().values())

    def stop(self) -> None:
        """Let every `extract_shard` under way leave with StoppedError after its current batch."""
        self._stop.set()

    def _detect_all(self, prepared: Iterator[Prepared | FailureRow]) -> Iterator[tuple[int, Sample | FailureRow]]:
        """Yield (row, sample or failure) as batches get done, so not in the order of rows."""
        failed: list[FailureRow] = []

        def decoded() -> Iterator[Prepared]:
            for item in prepared:
                if isinstance(item, FailureRow):
                    failed.append(item)
                else:
                    yield item

        batches = group_by_shape(
            decoded(),
            lambda item: self._extractor.resized_shape(*item.image.pixels.shape[:2]),
            self._settings.batch_size,
            max_lag=8 * self._settings.batch_size,
        )
        for batch in batches:
            if self._stop.is_set():
                raise StoppedError
            yield from self._detect(batch)
            yield from ((row.row, row) for row in failed)
            failed.clear()
        yield from ((row.row, row) for row in failed)

    def _detect(self, batch: Sequence[Prepared]) -> Iterator[tuple[int, Sample | FailureRow]]:
        """Run the detector on a batch; where that fails, on each half, so that only the image at fault is lost."""
        import torch

        try:
            regions = self._extractor.extract([item.image.pixels for item in batch], [item.boxes for item in batch])
        except ExtractorError:
            raise
        except Exception as error:  # the per-image boundary: whatever a detector trips over is written down
            if len(batch) > 1:
                middle = len(batch) // 2
                yield from self._detect(batch[:middle])
                yield from self._detect(batch[middle:])
                return
            self._detector_errors += 1
            if self._detector_errors >= DETECTOR_ERRORS_IN_A_ROW:
                raise ExtractorError(
                    f"the detector failed on {self._detector_errors} images in a row, "
                    f"last on {batch[0].record.uri}: {type(error).__name__}: {error}"
                ) from error
            reason = "out_of_memory" if isinstance(error, torch.OutOfMemoryError) else "detector_error"
            detail = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            yield batch[0].row, failure(batch[0].row, batch[0].record, ImageError(reason, detail))
            return
        self._detector_errors = 0
        for item, found in zip(batch, regions, strict=True):
            yield (
                item.row,
                sample(item, found)
                if len(found)
                else failure(item.row, item.record, ImageError("no_regions", "the detector proposed no region")),
            )

    @staticmethod
    def _in_row_order(
        outcomes: Iterator[tuple[int, Sample | FailureRow]], first_row: int
    ) -> Iterator[Sample | FailureRow]:
        """Yield the outcomes in the order of their rows, which are first_row, first_row + 1, …"""
        early: dict[int, Sample | FailureRow] = {}
        row = first_row
        for at, outcome in outcomes:
            early[at] = outcome
            while row in early:
                yield early.pop(row)
                row += 1


def sample(item: Prepared, regions: Regions) -> Sample:
    """Return what is stored of one image."""
    record, image = item.record, item.image
    return Sample(
        key=sample_key(record.image_id),
        regions=regions,
        meta={
            "image_id": record.image_id,
            "captions": list(record.captions),
            "split": record.split,
            "uri": record.uri,
            "sha256": item.sha256,
            "format": image.format,
            "mode": image.mode,
            "transposed": image.transposed,
        },
    )
