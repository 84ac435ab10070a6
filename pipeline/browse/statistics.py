"""Charts of a data set: what `vilbert stats` prints, each bar with the filter that shows its samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vilbert.pipeline.browse.columns import SCORE_STEPS
from vilbert.pipeline.browse.filters import ANY, NO_SPLIT, Filters
from vilbert.pipeline.browse.opened import OpenedDataset
from vilbert.pipeline.pages.bars import Bar, Chart
from vilbert.pipeline.shards.viewing.histogram import group_ranges, mean, range_label

MAX_NAMES = 40
SCORE_BINS = 10
KEPT = 16
COUNTABLE = 1 << 20


@lru_cache(maxsize=KEPT)
def charts(dataset: OpenedDataset) -> list[Chart]:
    """Return the charts of a data set, those that its fields allow.

    They are computed once, when the data set is opened: this reads whole columns, which no request may.
    """
    columns, base = dataset.index.columns, f"/{dataset.number}/"
    present = columns["present"] == 1

    def url(**values: Any) -> str:
        return base + Filters(**values).query()

    found = [
        failures(dataset, base),
        Chart(
            "Images by split",
            bars=tuple(
                Bar(name or NO_SPLIT, count, url(split=name or NO_SPLIT))
                for name, count in zip(
                    dataset.index.splits, np.bincount(columns["split"][present]).tolist(), strict=False
                )
            ),
        ),
    ]
    for name, title in (("boxes", "Boxes of an image"), ("captions", "Captions of an image")):
        found.append(distribution(title, columns[name][present], name, base))
    words = columns["caption_words"]
    if not dataset.index.complete:
        words = words[np.repeat(present, columns["captions"].astype(np.int64))]
    found.append(distribution("Words of a caption", words, "words", base))
    shorter = np.minimum(columns["width"], columns["height"])[present]
    found.append(distribution("Shorter side of an image, pixels", shorter, "side", base))
    if dataset.index.objects:
        found += [scores(dataset), *names(dataset)]
    copies = columns["copies"][present]
    repeated = int((copies > 1).sum())
    if repeated:
        found.append(distribution("Images that share their bytes, by number of copies", copies[copies > 1], None, base))
    return [chart for chart in found if chart.bars]


def failures(dataset: OpenedDataset, path: str) -> Chart:
    """Return the failed rows by reason, the most frequent first; path: the page that shows those of a bar."""
    return Chart(
        "Failures by reason",
        bars=tuple(
            Bar(name, count, path + Filters(failure=name).query())
            for name, count in dataset.index.failure_counts.items()
        ),
    )


def distribution(title: str, values: NDArray[Any], name: str | None, base: str) -> Chart:
    """Return a histogram of whole numbers; name: the filter with bounds that shows a range's samples."""
    if len(values) and int(values.max()) < COUNTABLE:
        every = np.bincount(values)
        numbers = np.flatnonzero(every)
        counts = every[numbers]
    else:  # sorting takes longer, and no memory for each number up to the largest
        numbers, counts = np.unique(values, return_counts=True)
    counted: Mapping[int, int] = dict(zip(numbers.tolist(), counts.tolist(), strict=True))

    def url(first: int, last: int) -> str:
        if name is None:
            return base + Filters(same=ANY, sort="copies").query()
        return base + Filters(**{f"{name}_min": first, f"{name}_max": last}).query()  # type: ignore[arg-type]

    bars = tuple(Bar(range_label(first, last), count, url(first, last)) for first, last, count in group_ranges(counted))
    note = ""
    if counted:
        least, most = min(counted), max(counted)
        note = f"always {least:,}" if least == most else f"{least:,} to {most:,}, mean {mean(counted):.1f}"
    return Chart(title, bars=bars, note=note)


def scores(dataset: OpenedDataset) -> Chart:
    """Return the regions by object score."""
    columns = dataset.index.columns
    of_regions = columns["object_scores"]
    if not dataset.index.complete:
        of_regions = of_regions[columns["present"][columns["object_samples"]] == 1]
    steps = np.bincount(of_regions, minlength=SCORE_STEPS)
    bins = steps.reshape(SCORE_BINS, -1).sum(axis=1).tolist()
    return Chart(
        "Boxes by object score",
        bars=tuple(
            Bar(
                f"{at / SCORE_BINS:.1f}-{(at + 1) / SCORE_BINS:.1f}",
                count,
                f"/{dataset.number}/"
                + Filters(score_min=at / SCORE_BINS, score_max=(at + 1) / SCORE_BINS, sort="-score").query(),
            )
            for at, count in enumerate(bins)
        ),
        note="the link shows images that have a box with such a score",
    )


def names(dataset: OpenedDataset) -> Iterable[Chart]:
    """Yield the most frequent classes, and attributes where there are some."""
    for kind, title, known in (
        ("object", "Boxes by object class", dataset.info.class_names),
        ("attribute", "Boxes by attribute", dataset.info.attribute_names),
    ):
        if f"{kind}_starts" not in dataset.index.columns:
            continue
        starts = dataset.index.columns[f"{kind}_starts"].astype(np.int64)
        counts = np.diff(starts)
        if not dataset.index.complete:
            shown = dataset.index.columns["present"][dataset.index.columns[f"{kind}_samples"]]
            counts = np.diff(np.concatenate([[0], np.cumsum(shown, dtype=np.int64)])[starts])
        order = [int(at) for at in np.argsort(-counts, kind="stable")[:MAX_NAMES] if counts[at]]
        bars = []
        for at in order:
            link = f"/{dataset.number}/" + Filters(**{kind: known[at]}).query() if at < len(known) else None  # type: ignore[arg-type]
            bars.append(Bar(known[at] if at < len(known) else "ids without a name", int(counts[at]), link))
        distinct = int((counts > 0).sum())
        note = f"{distinct:,} of {len(known):,} names occur" + (
            f", the {len(bars)} most frequent" if distinct > len(bars) else ""
        )
        yield Chart(title, bars=tuple(bars), note=note)
