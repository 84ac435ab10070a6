"""Read the rows of all sources in order, and apply `--exclude-ids`, `--given-boxes` and `--limit`."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from vilbert.manifests.exclusion import Exclusion
from vilbert.manifests.given_boxes import GivenBoxes
from vilbert.manifests.hold_out import HeldOutRows
from vilbert.manifests.orientation import Orientation
from vilbert.manifests.readers.coco import read_coco
from vilbert.manifests.readers.columns import ColumnNames
from vilbert.manifests.readers.conceptual_captions import read_conceptual_captions
from vilbert.manifests.readers.detect import Kind, detect_kind
from vilbert.manifests.readers.folder import read_folder
from vilbert.manifests.readers.images import ImageRoot
from vilbert.manifests.readers.img2dataset import read_img2dataset
from vilbert.manifests.readers.karpathy import read_karpathy
from vilbert.manifests.readers.table import read_table
from vilbert.manifests.record import ImageRecord, ManifestError
from vilbert.manifests.report import Report
from vilbert.manifests.settings import ManifestSettings

log = logging.getLogger(__name__)
BATCH = 4096
_WITH_IMAGES = ("coco", "karpathy", "csv", "jsonl", "json", "parquet")
_WITH_COLUMNS = ("csv", "jsonl", "json", "parquet", "folder")


def source_kinds(settings: ManifestSettings) -> list[tuple[Path, Kind]]:
    """Return every source with its kind. Raise ManifestError for the first that does not exist or is unknown."""
    for path in settings.sources:
        if not path.exists():
            raise ManifestError(f"{path}: no such file or folder")
        if not path.is_dir() and not path.is_file():  # a pipe would lose the bytes that detection reads
            raise ManifestError(
                f"{path}: not a regular file or folder; sources are read twice, so write it to a file first"
            )
        if settings.kind not in (None, "parquet") and path.is_dir() is not (settings.kind in ("img2dataset", "folder")):
            what = "folder" if path.is_dir() else "file"
            raise ManifestError(f"{path} is a {what}, which --kind {settings.kind} does not read")
    columns = column_names(settings)
    kinds = [(path, settings.kind or detect_kind(path, columns)) for path in settings.sources]
    if settings.images is not None and not any(kind in _WITH_IMAGES for _, kind in kinds):
        raise ManifestError(
            f"--images {settings.images}: has no effect on {', '.join(sorted({kind for _, kind in kinds}))}"
        )
    if not any(kind in _WITH_COLUMNS for _, kind in kinds):
        no_effect = f"has no effect on {', '.join(sorted({kind for _, kind in kinds}))}"
        if columns.named:
            raise ManifestError(f"--uri-column and --caption-column: {no_effect}")
        if columns.box_format is not None and settings.given_boxes is None:
            raise ManifestError(f"--box-format: {no_effect} without --given-boxes, because they hold no boxes")
    return kinds


def column_names(settings: ManifestSettings) -> ColumnNames:
    """Return the columns that the user named."""
    return ColumnNames(uri=settings.uri_column, caption=settings.caption_column, box_format=settings.box_format)


def read_source(
    path: Path, kind: Kind, settings: ManifestSettings, images: ImageRoot | None, report: Report
) -> Iterator[ImageRecord]:
    """Return the records of one source from its reader."""
    split, check_files, columns = settings.split, settings.check_files, column_names(settings)
    incomplete = settings.incomplete_shards == "read"
    match kind:
        case "conceptual-captions":
            return read_conceptual_captions(path, report, split=split)
        case "img2dataset":
            return read_img2dataset(path, report, check_files=check_files, incomplete=incomplete, split=split)
        case "coco":
            return read_coco(path, report, images=images, split=split)
        case "karpathy":
            return read_karpathy(path, report, images=images, split=split)
        case "folder":
            return read_folder(
                path, report, split=split, columns=columns, check_files=check_files, incomplete=incomplete
            )
        case "csv" | "jsonl" | "json" | "parquet":
            return read_table(
                path, report, kind=kind, columns=columns, images=settings.images, check_files=check_files, split=split
            )


def read_batches(settings: ManifestSettings, report: Report) -> Iterator[list[ImageRecord]]:
    """Yield the rows of all sources in batches. Missing and unknown sources are reported before the first batch."""
    kinds = source_kinds(settings)
    images = ImageRoot(settings.images, check_files=settings.check_files) if settings.images else None
    exclusion = Exclusion(settings.exclude_ids) if settings.exclude_ids else None
    boxes = (
        GivenBoxes(settings.given_boxes, report, settings.box_format, min_score=settings.min_box_score)
        if settings.given_boxes
        else None
    )
    held_out = None if settings.hold_out is None else HeldOutRows(settings.hold_out, settings.seed)
    orientation = Orientation(settings.exif_orientation)
    left = settings.limit
    for path, kind in kinds:
        report.start_source(str(path), kind)
        records = read_source(path, kind, settings, images, report)
        records = orientation.set(records, kind)
        if exclusion:
            records = exclusion.filter(records, report)
        if boxes:
            records = boxes.join(records, report)
        if held_out:
            records = held_out.split(records)
        while batch := list(islice(records, BATCH if left is None else min(BATCH, left))):
            report.add_rows(len(batch))
            left = None if left is None else left - len(batch)
            yield batch
    for join in (exclusion, boxes):
        if join:
            join.count_unmet(report)
    orientation.log_rows()
    if held_out:
        log.info("%s", held_out.summary())
