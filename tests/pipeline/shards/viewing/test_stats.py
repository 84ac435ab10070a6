"""`vilbert stats` counts what is in the shards: each figure against a literal count."""

from __future__ import annotations

import json
import re
import statistics
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vilbert.pipeline.cli import main
from vilbert.pipeline.shards.dataset import sum_records, write_dataset
from vilbert.pipeline.shards.location.layout import data_path
from vilbert.pipeline.shards.sample import Sample
from vilbert.pipeline.shards.storage.store import open_shard
from vilbert.pipeline.shards.viewing.histogram import BAR_WIDTH, bars, group_counts, mean

MakeDataset = Callable[..., Any]
COUNTS = st.dictionaries(st.integers(0, 3000), st.integers(1, 50), max_size=60)


def figures(dataset: Any, capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    assert main(["stats", str(dataset.directory), "--json", *options]) == 0
    return json.loads(capsys.readouterr().out)


def all_samples(dataset: Any) -> list[Sample]:
    samples: list[Sample] = []
    for shard in range(dataset.info.shards):
        with open_shard(data_path(dataset.directory, shard, dataset.info.storage)) as reader:
            samples += list(reader)
    return samples


def fewer_boxes(row: int, sample: Sample) -> Sample:
    regions = sample.regions
    kept = {name: array[: 1 + row % 4] for name, array in regions.arrays().items()}
    return replace(sample, regions=replace(regions, **kept))


@pytest.mark.parametrize("storage", ["tar", "lmdb"])
def test_figures_equal_a_literal_count(
    storage: str, make_dataset: MakeDataset, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = make_dataset(storage=storage, change=fewer_boxes)
    found, samples = figures(dataset, capsys), all_samples(dataset)
    assert found["complete"] is True
    assert (found["rows"], found["images"], found["failures"]) == (10, 7, {"corrupt": 2, "missing_file": 1})
    assert found["splits"] == Counter(sample.meta["split"] for sample in samples)
    sizes = [len(sample.regions) for sample in samples]
    boxes = found["boxes_per_image"]
    assert (boxes["min"], boxes["max"]) == (min(sizes), max(sizes))
    assert boxes["mean"] == pytest.approx(statistics.mean(sizes))
    assert boxes["counts"] == {str(size): count for size, count in sorted(Counter(sizes).items())}
    scores = [score for sample in samples for score in sample.regions.object_scores.tolist()]
    assert found["object_scores"]["counts"] == [sum(low <= 10 * s < low + 1 for s in scores) for low in range(10)]
    captions = [sample.meta["captions"] for sample in samples]
    assert found["images_without_captions"] == captions.count([])
    words = Counter(str(len(caption.split())) for of_image in captions for caption in of_image)
    assert found["words_per_caption"]["counts"] == words
    names = Counter(dataset.info.class_names[i] for sample in samples for i in sample.regions.object_ids)
    assert dict(found["classes"]) == names
    assert [count for _, count in found["classes"]] == sorted(names.values(), reverse=True)
    size = sum(path.stat().st_size for path in (dataset.directory / "shards").glob(f"*.{storage}"))
    assert (found["bytes"], found["bytes_per_image"]) == (size, round(size / 7))
    assert found["duplicates"] == {"images": 0, "most_frequent": []}


def test_a_score_of_one_is_counted(make_dataset: MakeDataset, capsys: pytest.CaptureFixture[str]) -> None:
    def certain(row: int, sample: Sample) -> Sample:
        return replace(sample, regions=replace(sample.regions, object_scores=sample.regions.object_scores * 0 + 1))

    assert figures(make_dataset(change=certain), capsys)["object_scores"]["counts"] == [0] * 9 + [28]


def test_images_of_the_same_bytes_are_found_over_all_shards(
    make_dataset: MakeDataset, capsys: pytest.CaptureFixture[str]
) -> None:
    placeholder, other = "ab" * 32, "cd" * 32
    digests = {1: placeholder, 4: placeholder, 9: placeholder, 3: other, 8: other, 0: None, 7: None}

    def same(row: int, sample: Sample) -> Sample:
        return replace(sample, meta={**sample.meta, "sha256": digests[row]})

    dataset = make_dataset(change=same)
    assert figures(dataset, capsys)["duplicates"] == {
        "images": 5,
        "most_frequent": [
            {"count": 3, "sha256": placeholder, "image_id": "photo.001"},
            {"count": 2, "sha256": other, "image_id": "photo.003"},
        ],
    }
    assert main(["stats", str(dataset.directory)]) == 0
    text = capsys.readouterr().out
    assert "images that share their bytes with another: 5" in text
    assert "3 times abababababababab…, the first is photo.001" in text


def test_text_names_every_figure(make_dataset: MakeDataset, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = make_dataset(change=fewer_boxes)
    assert main(["stats", str(dataset.directory), "--top-classes", "2"]) == 0
    text = capsys.readouterr().out
    for words in ("complete", "7 of 10 rows", "missing_file  1", "train  5", "boxes an image: 1 to 4, mean"):
        assert words in text
    assert max(map(len, text.splitlines())) <= 120
    classes = text.partition("boxes by object class\n")[2].partition("\n\n")[0]
    assert len(classes.splitlines()) == 2


def test_an_unfinished_data_set_says_so(make_dataset: MakeDataset, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = make_dataset()
    unfinished = replace(dataset.info, complete=False, records_sha256=None, splits={}, totals=sum_records([]))
    write_dataset(dataset.directory, unfinished)
    (dataset.directory / "shards/000001.json").unlink()
    found = figures(dataset, capsys)
    assert (found["complete"], found["shards"], found["images"]) == (False, {"done": 2, "planned": 3}, 5)
    assert main(["stats", str(dataset.directory)]) == 0
    assert "incomplete" in capsys.readouterr().out


def test_a_data_set_without_samples(make_dataset: MakeDataset, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = make_dataset(failed=dict.fromkeys(range(10), "corrupt"))
    assert figures(dataset, capsys)["boxes_per_image"] == {"min": 0, "mean": 0.0, "max": 0, "counts": {}}
    assert main(["stats", str(dataset.directory)]) == 0
    assert "corrupt  10" in capsys.readouterr().out


def test_processes_count_the_same(dataset: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert figures(dataset, capsys, "--num-workers", "2") == figures(dataset, capsys, "--num-workers", "1")


@given(COUNTS, st.integers(2, 20))
def test_ranges_cover_every_number_once(counts: dict[int, int], max_rows: int) -> None:
    rows = group_counts(counts, max_rows)
    assert len(rows) <= max_rows
    assert sum(count for _, count in rows) == sum(counts.values())
    ends = [tuple(map(int, label.split("-"))) for label, _ in rows]
    for (first, second), (_, count) in zip(pairwise(ends), rows, strict=False):
        assert second[0] == first[-1] + 1  # no gap, no overlap
        assert count == sum(n for number, n in counts.items() if first[0] <= number <= first[-1])


@given(COUNTS)
def test_the_mean_is_that_of_the_numbers(counts: dict[int, int]) -> None:
    numbers = [number for number, count in counts.items() for _ in range(count)]
    assert mean(counts) == pytest.approx(statistics.mean(numbers) if numbers else 0.0)


@given(st.lists(st.tuples(st.text("abc", max_size=5), st.integers(0, 10**6)), min_size=1, max_size=9))
def test_bars_are_as_long_as_their_counts(rows: list[tuple[str, int]]) -> None:
    lengths = [line.count("█") for line in bars(rows)]
    highest = max(count for _, count in rows)
    for length, (_, count) in zip(lengths, rows, strict=True):
        assert length == 0 if count == 0 else abs(length - count * BAR_WIDTH / highest) < 1
        assert (length > 0) == (count > 0)


def test_the_page_has_the_figures_and_needs_no_network(
    make_dataset: MakeDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = make_dataset(change=fewer_boxes)
    page = tmp_path / "stats.html"
    found = figures(dataset, capsys, "--html", str(page))
    assert page.stat().st_size < 3_000_000
    html = page.read_text()
    rows = re.findall(r'class="name">([^<]*)</span>.*?class="number">([\d,]+)<', html, re.DOTALL)
    for name, count in [*found["failures"].items(), *found["splits"].items(), *map(tuple, found["classes"])]:
        assert (name, f"{count:,}") in rows
    assert not re.search(r"(?:src|href)=|url\(|@import|<script", html)
    with pytest.raises(SystemExit, match="2"):
        main(["stats", str(dataset.directory), "--html", "page.txt"])


def test_a_page_that_cannot_be_written_is_named(
    make_dataset: MakeDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = make_dataset(rows=4, shard_size=4, failed={})
    page = tmp_path / "no folder" / "stats.html"
    assert main(["stats", str(made.directory), "--html", str(page)]) == 1
    assert f"--html {page}: cannot be written (No such file or directory)" in capsys.readouterr().err
