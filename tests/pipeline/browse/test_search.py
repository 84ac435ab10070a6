"""Each filter finds what a loop over all samples finds, and pages follow each other without gaps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pytest

from vilbert.pipeline.browse.filters import FilterError, Filters
from vilbert.pipeline.browse.opened import OpenedDataset
from vilbert.pipeline.browse.statistics import charts
from vilbert.pipeline.shards.open_dataset import open_dataset
from vilbert.pipeline.shards.sample import Sample

from ..shards.conftest import ATTRIBUTE_NAMES, CLASS_NAMES, SmallDataset, random_regions, write_small_dataset
from .conftest import Browse

ROWS = 60


def varied(row: int, sample: Sample) -> Sample:
    """Return a row's sample with a number of regions, a size, captions and an image of its own."""
    regions = random_regions(row, boxes=1 + row % 12, width=100 + 10 * (row % 7), height=90 + row)
    captions = [f"word{word} of a {CLASS_NAMES[row % 7]}" * (1 + row % 3) for word in range(row % 4)]
    digest = sample.meta["sha256"] if row % 5 else "ab" * 32
    meta = {**sample.meta, "captions": captions, "sha256": digest}
    return dataclasses.replace(sample, regions=regions, meta=meta)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SmallDataset:
    return write_small_dataset(tmp_path_factory.mktemp("varied"), rows=ROWS, shard_size=7, change=varied)


@pytest.fixture
def opened(made: SmallDataset, browse: Browse) -> OpenedDataset:
    return browse(made.directory).datasets[0]


@pytest.fixture(scope="module")
def samples(made: SmallDataset) -> list[Sample]:
    with open_dataset(made.directory) as dataset:
        return list(dataset)


def has_region(sample: Sample, **wanted: Any) -> bool:
    regions = sample.regions
    fits = np.ones(len(regions), bool)
    if "object" in wanted:
        fits &= regions.object_ids == CLASS_NAMES.index(wanted["object"])
    if "attribute" in wanted:
        assert regions.attribute_ids is not None
        fits &= regions.attribute_ids == ATTRIBUTE_NAMES.index(wanted["attribute"])
    low, high = wanted.get("score_min", 0.0), wanted.get("score_max", 1.1)
    scores = np.floor(regions.object_scores.astype(np.float64) * 100) / 100
    return bool((fits & (scores >= low - 1e-9) & (scores < high - 1e-9)).any())


def words(sample: Sample) -> list[int]:
    return [len(caption.split()) for caption in sample.meta["captions"]]


def shorter(sample: Sample) -> int:
    return min(sample.regions.width, sample.regions.height)


CASES: list[tuple[dict[str, Any], Callable[[Sample], bool]]] = [
    ({}, lambda sample: True),
    ({"caption": "word1 dog"}, lambda it: any("word1 of a dog" in caption for caption in it.meta["captions"])),
    ({"split": "val"}, lambda it: it.meta["split"] == "val"),
    ({"boxes_min": 3, "boxes_max": 5}, lambda it: 3 <= len(it.regions) <= 5),
    ({"captions_max": 0}, lambda it: not it.meta["captions"]),
    ({"words_min": 5, "words_max": 8}, lambda it: any(5 <= count <= 8 for count in words(it))),
    ({"side_min": 120}, lambda it: shorter(it) >= 120),
    ({"object": "dog"}, lambda it: has_region(it, object="dog")),
    ({"attribute": "old"}, lambda it: has_region(it, attribute="old")),
    ({"object": "dog", "attribute": "old"}, lambda it: has_region(it, object="dog", attribute="old")),
    ({"object": "dog", "score_min": 0.5}, lambda it: has_region(it, object="dog", score_min=0.5)),
    ({"score_min": 0.8, "score_max": 0.9}, lambda it: has_region(it, score_min=0.8, score_max=0.9)),
    ({"score_min": 0.97}, lambda it: has_region(it, score_min=0.97)),
    ({"same": "any"}, lambda it: it.meta["sha256"] == "ab" * 32),
    ({"same": "photo_000"}, lambda it: it.meta["image_id"] == "photo.000"),
    (
        {"split": "train", "object": "tree", "boxes_min": 2, "sort": "-boxes"},
        lambda it: it.meta["split"] == "train" and has_region(it, object="tree") and len(it.regions) >= 2,
    ),
]  # fmt: skip


