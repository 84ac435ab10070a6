"""Write a manifest with unique ids: write all rows, check them, and write again without duplicates if requested."""

from __future__ import annotations

import logging
import time
from array import array
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from vilbert.manifests.manifest import ROWS_PER_GROUP, Manifest, ManifestWriter
from vilbert.manifests.record import ImageRecord, ManifestError
from vilbert.manifests.repeats import Repeats, later_rows
from vilbert.manifests.report import EXAMPLES, Report

log = logging.getLogger(__name__)
_LOG_EVERY_S = 10.0


def write_unique(
    batches: Iterable[list[ImageRecord]],
    path: Path,
    report: Report,
    *,
    keep_first: bool = False,
    orientation: bool = False,
) -> Manifest:
    """Write rows to a manifest at `path` in which every id is unique. Duplicate URIs are counted and kept.

    The file at `path` is a draft until this returns, because the check needs all rows.

    Args:
        batches: The rows.
        path: The file to write.
        report: Receives the counts.
        keep_first: Keep the first of rows with the same id and count the others, instead of raising an error.
        orientation: As for `ManifestWriter`.

    Raises:
        ManifestError: Ids are not unique and `keep_first` is False. The message has examples.
    """
    with Repeats(path.parent) as ids, Repeats(path.parent) as uris:
        manifest = _write(batches, path, ids, uris, orientation)
        doubled = later_rows(manifest, "image_id", ids)
        if examples := list(islice(doubled, EXAMPLES)):
            if not keep_first:
                shown = "; ".join(f"{value!r} in rows {first} and {row}" for row, value, first in examples)
                raise ManifestError(
                    f"image ids must be unique, and {len(ids.repeated()):,} rows repeat an earlier one: {shown}. "
                    "Fix the source, create one manifest per source, or keep the first row of each id with "
                    "--duplicate-ids first"
                )
            later = array("q")
            for row, value, first in later_rows(manifest, "image_id", ids):
                report.count("duplicate-id", f"row {row} has the id {value!r} of row {first}")
                later.append(row)
            return write_unique(_without(manifest, later), path, report, orientation=orientation)
        _count_uris(manifest, uris, report)
    return manifest


def _write(
    batches: Iterable[list[ImageRecord]], path: Path, ids: Repeats, uris: Repeats, orientation: bool
) -> Manifest:
    started = logged = time.monotonic()
    with ManifestWriter(path, orientation=orientation) as writer:
        for batch in batches:
            writer.write(batch)
            ids.add(record.image_id for record in batch)
            uris.add(record.uri for record in batch)
            if writer.rows and (now := time.monotonic()) - logged > _LOG_EVERY_S:
                log.info("%s rows, %s rows/s", f"{writer.rows:,}", f"{writer.rows / (now - started):,.0f}")
                logged = now
        return writer.commit()


def _without(manifest: Manifest, rows: array[int]) -> Iterator[list[ImageRecord]]:
    """Yield a manifest's rows except the given ascending row numbers."""
    at = 0
    for start in range(0, manifest.rows, ROWS_PER_GROUP):
        kept = []
        for row, record in enumerate(manifest.read(start, min(start + ROWS_PER_GROUP, manifest.rows)), start):
            if at < len(rows) and rows[at] == row:
                at += 1
            else:
                kept.append(record)
        yield kept


def _count_uris(manifest: Manifest, uris: Repeats, report: Report) -> None:
    """Count duplicate URIs by their 64-bit hashes. The examples are compared in full.

    Among 100 million rows, the probability that two different URIs have the same hash is 3 in 10,000.
    """
    examples = list(islice(later_rows(manifest, "uri", uris), EXAMPLES))
    for row, value, first in examples:
        report.count("duplicate-uri", f"row {row} has the uri of row {first}: {value}")
    if len(examples) == EXAMPLES:
        report.count("duplicate-uri", "", len(uris.repeated()) - EXAMPLES)
