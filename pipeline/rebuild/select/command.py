"""`vilbert select`: write which samples of a data set are used into a small file."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from annotated_types import Interval
from tyro.conf import Positional

from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.rebuild.scores.hamming import MAX_DISTANCE
from vilbert.pipeline.rebuild.select.leaks import REASONS, Leak, Other, Reason
from vilbert.pipeline.rebuild.where import parse_where
from vilbert.pipeline.shards.location.folder import Folder, open_folder
from vilbert.pipeline.shards.location.place_option import PlaceOption
from vilbert.pipeline.terminal import counted, print_lines
from vilbert.settings import validated

if TYPE_CHECKING:
    from vilbert.pipeline.rebuild.select.rows import Rows
    from vilbert.pipeline.shards.selection.file import SelectionFile

logger = logging.getLogger(__name__)
SHOWN = 5
"""Number of samples that are named for each reason."""
IN_WORDS: dict[Reason, str] = {"id": "the same image id", "hash": "the same bytes", "near": "near-duplicates"}


@validated
class SelectSettings:
    """Select samples of a data set and write the selection to a small file, for --selection of pretrain, finetune,
    convert, browse and stats. No shard is rewritten.

    Examples: vilbert select features --where "quality.aesthetic > 5" --output good.parquet
    vilbert select features --not-in test_features --output train.parquet
    """

    directory: Positional[PlaceOption]
    """Folder of the data set, or its URL."""
    output: Path
    """File to write (.parquet). An existing selection is replaced; any other existing file is refused."""
    where: str | None = None
    """Keep only samples for which this expression over their metadata and columns is true: "width >= 200 and
    quality.aesthetic > 5 and 'dog' in captions"."""
    selection: Path | None = None
    """Select among the samples of this file of `vilbert select`; default: among all."""
    not_in: tuple[PlaceOption, ...] = ()
    """Exclude images that are also in these data sets, manifests, or files of image ids."""
    by: tuple[Reason, ...] = REASONS
    """Criteria of --not-in for the same image: id, hash (SHA-256 of the bytes), near (perceptual hash)."""
    distance: Annotated[int, Interval(ge=0, le=MAX_DISTANCE)] = 4
    """With --by near: maximum number of the 64 bits in which two perceptual hashes differ."""
    json: bool = False
    """Print one JSON object instead of text."""

    def __post_init__(self) -> None:
        if self.where is not None:
            parse_where(self.where)
        if not self.by:
            raise ValueError(f"--by: give one or more of {', '.join(REASONS)}")
        if self.where is None and self.selection is None and not self.not_in:
            raise ValueError("--where or --not-in: give at least one of them; otherwise all samples would be selected")


def select(settings: SelectSettings) -> int:
    """Write the selection and return 0."""
    from vilbert.pipeline.rebuild.convert.outcome import place_name
    from vilbert.pipeline.rebuild.select.leaks import require_phash, require_sha256
    from vilbert.pipeline.rebuild.select.rows import scan_rows
    from vilbert.pipeline.rebuild.select.values import ValueColumns
    from vilbert.pipeline.shards.dataset import read_info
    from vilbert.pipeline.shards.record import read_each_record
    from vilbert.pipeline.shards.selection.file import require_replaceable, write_selection
    from vilbert.pipeline.shards.selection.match import read_selection

    require_replaceable(settings.output)
    folder = open_folder(settings.directory)
    info = read_info(folder)
    if not info.complete or info.records_sha256 is None:
        raise RefusedError(f"{folder.name}: is not complete; run the command that writes it again until it is")
    within = None
    if settings.selection is not None:
        samples = [record.samples for record in read_each_record(folder, range(info.shards))]
        within = read_selection(settings.selection, info.records_sha256, samples, folder.name)
    columns = ValueColumns(folder, info)
    where = None if settings.where is None else parse_where(settings.where)
    near = bool(settings.not_in) and "near" in settings.by
    phash = require_phash(columns) if near else None
    rows = list(scan_rows(folder, info, columns, where=where, within=within, phash=phash))
    considered, chosen = sum(it.considered for it in rows), sum(len(it.table) for it in rows)
    if not chosen:
        raise RefusedError(_nothing(folder, settings, considered, {}))
    if settings.not_in and "hash" in settings.by:
        require_sha256(np.concatenate([it.sha256 for it in rows]), folder.name)
    kept, leaks = _without_leaks(settings, rows)
    by_reason = dict(Counter(leak.reason for leak, _ in leaks))
    if not kept.any():
        raise RefusedError(_nothing(folder, settings, considered, by_reason))
    how = {
        "where": settings.where,
        "selection": None if within is None else within.digest,
        "not_in": [place_name(place) for place in settings.not_in],
        **({"by": sorted(settings.by), "distance": settings.distance} if settings.not_in else {}),
    }
    bounds = np.cumsum([0, *(len(it.table) for it in rows)]).tolist()
    tables = [it.table.filter(kept[start:stop]) for it, start, stop in zip(rows, bounds, bounds[1:], strict=False)]
    file = write_selection(settings.output, info, tables, how)
    _report(settings, file, rows, considered, chosen, leaks)
    return 0