@pytest.mark.parametrize(("values", "fits"), CASES, ids=lambda it: str(it) if isinstance(it, dict) else "")
def test_a_filter_finds_what_a_loop_over_all_samples_finds(
    values: dict[str, Any], fits: Callable[[Sample], bool], opened: OpenedDataset, samples: list[Sample]
) -> None:
    if values.get("same", "any") != "any":
        values = {"same": samples[0].key}
        digest = samples[0].meta["sha256"]
        expected = [number for number, sample in enumerate(samples) if sample.meta["sha256"] == digest]
    else:
        expected = [number for number, sample in enumerate(samples) if fits(sample)]
    page = opened.search.page(Filters(**values))
    assert sorted(page.numbers) == expected
    assert page.matches == len(expected)
    assert [row.key for row in opened.index.at(page.numbers)] == [samples[number].key for number in page.numbers]


@pytest.mark.parametrize(
    ("sort", "figure"),
    [
        ("boxes", lambda it: len(it.regions)), ("-boxes", lambda it: -len(it.regions)),
        ("size", lambda it: it.regions.width * it.regions.height),
        ("-size", lambda it: -it.regions.width * it.regions.height),
        ("score", lambda it: int(it.regions.object_scores.max(initial=0) * 100)),
        ("-score", lambda it: -int(it.regions.object_scores.max(initial=0) * 100)),
        ("copies", lambda it: it.meta["sha256"] != "ab" * 32),
    ],
)  # fmt: skip
def test_samples_come_in_the_order_that_is_asked_for(
    sort: str, figure: Callable[[Sample], Any], opened: OpenedDataset, samples: list[Sample]
) -> None:
    figures = [figure(samples[number]) for number in opened.search.page(Filters(sort=sort)).numbers]
    assert figures == sorted(figures)
    assert len(figures) == len(samples)


def bounds(label: str) -> tuple[int, int]:
    first, _, last = label.partition("-")
    return int(first), int(last or first)


OF_BARS: dict[str, Callable[[Sample, str], int]] = {
    "Images by split": lambda it, label: it.meta["split"] == label,
    "Boxes of an image": lambda it, label: bounds(label)[0] <= len(it.regions) <= bounds(label)[1],
    "Captions of an image": lambda it, label: bounds(label)[0] <= len(it.meta["captions"]) <= bounds(label)[1],
    "Words of a caption": lambda it, label: sum(bounds(label)[0] <= count <= bounds(label)[1] for count in words(it)),
    "Shorter side of an image, pixels": lambda it, label: bounds(label)[0] <= shorter(it) <= bounds(label)[1],
    "Boxes by object class": lambda it, label: int((it.regions.object_ids == CLASS_NAMES.index(label)).sum()),
    "Boxes by attribute": lambda it, label: int((it.regions.attribute_ids == ATTRIBUTE_NAMES.index(label)).sum()),
    "Boxes by object score": lambda it, label: sum(
        int(float(score) * 10) == round(float(label[:3]) * 10) for score in it.regions.object_scores
    ),
    "Images that share their bytes, by number of copies": lambda it, label: it.meta["sha256"] == "ab" * 32,
}
"""What a bar of each chart counts of a sample."""


@pytest.mark.parametrize("title", OF_BARS)
def test_each_bar_counts_and_links_to_what_a_loop_over_all_samples_finds(
    title: str, opened: OpenedDataset, samples: list[Sample]
) -> None:
    (chart,) = [it for it in charts(opened) if it.title == title]
    for bar in chart.bars:
        counts = [int(OF_BARS[title](sample, bar.label)) for sample in samples]
        assert bar.count == sum(counts), bar
        assert bar.url is not None
        filters = Filters.parse(dict(parse_qsl(urlsplit(bar.url).query)))
        found = opened.search.page(filters)
        assert sorted(found.numbers) == [number for number, count in enumerate(counts) if count], bar
        assert Filters.parse(dict(parse_qsl(filters.query()[1:]))) == filters
    assert sum(bar.count for bar in chart.bars) > 10


