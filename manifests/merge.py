"""Merge consecutive rows of the same image into one row with all their captions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from vilbert.manifests.record import ImageRecord
from vilbert.manifests.report import Report


def merge_rows(rows: Iterable[tuple[str, ImageRecord]], report: Report) -> Iterator[tuple[str, ImageRecord]]:
    """Yield (place, record), merging consecutive records that differ only in their captions.

    Many tables list an image once for each of its captions. Rows with the same id that are not consecutive, and rows
    that are equal in every field, are not merged.
    """
    last: tuple[str, ImageRecord] | None = None
    for where, record in rows:
        if last is None:
            last = where, record
        elif record.image_id == last[1].image_id and record != last[1] and _image(record) == _image(last[1]):
            report.count("merged-row", f"{where}: {record.image_id}")
            last = last[0], last[1]._replace(captions=last[1].captions + record.captions)
        else:
            yield last
            last = where, record
    if last is not None:
        yield last


def _image(record: ImageRecord) -> ImageRecord:
    """Return a record without its captions."""
    return record._replace(captions=())
