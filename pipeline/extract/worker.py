"""The work of one worker: rows of a manifest in, a finished shard out. The same with Ray and without.

Two shards are in a worker at a time: while one has the detector, the next is being read and decoded, so the detector
does not wait between shards; on a GPU both have it (`turns`). Nothing in a shard depends on when things happen, or on
which worker they happen.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from threading import Event, Thread

import numpy as np
from numpy.typing import NDArray

from vilbert.extractors.batch import ResizedImage
from vilbert.extractors.decode import ImageError
from vilbert.extractors.detectors.registry import describe_extractor
from vilbert.extractors.extractor import Extractor, ExtractorError, ExtractorSettings, build_extractor
from vilbert.manifests.manifest import Manifest
from vilbert.manifests.record import ImageRecord
from vilbert.manifests.uri import ImageReader
from vilbert.pipeline import __version__
from vilbert.pipeline.errors import StoppedError
from vilbert.pipeline.extract.base_rows import KEPT, KeptImages
from vilbert.pipeline.extract.batches import in_row_order
from vilbert.pipeline.extract.detection import Detection
from vilbert.pipeline.extract.fetching.fetcher import Fetcher
from vilbert.pipeline.extract.kept import Kept, features_alone, keep, keep_values, regions_alone
from vilbert.pipeline.extract.prepare import Prepared, failure, prepare
from vilbert.pipeline.extract.settings import ExtractSettings
from vilbert.pipeline.extract.turns import Turns
from vilbert.pipeline.jobs.journal import Journal, parse_journal
from vilbert.pipeline.jobs.journals import Journals
from vilbert.pipeline.jobs.stall import Pulse
from vilbert.pipeline.jobs.suspects import DETAILS, Verdict, judge, require_sound
from vilbert.pipeline.jobs.worker import Description, ShardDone
from vilbert.pipeline.shards.columns.add import NO_SAMPLE
from vilbert.pipeline.shards.columns.shard import FeatureWriter
from vilbert.pipeline.shards.dataset import fingerprint_digest
from vilbert.pipeline.shards.failures import FailureRow
from vilbert.pipeline.shards.location.folder import open_folder
from vilbert.pipeline.shards.location.layout import shard_files
from vilbert.pipeline.shards.sample import Sample
from vilbert.pipeline.shards.storage.store import SampleWriter
from vilbert.pipeline.shards.storage.writer import ShardWriter

JOURNAL_SECONDS = 1.0
"""For which the closing of journals is waited for when the work is to stop: a store may not answer."""

NO_PIXELS = np.empty((0, 0, 3), np.uint8)
"""Of an image that is resized already: its own are not needed any more."""

ROWS_LOOKED_AT = 1000
"""Of the manifest's beginning, for URLs that cannot be fetched here at all."""


