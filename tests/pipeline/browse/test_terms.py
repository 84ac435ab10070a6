"""What a request reads of the columns depends on what it finds, not on the size of the data set."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from starlette.testclient import TestClient

from vilbert.pipeline.browse.search import Ranks
from vilbert.pipeline.browse.site import Site
from vilbert.pipeline.shards.dataset import write_dataset
from vilbert.pipeline.shards.record import read_record
from vilbert.pipeline.shards.sample import Sample

from ..shards.conftest import SmallDataset, completed, random_regions, write_small_dataset
from .conftest import Browse

SHARD, RARE = 50, 12
"""Samples of a shard, and those of the first shard that are like no other."""
GROWN = 40
"""Shards of the larger data set."""


def varied(row: int, sample: Sample) -> Sample:
    """Return the sample of a row: the first RARE differ from all others in everything that a filter reads."""
    rare = row < RARE
    regions = random_regions(row, boxes=9 if rare else 4, width=200 if rare else 100, height=150 if rare else 80)
    count = len(regions)
    regions = dataclasses.replace(
        regions,
        object_ids=np.full(count, 3 if rare else 1 + row % 2, np.uint16),
        object_scores=np.linspace(0.92, 0.98, count, dtype=np.float32) if rare else np.full(count, 0.5, np.float32),
        attribute_ids=np.full(count, 1 if rare else 0, np.uint16),
    )
    captions = ["a zebra " * 9, "two", "three"] if rare else ["a photograph of it"]
    digest = "ab" * 32 if rare else f"{row:064x}"
    meta = {**sample.meta, "captions": captions, "split": "val" if rare else "train", "sha256": digest}
    return dataclasses.replace(sample, regions=regions, meta=meta)


def grow(made: SmallDataset, shards: int) -> Path:
    """Repeat the second shard of a data set until it has so many."""
    record, info = read_record(made.record_file(1)), dataclasses.replace(made.info, rows=SHARD * shards)
    for shard in range(2, shards):
        for path in (made.data_file(1), made.directory / "failures" / "000001.jsonl"):
            if path.exists():
                os.link(path, path.with_name(path.name.replace("000001", f"{shard:06}")))
        grown = dataclasses.replace(record, shard=shard, rows=info.shard_rows(shard), file=f"{shard:06}.tar")
        made.record_file(shard).write_bytes(grown.to_json())
    write_dataset(made.directory, completed(info, made.directory))
    return made.directory


class Counted(np.ndarray[Any, Any]):
    """A column that counts the entries that are read of it; a slice of it reads nothing yet."""

    read = 0

    def __getitem__(self, places: Any) -> Any:
        if isinstance(places, slice):
            return super().__getitem__(places)
        found = np.asarray(self)[places]
        Counted.read += np.size(found)
        return found

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        return getattr(ufunc, method)(*map(plain, inputs), **options)

    def __array_function__(self, function: Any, types: Any, arguments: Any, options: Any) -> Any:
        if function is np.searchsorted:  # reads as many entries as a bisection has steps
            column, wanted, *more = arguments
            assert column.dtype == np.asarray(wanted).dtype, "numpy copies the whole column"
            Counted.read += np.size(wanted) * math.ceil(math.log2(len(column) + 1))
            return np.searchsorted(np.asarray(column), wanted, *more, **options)
        return function(*map(plain, arguments), **options)

    def astype(self, *arguments: Any, **options: Any) -> Any:
        return plain(self).astype(*arguments, **options)

    def tolist(self) -> Any:
        return plain(self).tolist()


def plain(value: Any) -> Any:
    """Return a value with all of its columns read."""
    if isinstance(value, list | tuple):
        return type(value)(map(plain, value))
    if isinstance(value, Counted):
        Counted.read += value.size
        return np.asarray(value)
    return value


RARE_FILTERS = (
    "object=dog", "attribute=old", "split=val", "boxes_min=9", "captions_min=2", "words_min=10", "words_max=1",
    "words_min=10&words_max=40", "side_min=100", "score_min=0.9", "score_min=0.92&score_max=0.97", "same=any",
    "object=dog&attribute=old&score_min=0.9", "caption=zebra",
)  # fmt: skip
BROAD_FILTERS = (
    "boxes_min=1", "score_min=0.1", "score_min=0.1&score_max=0.99", "side_min=1", "captions_min=1", "caption=a",
    "words_min=1&words_max=60", "split=train",
)  # fmt: skip
COMBINED = tuple(
    f"{rare}&{broad}"
    for rare, broad in itertools.product(RARE_FILTERS, BROAD_FILTERS)
    if rare.partition("_")[0].partition("=")[0] != broad.partition("_")[0].partition("=")[0]
)[::3]
ALL_BUT_FEW = ("", "boxes_min=1", "boxes_max=8", "split=train&side_max=120", "score_min=0.1")
SORTS = ("", "-boxes", "score", "size", "shuffled", "copies")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    made = [
        write_small_dataset(tmp_path_factory.mktemp(name), rows=2 * SHARD, shard_size=SHARD, failed={}, change=varied)
        for name in ("small", "large")
    ]
    return [grow(one, shards) for one, shards in zip(made, (2, GROWN), strict=True)]


@pytest.fixture
def sites(folders: list[Path], browse: Browse, monkeypatch: pytest.MonkeyPatch) -> list[Site]:
    monkeypatch.setattr("vilbert.pipeline.browse.search.LISTED_AT_ONCE", 1)
    opened = [browse(folder) for folder in folders]
    for site in opened:
        columns = site.datasets[0].index.columns
        columns |= {name: column.view(Counted) for name, column in columns.items()}
    return opened


def answer(client: TestClient, query: str) -> tuple[int, int]:
    """Return how many samples a page says that there are, and the entries of columns that it read."""
    Counted.read = 0
    response = client.get(f"/0/?{query}")
    assert response.status_code == 200
    assert 'role="alert"' not in response.text, query
    return int(response.text.partition("<strong>")[2].partition("<")[0].replace(",", "")), Counted.read


def test_a_page_of_few_matches_reads_as_much_of_a_larger_data_set(
    sites: list[Site], client_of: Callable[[Site], TestClient]
) -> None:
    clients = [client_of(site) for site in sites]
    for query, sort in zip((*RARE_FILTERS, *COMBINED), itertools.cycle(SORTS), strict=False):
        (small, little), (large, much) = (answer(client, f"{query}&sort={sort}") for client in clients)
        assert small == large, query
        assert large in (0, RARE), query
        assert much <= little + 400, (query, little, much)  # 20 times the samples: 5 more steps of each bisection


def test_a_page_that_leaves_out_few_samples_reads_as_much_of_a_larger_data_set(
    sites: list[Site], client_of: Callable[[Site], TestClient]
) -> None:
    clients = [client_of(site) for site in sites]
    for query, sort in itertools.product(ALL_BUT_FEW, SORTS):
        (small, little), (large, much) = (answer(client, f"{query}&sort={sort}") for client in clients)
        assert large - small == (GROWN - 2) * SHARD, query
        assert much <= little + 400, (query, sort, little, much)


def test_what_many_samples_match_is_counted(sites: list[Site], client_of: Callable[[Site], TestClient]) -> None:
    """The instrument sees a request that reads many entries."""
    client = client_of(sites[1])
    count, read = answer(client, "object=sky")
    assert read >= count > SHARD


@pytest.mark.parametrize("seed", range(5))
def test_places_that_are_left_out_count_and_page_as_the_others_listed(seed: int) -> None:
    draw = np.random.default_rng(seed)
    total = int(draw.integers(1, 60))
    left_out = np.flatnonzero(draw.random(total) < draw.random()).astype(np.uint32)
    matches: NDArray[np.uint32] = np.setdiff1d(np.arange(total, dtype=np.uint32), left_out)
    others, listed = Ranks(left_out, total), Ranks(matches)
    assert others.matches == listed.matches == len(matches)
    for rank in range(-1, total + 3):
        assert others.before(rank) == listed.before(rank) == int((matches.astype(int) < rank).sum())
    for start, stop in itertools.combinations_with_replacement(range(len(matches) + 1), 2):
        assert others.part(start, stop).tolist() == listed.part(start, stop).tolist() == matches[start:stop].tolist()
