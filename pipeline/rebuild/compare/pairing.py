"""A stream of pairs of the images of two sides, by image id."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.extract.prepare import Prepared
from vilbert.pipeline.rebuild.compare.choice import Choice, choose_images, pair_rows
from vilbert.pipeline.rebuild.compare.detector import RunningDetector
from vilbert.pipeline.rebuild.compare.feature_set import FeatureSet
from vilbert.pipeline.rebuild.compare.images import Images
from vilbert.pipeline.rebuild.compare.pair import ImagePair
from vilbert.pipeline.rebuild.compare.settings import CompareSettings
from vilbert.pipeline.rebuild.compare.sides import Side, class_names
from vilbert.pipeline.shards.failures import FailureRow
from vilbert.pipeline.shards.keys import sample_key
from vilbert.pipeline.shards.sample import Sample

BATCHES_AT_ONCE = 4
"""Number of batches that are decoded before a detector runs."""
SHOWN_IDS = 3

Outcome = Sample | FailureRow


class Row(NamedTuple):
    """The positions of an image in both sides."""

    a: int
    b: int


@dataclass(kw_only=True)
class Coverage:
    """Numbers of images that are compared, and that are not."""

    images_a: int | None = None
    """Number of images of A; None for a detector."""
    images_b: int | None = None
    only_a: int = 0
    """Number of examined images of A that B does not have."""
    only_b: int = 0
    sampled: bool = False
    """Whether --limit excluded images."""
    skipped: Counter[str] = field(default_factory=Counter)
    """Selected images that could not be compared, by reason."""
    first_skipped: str = ""
    """The problem of the first of them."""

    def skip(self, side: str, failed: FailureRow) -> None:
        """Count an image for which a side has no regions."""
        self.skipped[f"{side}: {failed.reason}"] += 1
        self.first_skipped = self.first_skipped or f"{failed.image_id} of {side}: {failed.reason}, {failed.detail}"


def pair_images(a: Side, b: Side, images: Images, settings: CompareSettings, coverage: Coverage) -> Iterator[ImagePair]:
    """Yield the images that both sides have; `coverage` counts the images of the sides.

    Raises:
        ShardError: A side is damaged, or the sides have no image in common.
    """
    found = 0
    for row, sample_a, sample_b in _samples(a, b, images, settings, coverage):
        if isinstance(sample_a, FailureRow) or isinstance(sample_b, FailureRow):
            side, failed = ("A", sample_a) if isinstance(sample_a, FailureRow) else ("B", sample_b)
            assert isinstance(failed, FailureRow)
            coverage.skip(side, failed)
            continue
        found += 1
        yield ImagePair(
            image_id=sample_a.meta["image_id"],
            a=sample_a.regions,
            b=sample_b.regions,
            row_a=row.a,
            row_b=row.b,
            min_iou=settings.min_iou,
            names=(class_names(a), class_names(b)),
        )
    if not found:
        why = f"; the first: {coverage.first_skipped}" if coverage.first_skipped else ""
        raise ShardError(f"A and B have no image that can be compared{why}")


def _samples(
    a: Side, b: Side, images: Images, settings: CompareSettings, coverage: Coverage
) -> Iterator[tuple[Row, Outcome, Outcome]]:
    if isinstance(a, RunningDetector) and isinstance(b, RunningDetector):
        yield from _both_run(a, b, images, settings, coverage)
    elif isinstance(a, RunningDetector):
        assert not isinstance(b, RunningDetector)
        for row, stored, extracted in _one_runs(b, a, images, settings, coverage):
            yield Row(row, row), extracted, stored
        coverage.images_a, coverage.images_b = coverage.images_b, coverage.images_a
    elif isinstance(b, RunningDetector):
        for row, stored, extracted in _one_runs(a, b, images, settings, coverage):
            yield Row(row, row), stored, extracted
    else:
        yield from _both_stored(a, b, images, settings, coverage)


def _both_stored(
    a: FeatureSet, b: FeatureSet, images: Images, settings: CompareSettings, coverage: Coverage
) -> Iterator[tuple[Row, Outcome, Outcome]]:
    chosen_a = choose_images(a.keys(), settings.limit, settings.seed)
    chosen_b = choose_images(b.keys(), settings.limit, settings.seed)
    rows = pair_rows(chosen_a, chosen_b)
    coverage.images_a, coverage.images_b = chosen_a.images, chosen_b.images
    coverage.only_a, coverage.only_b = rows.only_a, rows.only_b
    coverage.sampled = not (chosen_a.complete and chosen_b.complete)
    if not len(rows.a):
        raise ShardError(
            f"no image of {a.name} is in {b.name}: A has the ids {_first_ids(a, chosen_a)}, B {_first_ids(b, chosen_b)}"
        )
    images.locate(rows.hashes, settings.seed)
    for row_a, row_b in zip(rows.a.tolist(), rows.b.tolist(), strict=True):
        yield Row(row_a, row_b), a.sample(row_a), b.sample(row_b)


def _first_ids(side: FeatureSet, chosen: Choice) -> str:
    samples = [side.sample(row) for row in sorted(chosen.rows[:SHOWN_IDS].tolist())]
    return ", ".join(it.meta["image_id"] for it in samples if isinstance(it, Sample)) or "of no image"


def _one_runs(
    stored: FeatureSet, detector: RunningDetector, images: Images, settings: CompareSettings, coverage: Coverage
) -> Iterator[tuple[int, Outcome, Outcome]]:
    """Yield row, stored sample and extracted sample of selected images; the counts are A's until they are swapped."""
    chosen = choose_images(stored.keys(), settings.limit, settings.seed)
    coverage.images_a, coverage.sampled = chosen.images, not chosen.complete
    images.locate(chosen.hashes, settings.seed)
    for rows in _blocks(chosen, settings):
        samples = [stored.sample(row) for row in rows]
        prepared = [
            sample if isinstance(sample, FailureRow) else images.prepare(number, sample)
            for number, sample in enumerate(samples)
        ]
        extracted = detector.run(_numbered(prepared))
        yield from zip(rows, samples, extracted, strict=True)


def _both_run(
    a: RunningDetector, b: RunningDetector, images: Images, settings: CompareSettings, coverage: Coverage
) -> Iterator[tuple[Row, Outcome, Outcome]]:
    manifest = images.manifest
    assert manifest is not None  # CompareSettings sees to it
    keys = ((row, sample_key(image_id)) for row, image_id in images.ids())
    chosen = choose_images(keys, settings.limit, settings.seed)
    coverage.sampled = not chosen.complete
    images.locate(chosen.hashes, settings.seed)
    for rows in _blocks(chosen, settings):
        prepared = [images.prepare_record(number, manifest.read(row, row + 1)[0]) for number, row in enumerate(rows)]
        found = zip(rows, a.run(prepared), b.run(prepared), strict=True)
        yield from ((Row(row, row), sample_a, sample_b) for row, sample_a, sample_b in found)


def _blocks(chosen: Choice, settings: CompareSettings) -> Iterator[list[int]]:
    """Yield the selected rows, ascending, in blocks that are decoded before a detector runs."""
    rows = np.sort(chosen.rows)
    size = BATCHES_AT_ONCE * settings.batch_size
    for start in range(0, len(rows), size):
        yield rows[start : start + size].tolist()


def _numbered(items: Iterable[Prepared | FailureRow]) -> list[Prepared | FailureRow]:
    """Return images numbered from 0, because a detector's run expects consecutive rows."""
    return [replace(item, row=number) if isinstance(item, FailureRow) else item for number, item in enumerate(items)]