def _without_leaks(settings: SelectSettings, rows: list[Rows]) -> tuple[Any, list[tuple[Leak, Other]]]:
    """Return which rows are in none of the other data sets, bool [rows], and the overlaps."""
    from vilbert.pipeline.rebuild.select.leaks import find_leaks, read_other

    kept = np.ones(sum(len(it.table) for it in rows), bool)
    leaks: list[tuple[Leak, Other]] = []
    if not settings.not_in:
        return kept, leaks
    ids = [image_id for it in rows for image_id in it.table.column("image_id").to_pylist()]
    sha256, phash, has_phash = (np.concatenate([getattr(it, name) for it in rows]) for name in _HASHES)
    for place in settings.not_in:
        other = read_other(place, settings.by)
        if "near" in settings.by:
            _warn(other.name, len(other.ids) - len(other.phash_rows), "perceptual hash")
        if "hash" in settings.by and other.sha256 is not None:
            _warn(other.name, int((other.sha256 == 0).sum()), "SHA-256")
        found = find_leaks(ids, sha256, phash, has_phash, other, reasons=settings.by, distance=settings.distance)
        for leak in found:
            if kept[leak.row]:
                kept[leak.row] = False
                leaks.append((leak, other))
    if "near" in settings.by:
        _warn(settings.directory, int((~has_phash).sum()), "perceptual hash")
    if "hash" in settings.by:
        _warn(settings.directory, int((sha256 == 0).sum()), "SHA-256")
    return kept, leaks


def _warn(name: object, without: int, what: str) -> None:
    """Log the number of images that could not be compared."""
    if without:
        logger.warning(
            "%s: %s without a %s, so they were not compared by it",
            name,
            counted(without, "image is", "images are"),
            what,
        )


_HASHES = ("sha256", "phash", "has_phash")


def _nothing(folder: Folder, settings: SelectSettings, considered: int, leaks: dict[Reason, int]) -> str:
    why = [f"{count:,} are left out as {IN_WORDS[reason]}" for reason, count in leaks.items()]
    if settings.where is not None:
        left = considered - sum(leaks.values())
        why.insert(0, f"the expression {settings.where!r:.200} is false for {left:,}")
    return f"{folder.name}: no sample is selected of {considered:,}, so nothing is written: {', '.join(why)}"


def _report(
    settings: SelectSettings,
    file: SelectionFile,
    rows: list[Rows],
    considered: int,
    chosen: int,
    leaks: list[tuple[Leak, Other]],
) -> None:
    """Print what was selected and excluded, with a few names for each reason."""
    ids = [image_id for it in rows for image_id in it.table.column("image_id").to_pylist()] if leaks else []
    left_out = {reason: [it for it in leaks if it[0].reason == reason] for reason in REASONS}
    if settings.json:
        document = {
            "samples": considered,
            "where": considered - chosen,
            "left_out": {reason: len(found) for reason, found in left_out.items() if found},
            "selected": file.samples,
            "digest": file.digest,
        }
        print(json.dumps(document, indent=2))
        return
    lines = [f"{settings.output}: {file.samples:,} of {counted(considered, 'sample')} selected"]
    if settings.where is not None:
        lines.append(f"  not selected by --where: {considered - chosen:,}")
    for reason, found in left_out.items():
        if found or (settings.not_in and reason in settings.by):
            lines.append(f"  left out, {IN_WORDS[reason]}: {len(found):,}")
        for leak, other in found[:SHOWN]:
            bits = f", {counted(leak.distance, 'bit')} apart" if reason == "near" else ""
            lines.append(f"    {ids[leak.row]} is {other.ids[leak.other]} of {other.name}{bits}")
        if len(found) > SHOWN:
            lines.append(f"    and {len(found) - SHOWN:,} more")
    print_lines(lines)
