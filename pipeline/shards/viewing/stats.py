"""`vilbert stats`: count and summarise a data set, shard by shard."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tyro.conf import Positional

from vilbert.documents import is_digest
from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.shards.dataset import DatasetInfo, Totals, read_info, sum_records
from vilbert.pipeline.shards.location.folder import Folder, open_folder
from vilbert.pipeline.shards.location.layout import data_path
from vilbert.pipeline.shards.location.place_option import PlaceOption
from vilbert.pipeline.shards.parallel import map_shards, worker_count
from vilbert.pipeline.shards.record import read_records_of
from vilbert.pipeline.shards.sample import captions_of
from vilbert.pipeline.shards.selection.file import Selection
from vilbert.pipeline.shards.selection.match import read_selection
from vilbert.pipeline.shards.storage.atomic import write_atomic
from vilbert.pipeline.shards.storage.store import open_shard
from vilbert.pipeline.shards.viewing.describe import name_of
from vilbert.pipeline.shards.viewing.histogram import bars, group_counts, mean
from vilbert.pipeline.terminal import print_lines
from vilbert.settings import NonNegativeInt, validated

SCORE_BINS = 10
SHOWN_DUPLICATES = 5
_NO_HASH = 0
"""Placeholder for an image whose sha256 is unknown."""


@validated
class StatsSettings:
    """Print statistics of a data set: images, failures, boxes, scores, captions, classes, sizes and duplicate
    images."""

    directory: Positional[PlaceOption]
    """Folder of the data set, or its URL; with a URL, each shard is downloaded once."""
    selection: Path | None = None
    """File of `vilbert select`: count only these samples. Failures and file sizes are those of the complete data
    set."""
    top_classes: NonNegativeInt = 20
    """Number of most frequent object classes to list."""
    num_workers: NonNegativeInt = 0
    """Worker processes; 0: one per core, none for a small data set."""
    json: bool = False
    """Print one JSON object instead of text."""
    html: Path | None = None
    """Also write charts to this page (.html), a single file that needs no network."""

    def __post_init__(self) -> None:
        if self.html is not None and self.html.suffix.lower() not in (".html", ".htm"):
            raise ValueError(f"--html {self.html}: give a file name that ends in .html")


@dataclass(kw_only=True, eq=False)
class Summary:
    """Counts of some shards; summaries of disjoint shards can be added."""

    splits: Counter[str] = field(default_factory=Counter)
    """Number of images by split."""
    boxes: Counter[int] = field(default_factory=Counter)
    """Number of images by number of boxes."""
    captions: Counter[int] = field(default_factory=Counter)
    """Number of images by number of captions."""
    words: Counter[int] = field(default_factory=Counter)
    """Number of captions by number of words."""
    classes: Counter[int] = field(default_factory=Counter)
    """Number of boxes by object class id."""
    scores: NDArray[np.int64] = field(default_factory=lambda: np.zeros(SCORE_BINS, np.int64))
    """[SCORE_BINS] number of boxes by object score, from 0 to 1."""
    image_hashes: dict[int, NDArray[np.uint64]] = field(default_factory=dict)
    """By shard: [samples] first 64 bits of the sha256 of each image's bytes."""

    def add(self, other: Summary) -> None:
        """Add the counts of another summary."""
        for name in ("splits", "boxes", "captions", "words", "classes"):
            getattr(self, name).update(getattr(other, name))
        self.scores += other.scores
        self.image_hashes.update(other.image_hashes)


@dataclass(frozen=True, kw_only=True)
class Duplicate:
    """Image bytes that occur in several samples."""

    count: int
    sha256: str
    image_id: str
    """Image id of the first such sample."""


def summarise_shard(folder: Folder, info: DatasetInfo, selection: Selection | None, shard: int) -> Summary:
    """Return the summary of one shard, or of its selected samples; features are not read."""
    summary = Summary()
    hashes: list[int] = []
    name = data_path(Path(), shard, info.storage).as_posix()
    with folder.local([name]) as directory, open_shard(directory / name, verify=False) as reader:
        places = range(len(reader)) if selection is None else selection.of_shard(shard).tolist()
        for sample in map(reader.__getitem__, places):
            regions, captions = sample.regions, captions_of(sample, reader.path)
            summary.splits[str(sample.meta.get("split", ""))] += 1
            summary.boxes[len(regions)] += 1
            summary.captions[len(captions)] += 1
            summary.words.update(len(caption.split()) for caption in captions)
            if regions.object_ids is not None and regions.object_scores is not None:
                summary.classes.update(regions.object_ids.tolist())
                summary.scores += np.histogram(regions.object_scores, SCORE_BINS, (0.0, 1.0))[0]
            digest: Any = sample.meta.get("sha256")
            hashes.append(int(digest[:16], 16) if is_digest(digest) else _NO_HASH)
    summary.image_hashes[shard] = np.array(hashes, np.uint64)
    return summary


def find_duplicates(
    folder: Folder, info: DatasetInfo, summary: Summary, selection: Selection | None
) -> tuple[int, list[Duplicate]]:
    """Return the number of images that share their bytes with another, and the most frequent ones in order."""
    hashes = np.concatenate([*summary.image_hashes.values(), np.empty(0, np.uint64)])
    values, counts = np.unique(hashes[hashes != _NO_HASH], return_counts=True)
    values, counts = values[counts > 1], counts[counts > 1]
    order = np.lexsort((values, -counts))[:SHOWN_DUPLICATES]
    duplicates = []
    for value, count in zip(values[order], counts[order], strict=True):
        shard = min(shard for shard, of_shard in summary.image_hashes.items() if value in of_shard)
        index = int(np.flatnonzero(summary.image_hashes[shard] == value)[0])
        name = data_path(Path(), shard, info.storage).as_posix()
        with folder.local([name]) as directory, open_shard(directory / name, verify=False) as reader:
            meta = reader[index if selection is None else int(selection.of_shard(shard)[index])].meta
        duplicates.append(Duplicate(count=int(count), sha256=meta["sha256"], image_id=meta["image_id"]))
    return int(counts.sum()), duplicates