def test_each_bar_of_failures_links_to_the_rows_of_its_reason(made: SmallDataset, browse: Browse) -> None:
    opened = browse(made.directory).datasets[0]
    (chart,) = [it for it in charts(opened) if it.title == "Failures by reason"]
    for bar in chart.bars:
        assert bar.url is not None
        page = opened.search.page(Filters.parse(dict(parse_qsl(urlsplit(bar.url).query))))
        rows = opened.index.failures_at(page.numbers)
        assert [row.reason for row in rows] == [bar.label] * bar.count
        assert page.matches == bar.count
    assert sum(bar.count for bar in chart.bars) == 3


@pytest.mark.parametrize("reason", ["any", "corrupt", "missing_file"])
def test_failed_rows_are_found_by_reason_and_page_by_page(reason: str, tmp_path: Path, browse: Browse) -> None:
    failed = {row: "corrupt" if row % 3 else "missing_file" for row in range(0, 30, 2)}
    opened = browse(write_small_dataset(tmp_path, rows=30, failed=failed).directory).datasets[0]
    expected = [row for row in failed if reason in ("any", failed[row])]
    filters = Filters(failure=reason, sort="-boxes")  # failed images have no boxes: the order of the manifest stays
    first = opened.search.page(filters, size=4)
    second = opened.search.page(filters, after=first.ranks[-1], size=4)
    assert first.numbers + second.numbers == expected[:8]
    assert (first.matches, second.before) == (len(expected), 4)
    assert opened.search.page(filters, until=second.ranks[0], size=4) == first
    assert [row.row for row in opened.index.failures_at(second.numbers)] == second.numbers


@pytest.mark.parametrize("sort", ["", "-boxes", "shuffled"])
def test_pages_follow_each_other_without_gaps_in_both_directions(sort: str, opened: OpenedDataset) -> None:
    filters = Filters(boxes_min=2, sort=sort)
    whole = opened.search.page(filters).numbers
    forward: list[int] = []
    after = -1
    while (page := opened.search.page(filters, after=after, size=7)).numbers:
        assert page.before == len(forward)
        forward += page.numbers
        after = page.ranks[-1]
    assert forward == whole
    backward: list[int] = []
    until = opened.index.samples
    while (page := opened.search.page(filters, until=until, size=7)).numbers:
        backward = page.numbers + backward
        until = page.ranks[0]
    assert backward == whole


def test_shuffled_is_another_order_and_the_same_each_time(opened: OpenedDataset) -> None:
    shuffled = opened.search.page(Filters(sort="shuffled")).numbers
    assert shuffled != sorted(shuffled)
    assert shuffled == opened.search.page(Filters(sort="shuffled")).numbers


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"object": "dgo"}, "object: .*did you mean dog"), ({"attribute": "none"}, "attribute: "),
        ({"split": "test"}, "split: "), ({"failure": "corupt"}, "failure: .*did you mean corrupt"),
        ({"failure": "any", "split": "val"}, "failure: .*remove the other filters"),
        ({"same": "nobody"}, "same: "), ({"caption": "-dog"}, "caption: "),
    ],
)  # fmt: skip
def test_a_name_that_the_data_set_does_not_have_is_told(
    values: dict[str, str], message: str, opened: OpenedDataset
) -> None:
    with pytest.raises(FilterError, match=message):
        opened.search.page(Filters(**values))  # type: ignore[arg-type]


def test_an_empty_data_set_has_no_pages(tmp_path: Path, browse: Browse) -> None:
    empty = write_small_dataset(tmp_path, rows=2, failed={0: "corrupt", 1: "corrupt"})
    found = browse(empty.directory).datasets[0].search.page(Filters(boxes_min=1, sort="-score"))
    assert found == ([], [], 0, 0)
