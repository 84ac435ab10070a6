"""Samples that a run holds out of its training data to evaluate on, where the data name no split for that.

They are those whose image ids have the lowest keys (`vilbert.manifests.hold_out`), so they are the same in every
process and after every restart, and nothing has to be extracted again. How many there are in each shard has to be known
before the first step; the ids of all samples are read once for it and the numbers kept in RUN/.held-out.json.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vilbert.documents import Count, List, document, from_json
from vilbert.manifests.hold_out import HoldOut, hold_out_key
from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.shards.canonical import encode_json
from vilbert.pipeline.shards.storage.atomic import write_atomic
from vilbert.pipeline.train.data.corpus import Corpus
from vilbert.pipeline.train.data.order import Order
from vilbert.pipeline.train.data.selection import Part, Source
from vilbert.pipeline.train.engine.distributed import Group
from vilbert.settings import NonNegativeInt
from vilbert.untrusted.documents import DocumentError, read_json

_log = logging.getLogger(__name__)

HELD_OUT_FILE = ".held-out.json"
FEWEST = 100
"""Samples held out, at least, where they are no more than a tenth of the data."""
IDS_AT_A_TIME = 4096


@document
class HeldOutFile:
    """The content of the file."""

    share: float
    seed: int
    data: List[dict[str, Any]]
    """The data sets by content."""
    limit: NonNegativeInt
    """Samples whose keys are below it are held out."""
    counts: List[List[Count]]
    """Held-out samples of each shard, for each data set."""


class HeldOut(NamedTuple):
    """Which samples are held out, and how many of each shard."""

    choice: HoldOut
    counts: list[NDArray[np.int64]]
    """[shards] held-out samples, for each data set."""


def hold_out(corpus: Corpus, *, share: float, seed: int, run: Path, group: Group | None) -> tuple[Corpus, Corpus]:
    """Return the training data without the held-out samples, and these.

    Args:
        corpus: all samples that may train.
        share: of them, that is held out; of few samples more, see FEWEST.
        seed: makes another choice.
        run: the run's folder, where the first process keeps the numbers for the others.
        group: of processes; None for a lone one that keeps nothing.

    Raises:
        RefusedError: too few samples to hold one out.
    """
    key = _describe(corpus, share, seed)
    path = run / HELD_OUT_FILE
    sizes = corpus.shard_sizes
    found = None if group is None else _read(path, key, sizes)
    if found is None and (group is None or group.first):
        found = count_held_out(corpus, share=share, seed=seed)
        if group is not None:
            _write(path, key, found)
    if group is not None:
        group.wait()
        found = found or _read(path, key, sizes)
    if found is None:
        raise RefusedError(
            f"{path}: was not written by the first process; --output must be storage that all processes share"
        )
    total = sum(int(size.sum()) for size in sizes)
    held = sum(int(counts.sum()) for counts in found.counts)
    if held >= total:
        raise RefusedError(f"{total} samples are too few to hold any out: train on all of them with --eval-split none")
    if group is None or group.first:
        _log.info(
            "%s of %s samples are held out of training to evaluate on, by the hash of their image ids (seed %d); "
            "--eval-split names a split instead, or none",
            f"{held:,}",
            f"{total:,}",
            seed,
        )
    return _parts(corpus, found, held_out=False), _parts(corpus, found, held_out=True)


def count_held_out(corpus: Corpus, *, share: float, seed: int) -> HeldOut:
    """Read the ids of all samples and return which of them are held out.

    Of fewer than FEWEST / share samples the number is exact: the lowest keys; of more, all keys below a limit.
    """
    sizes = corpus.shard_sizes
    total = sum(int(size.sum()) for size in sizes)
    wanted = max(1, round(share * total), min(FEWEST, total // 10))
    _log.info("reading the ids of %s samples once, to hold some of them out", f"{total:,}")
    if round(share * total) >= FEWEST:
        choice = HoldOut.of_share(share, seed)
    else:
        keys = [key for _, _, found in _keys(corpus, seed) for key in found]
        choice = HoldOut(seed=seed, limit=sorted(keys)[min(wanted, len(keys)) - 1] + 1 if keys else 0)
    counts = [np.zeros(len(size), np.int64) for size in sizes]
    for datasets, shards, found in _keys(corpus, seed):
        for dataset, shard, key in zip(datasets, shards, found, strict=True):
            if key < choice.limit:
                counts[dataset][shard] += 1
    return HeldOut(choice, counts)


def _keys(corpus: Corpus, seed: int) -> Iterator[tuple[list[int], list[int], list[int]]]:
    """Yield data sets, shards and keys of all samples that can be read, some at a time."""
    order = Order(corpus.shard_sizes, seed=0, shuffle=False)
    for start in range(0, order.epoch_size, IDS_AT_A_TIME):
        places = order.at(np.arange(start, min(start + IDS_AT_A_TIME, order.epoch_size)))
        ids = corpus.image_ids(places)
        rows = [row for row, image_id in enumerate(ids) if image_id is not None]
        keys = [hold_out_key(str(ids[row]), seed) for row in rows]
        yield places.dataset[rows].tolist(), places.shard[rows].tolist(), keys


def _parts(corpus: Corpus, found: HeldOut, *, held_out: bool) -> Corpus:
    return corpus.with_sources(
        [
            _part(source, found.choice, counts, held_out)
            for source, counts in zip(corpus.sources, found.counts, strict=True)
        ]
    )


def _part(source: Source, choice: HoldOut, counts: NDArray[np.int64], held_out: bool) -> Source:
    shards = tuple(
        shard._replace(usable=count if held_out else shard.usable - count)
        for shard, count in zip(source.shards, counts.tolist(), strict=True)
    )
    return source._replace(shards=shards, part=Part(choice, held_out=held_out))


def _describe(corpus: Corpus, share: float, seed: int) -> dict[str, Any]:
    data = [
        {
            "records_sha256": source.records_sha256,
            "split": source.split,
            **({} if source.selection is None else {"selection": source.selection.digest}),
        }
        for source in corpus.sources
    ]
    return {"share": share, "seed": seed, "data": data}


def _write(path: Path, key: dict[str, Any], found: HeldOut) -> None:
    counts = [counts.tolist() for counts in found.counts]
    write_atomic(path, encode_json({**key, "limit": found.choice.limit, "counts": counts}) + b"\n")


def _read(path: Path, key: dict[str, Any], sizes: list[NDArray[np.int64]]) -> HeldOut | None:
    """Return what an earlier start, or the first process, counted in the same data; None where it did not."""
    try:
        found = from_json(HeldOutFile, read_json(path))
    except (DocumentError, OSError):
        return None
    if {"share": found.share, "seed": found.seed, "data": list(found.data)} != key:
        return None
    counts = [np.array(counts, np.int64) for counts in found.counts]
    if [count.shape for count in counts] != [size.shape for size in sizes]:
        return None
    if any(bool(((count < 0) | (count > size)).any()) for count, size in zip(counts, sizes, strict=True)):
        return None
    return HeldOut(HoldOut(seed=found.seed, limit=found.limit), counts)