def stats(settings: StatsSettings) -> int:
    """Print statistics of a data set; for an unfinished one, of its finished shards."""
    folder = open_folder(settings.directory)
    info = read_info(folder)
    records = read_records_of(folder)
    totals = sum_records(records.values())
    summary = Summary()
    samples = [records[shard].samples if shard in records else 0 for shard in range(info.shards)]
    selection = read_selection(settings.selection, info.records_sha256, samples, folder.name)
    function = partial(summarise_shard, folder, info, selection)
    workers = worker_count(settings.num_workers, totals.bytes)
    for of_shard in map_shards(function, list(records), workers=workers, label="stats"):
        summary.add(of_shard)
    document = describe(info, totals, summary, len(records), settings.top_classes)
    repeated, duplicates = find_duplicates(folder, info, summary, selection)
    document["duplicates"] = {"images": repeated, "most_frequent": [vars(duplicate) for duplicate in duplicates]}
    if settings.json:
        print(json.dumps(document, indent=2))
    else:
        print_lines(report(folder.name, info, summary, document))
    if settings.html is not None:
        from vilbert.pipeline.shards.viewing.stats_page import stats_page

        page = stats_page(folder.name, document).encode()
        try:
            write_atomic(settings.html, page)
        except OSError as error:
            raise ShardError(f"--html {settings.html}: cannot be written ({error.strerror or error})") from error
        print(f"{settings.html}: written; open it in a browser", file=sys.stderr)
    return 0


def describe(info: DatasetInfo, totals: Totals, summary: Summary, shards: int, top_classes: int) -> dict[str, Any]:
    """Return the statistics as JSON values, without the duplicates."""
    ordered = {name: dict(sorted(getattr(summary, name).items())) for name in ("splits", "boxes", "captions", "words")}
    most_frequent = sorted(summary.classes.items(), key=lambda item: (-item[1], item[0]))[:top_classes]
    return {
        "complete": info.complete,
        "shards": {"done": shards, "planned": info.shards},
        "rows": info.rows,
        "images": sum(summary.splits.values()),
        "failures": totals.failures,
        "splits": ordered["splits"],
        "bytes": totals.bytes,
        "bytes_per_image": round(totals.bytes / totals.samples) if totals.samples else 0,
        "boxes_per_image": _distribution(ordered["boxes"]),
        "object_scores": {"from": 0.0, "to": 1.0, "counts": summary.scores.tolist()},
        "captions_per_image": _distribution(ordered["captions"]),
        "words_per_caption": _distribution(ordered["words"]),
        "images_without_captions": summary.captions[0],
        "classes": [[name_of(info.class_names, index), count] for index, count in most_frequent],
    }


def _distribution(counts: dict[int, int]) -> dict[str, Any]:
    return {"min": min(counts, default=0), "mean": mean(counts), "max": max(counts, default=0), "counts": counts}


def report(name: str, info: DatasetInfo, summary: Summary, figures: dict[str, Any]) -> list[str]:
    """Return the statistics as lines of text."""
    failures = figures["failures"]
    state = "complete" if info.complete else "incomplete: run the command that wrote it again"
    done = figures["shards"]
    lines = [
        f"{name}: {state}",
        f"  shards    {done['done']:,} of {done['planned']:,}, {info.storage}",
        f"  images    {figures['images']:,} of {figures['rows']:,} rows",
        f"  failures  {sum(failures.values()):,}",
        f"  size      {figures['bytes']:,} bytes, {figures['bytes_per_image']:,} an image",
    ]
    if failures:
        lines += ["", "failures by reason", *bars(sorted(failures.items(), key=lambda item: (-item[1], item[0])))]
    lines += ["", "images by split", *bars([(name or "(none)", count) for name, count in figures["splits"].items()])]
    for name, counts in (("boxes_per_image", summary.boxes), ("captions_per_image", summary.captions)):
        lines += ["", _heading(name.replace("_per_image", " an image"), figures[name]), *bars(group_counts(counts))]
    lines += ["", _heading("words a caption", figures["words_per_caption"]), *bars(group_counts(summary.words))]
    if "object_ids" in info.fields:
        lines += ["", "boxes by object score", *bars(_score_bins(summary.scores))]
    if figures["classes"]:
        lines += ["", "boxes by object class", *bars([(name, count) for name, count in figures["classes"]])]
    duplicates = figures["duplicates"]
    lines += ["", f"images that share their bytes with another: {duplicates['images']:,}"]
    for duplicate in duplicates["most_frequent"]:
        lines.append(
            f"  {duplicate['count']:,} times {duplicate['sha256'][:16]}…, the first is {duplicate['image_id']}"
        )
    return lines


def _score_bins(counts: NDArray[np.int64]) -> list[tuple[str, int]]:
    """Return the counts of score bins with their labels: ("0.0-0.1", 12)."""
    edges = np.linspace(0.0, 1.0, SCORE_BINS + 1)
    return [(f"{low:.1f}-{high:.1f}", int(n)) for low, high, n in zip(edges[:-1], edges[1:], counts, strict=True)]


def _heading(title: str, distribution: dict[str, Any]) -> str:
    return f"{title}: {distribution['min']} to {distribution['max']}, mean {distribution['mean']:.1f}"