class Worker:
    """Holds a detector, the manifest and decoding threads. Its methods may be called from several threads."""

    def __init__(self, settings: ExtractSettings) -> None:
        self._settings = settings
        self._folder = open_folder(settings.output)
        self._journals = Journals(self._folder)
        self._fetcher = Fetcher(settings.fetching, ImageReader(), max_bytes=settings.decoding.max_bytes)
        self._decoders = ThreadPoolExecutor(settings.cpus_per_worker, thread_name_prefix="decode")
        self._stop = Event()
        self._open_journals: dict[int, Journal] = {}
        self._detecting: set[Journal] = set()
        self._ended_beats = 0
        self._rows_done: dict[int, int] = {}
        self._preparing: set[int] = set()

    def start(self) -> Description:
        """Build the detector. Raises ExtractorError where it cannot be built."""
        import torch

        settings = self._settings
        torch.set_num_threads(settings.cpus_per_worker)
        self._manifest = Manifest.open(settings.manifest)
        self._fetcher.check(record.uri for record in self._manifest.read(0, min(ROWS_LOOKED_AT, self._manifest.rows)))
        extractor: Extractor = build_extractor(
            ExtractorSettings(detector=settings.detector, selection=settings.selection)
        )
        facts = describe_extractor(extractor, settings.detector.detector, settings.detector.opts)
        if settings.column is not None:
            self._kept_images = KeptImages(Path(settings.output).parents[1])
        self._turns = Turns(str(facts["device"]))
        self._resize: Callable[[NDArray[np.uint8]], ResizedImage] | None = getattr(extractor, "resize", None)
        self._detection = Detection(extractor, settings.batch_size, self._turns, feature_dtype=settings.feature_dtype)
        soft_labels = bool(getattr(extractor, "soft_labels", extractor.class_names))
        fingerprint = {
            "format": 3 if settings.feature_dtype != "float16" else 1 if soft_labels else 2,
            "extractor": facts,
            "decoding": asdict(settings.decoding),
            "batch_size": settings.batch_size,
            **({"feature_dtype": settings.feature_dtype} if settings.feature_dtype != "float16" else {}),
            **({"keep_images": True} if settings.keep_images else {}),
            **({"boxes_from": settings.boxes_from} if settings.column is not None else {}),
            **({"labels": True} if settings.labels and settings.boxes_from == "base" else {}),
            # Sums are taken in another order with another number of threads, which can change a last bit.
            **({"cpus_per_worker": settings.cpus_per_worker} if facts["device"] == "cpu" else {}),
        }
        self._fingerprint = fingerprint_digest(fingerprint)
        return Description(
            fingerprint=fingerprint,
            feature_dim=extractor.feature_dim,
            class_names=extractor.class_names,
            soft_labels=soft_labels,
            attribute_names=extractor.attribute_names,
            software={"vilbert-pipeline": __version__, "python": platform.python_version()}
            | {name: version(name) for name in ("torch", "torchvision", "pillow", "numpy")},
        )

    def make_shard(self, shard: int, rows: tuple[int, int], retry: bool = False) -> ShardDone:
        """Write the shard of the manifest rows [start, stop) and return what it holds.

        retry: try again what failed and keep what is there. Rows that ended earlier attempts are left out.
        """
        import torch

        begun = time.monotonic()
        settings = self._settings
        torch.set_num_threads(settings.cpus_per_worker)  # holds for the calling thread
        records = dict(enumerate(self._manifest.read(*rows), rows[0]))
        history = self._journals.read(shard)
        attempts = parse_journal(history or b"", range(*rows))
        verdict = judge(attempts)
        require_sound(verdict, self._journals, shard=shard)
        with ExitStack() as stack:
            died = history is None or not all(attempt.ended for attempt in attempts)
            journal = stack.enter_context(Journal(self._journals.open(shard, careful=died), keep=died))
            self._open_journals[shard] = journal
            stack.callback(self._forget, shard)
            there = stack.enter_context(self._kept(shard, records, retry))
            kept = {**there, **quarantined(records, verdict)}
            create: Callable[[Path], SampleWriter] | None = None
            if settings.column is not None:
                kept |= without_sample(records)
                create = None if settings.labels else partial(FeatureWriter, name=settings.column)
            directory = stack.enter_context(self._folder.building())
            writer = stack.enter_context(ShardWriter(directory, shard=shard, format=settings.format, create=create))
            failures: list[FailureRow] = []
            dropped = 0
            for row, outcome in enumerate(self._outcomes(records, kept, journal, verdict), rows[0]):
                if isinstance(outcome, FailureRow) and outcome.reason == NO_SAMPLE:
                    dropped += 1
                elif isinstance(outcome, FailureRow):
                    failures.append(outcome)
                else:
                    if settings.boxes_from == "base":
                        require_given_boxes(outcome, records[row])
                    writer.add(outcome)
                self._rows_done[shard] = self._rows_done.get(shard, 0) + 1
            journal.flush()
            left_out = {NO_SAMPLE: dropped} if dropped else {}
            record = writer.commit(rows=rows, failures=failures, fingerprint=self._fingerprint, dropped=left_out)
            self._folder.publish(directory, shard_files(shard, settings.format))
            journal.remove()
        if died:
            self._journals.remove(shard)
        return ShardDone(record, time.monotonic() - begun, self._turns.take_seconds(), len(there))

    def try_rows(self, rows: Sequence[int]) -> list[Sample | FailureRow]:
        """Return what some rows of the manifest become, and write nothing."""
        records = [self._manifest.read(row, row + 1)[0] for row in rows]
        return list(self._outcomes(dict(enumerate(records)), {}, Journal(), judge(())))

    def pulse(self) -> Pulse:
        """Return a sign of life; a worker that is there has one beat at least."""
        journals = self._open_journals.copy()
        beats = 1 + self._ended_beats + sum(journal.beats for journal in journals.values())
        at_it = {shard: journal.beats for shard, journal in journals.items() if journal in self._detecting}
        return Pulse(sum(self._rows_done.copy().values()), beats, at_it)

    def stop(self, *, hung: bool = False) -> None:
        """Let every `make_shard` under way leave with StoppedError after its current batch.

        hung: because nothing moves in it, for which an image is to blame.
        """
        journals = self._open_journals.copy().values()
        ends = [Thread(target=journal.leave if hung else journal.end, daemon=True) for journal in journals]
        for end in ends:
            end.start()
        patience = time.monotonic() + JOURNAL_SECONDS
        for end in ends:
            end.join(max(0.0, patience - time.monotonic()))
        self._stop.set()
        self._fetcher.stop()
        self._decoders.shutdown(wait=False, cancel_futures=True)

    def is_preparing(self) -> bool:
        """Say whether a thread is fetching, reading or decoding an image."""
        return bool(self._preparing) or self._fetcher.is_busy()

    def _kept(self, shard: int, records: Mapping[int, ImageRecord], retry: bool) -> AbstractContextManager[Kept]:
        if not retry:
            return nullcontext({})
        if (column := self._settings.column) is not None and not self._settings.labels:
            return keep_values(self._folder, shard, column, records, self._settings.retry_failed or ())
        return keep(self._folder, shard, self._settings.format, records, self._settings.retry_failed or ())

    def _outcomes(
        self, records: Mapping[int, ImageRecord], kept: Kept, journal: Journal, verdict: Verdict
    ) -> Iterator[Sample | FailureRow]:
        """Yield what becomes of each row, in their order."""
        wanted = {row: record for row, record in records.items() if row not in kept}
        if verdict.suspects:
            with self._turn(journal):
                self._try_alone({row: wanted[row] for row in verdict.suspects if row in wanted}, journal)
        with self._prepared(wanted.items(), journal, slow=verdict.slow) as prepared, self._turn(journal):
            self._leave_if_stopped()
            found = self._detection.outcomes(prepared, journal, verdict.singly)
            for outcome in in_row_order(found, kept, first_row=min(records)):
                self._leave_if_stopped()
                yield outcome if self._settings.column is None else self._of_column(outcome)

    def _of_column(self, outcome: Sample | FailureRow) -> Sample | FailureRow:
        """Return a row as the column holds it."""
        return regions_alone(outcome) if self._settings.labels else features_alone(outcome)

    @contextmanager
    def _turn(self, journal: Journal) -> Iterator[None]:
        """Wait for the detector and have it for the length of the block, in which the shard has to move."""
        with self._turns.turn():
            self._detecting.add(journal)
            try:
                yield
            finally:
                self._detecting.discard(journal)

    def _try_alone(self, suspects: Mapping[int, ImageRecord], journal: Journal) -> None:
        """Run every step that may end the process for each row alone, and discard the result."""
        for row, record in suspects.items():
            self._leave_if_stopped()
            journal.note("alone", [row])
            item = self._prepare(row, record, journal)
            if isinstance(item, Prepared):
                list(self._detection.detect([item], journal))
            journal.note("passed", [row])
        journal.flush()

    @contextmanager
    def _prepared(
        self, rows: Iterable[tuple[int, ImageRecord]], journal: Journal, *, slow: bool
    ) -> Iterator[Iterator[Prepared | FailureRow]]:
        """Give the rows read and decoded: ahead of their being asked for, or `slow`, one at a time."""

        def decoded(item: tuple[int, ImageRecord], read: Callable[[], bytes] | None = None) -> Prepared | FailureRow:
            self._leave_if_stopped()
            journal.note("decode", [item[0]])
            try:
                return self._prepare(*item, journal, read)
            finally:
                journal.note("decoded", [item[0]])

        if slow:
            yield map(decoded, rows)
            return
        window = 2 * self._settings.batch_size
        with self._fetcher.ahead(rows, decoded, self._decoders, window=window, beat=journal.beat) as prepared:
            yield prepared

    def _prepare(
        self, row: int, record: ImageRecord, journal: Journal, read: Callable[[], bytes] | None = None
    ) -> Prepared | FailureRow:
        settings = self._settings
        read = read or partial(self._fetcher.read, record.uri, journal.beat)
        if settings.column is not None and record.uri.startswith(KEPT):
            read = partial(self._kept_images.read, row, record.uri.removeprefix(KEPT))
        self._preparing.add(row)
        try:
            item = prepare(
                row,
                record,
                settings.decoding,
                read,
                keep=settings.keep_images,
                of_dataset=settings.column is not None,
                own_boxes=settings.boxes_from == "own",
            )
            return item if isinstance(item, FailureRow) else self._resized(item)
        finally:
            self._preparing.discard(row)

    def _resized(self, item: Prepared) -> Prepared:
        """Resize the image here, in a thread that decodes, where the detector resizes on the CPU."""
        if self._resize is None:
            return item
        try:
            resized = self._resize(item.image.pixels)
            return replace(item, resized=resized, image=replace(item.image, pixels=NO_PIXELS))
        except Exception:  # the detector does it again, where an error is recorded as this image's failure
            return item

    def _leave_if_stopped(self) -> None:
        if self._stop.is_set():
            raise StoppedError

    def _forget(self, shard: int) -> None:
        self._rows_done.pop(shard, None)
        self._ended_beats += self._open_journals.pop(shard).beats


def without_sample(records: Mapping[int, ImageRecord]) -> Kept:
    """Return the rows of `write_base_rows` that have no sample, which are left out."""
    return {
        row: partial(FailureRow, row=row, image_id=record.image_id, uri=record.uri, reason=NO_SAMPLE, detail="")
        for row, record in records.items()
        if record.boxes_xyxy is None
    }


def require_given_boxes(sample: Sample, record: ImageRecord) -> None:
    """Raise ExtractorError where a detector returned other regions than those at a row's given boxes."""
    if record.boxes_xyxy is not None and len(sample.regions) != len(record.boxes_xyxy):
        raise ExtractorError(
            f"the detector returned {len(sample.regions)} regions for {len(record.boxes_xyxy)} given boxes of image "
            f"{record.image_id!r:.80}: it does not compute features at given boxes; choose another detector"
        )


def quarantined(records: Mapping[int, ImageRecord], verdict: Verdict) -> Kept:
    """Return the failures of the rows that are left out."""
    return {
        row: partial(failure, row, records[row], ImageError(reason, DETAILS[reason]))
        for row, reason in verdict.quarantined.items()
    }
