"""Shards are compared ahead of the steps that use them, and the batches are the same ones in the same order."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path

import numpy as np
import pytest

from vilbert.pipeline.cli import main
from vilbert.pipeline.errors import CorruptShardError
from vilbert.pipeline.shards.storage.store import open_shard
from vilbert.pipeline.shards.storage.verified import VerifiedFiles
from vilbert.pipeline.train.data import verify_ahead
from vilbert.pipeline.train.data.corpus import Corpus
from vilbert.pipeline.train.data.order import Order
from vilbert.pipeline.train.data.verify_ahead import verifying_ahead

from ..tiny_runs import STEPS, arguments, journal, two_sets

BATCH = 4


def read(corpus: Corpus, order: Order, steps: range, closed: list[int]) -> Generator[list[str], None, None]:
    """Yield the image ids of each step, and note when it is closed."""
    try:
        for step in steps:
            places = order.at(np.arange(step * BATCH, (step + 1) * BATCH))
            yield [str(image_id) for image_id in corpus.image_ids(places)]
    finally:
        closed.append(1)


def wait_for(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_thread_compares_the_shards_to_come_and_ends_with_the_batches(
    tmp_path: Path, make_dataset: Callable[..., Path]
) -> None:
    folder = make_dataset(tmp_path / "a", samples=40, shard_size=2)
    log = tmp_path / "log"
    corpus = Corpus.open([str(folder)], split=None, verified=VerifiedFiles(log))
    order = Order(corpus.shard_sizes, seed=3, window=8)
    closed: list[int] = []
    expected = list(read(corpus, order, range(10), []))
    batches = verifying_ahead(corpus, order, read(corpus, order, range(10), closed), range(10), batch_size=BATCH)
    found = [next(batches)]
    wait_for(lambda: log.read_bytes().count(b"\n") == 20)
    found += list(batches)
    assert found == expected
    assert closed == [1]
    assert not any(thread.name == "verify-ahead" for thread in threading.enumerate())


def test_it_keeps_to_a_distance_and_ends_when_closed(
    tmp_path: Path, make_dataset: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify_ahead, "AHEAD", 8)
    monkeypatch.setattr(verify_ahead, "_AT_A_TIME", 4)
    folder = make_dataset(tmp_path / "a", samples=80, shard_size=2)
    log = tmp_path / "log"
    corpus = Corpus.open([str(folder)], split=None, verified=VerifiedFiles(log))
    order = Order(corpus.shard_sizes, seed=3, window=2)
    closed: list[int] = []
    batches = verifying_ahead(corpus, order, read(corpus, order, range(20), closed), range(20), batch_size=BATCH)
    next(batches)
    wait_for(lambda: log.read_bytes().count(b"\n") >= 6)
    time.sleep(0.2)
    assert log.read_bytes().count(b"\n") < 20
    batches.close()
    assert closed == [1]
    assert not any(thread.name == "verify-ahead" for thread in threading.enumerate())


def test_without_comparison_there_is_no_thread(tmp_path: Path, make_dataset: Callable[..., Path]) -> None:
    corpus = Corpus.open([str(make_dataset(tmp_path / "a", samples=8, shard_size=2))], split=None)
    order = Order(corpus.shard_sizes, seed=3)
    batches = verifying_ahead(corpus, order, read(corpus, order, range(2), []), range(2), batch_size=BATCH)
    next(batches)
    assert not any(thread.name == "verify-ahead" for thread in threading.enumerate())
    batches.close()


def test_what_is_damaged_is_told_by_whoever_reads_it(tmp_path: Path, make_dataset: Callable[..., Path]) -> None:
    folder = make_dataset(tmp_path / "a", samples=4, shard_size=2)
    (folder / "shards" / "000001.tar").write_bytes(bytes((folder / "shards" / "000001.tar").stat().st_size))
    corpus = Corpus.open([str(folder)], split=None, verified=VerifiedFiles())
    corpus.verify_shard(0, 1)
    with pytest.raises(CorruptShardError):
        corpus.read(Order(corpus.shard_sizes, seed=0).at(np.arange(4)))


def flip_a_feature(path: Path) -> None:
    with open_shard(path, verify=False) as reader:
        value = reader[0].regions.features.tobytes()
    content = bytearray(path.read_bytes())
    content[content.index(value[:32]) + 3] ^= 0x10
    path.write_bytes(content)


def test_pretraining_ends_at_a_flipped_bit_and_goes_on_when_told_not_to_look(
    tmp_path: Path, make_dataset: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    data = two_sets(tmp_path, make_dataset)
    flip_a_feature(data / "b" / "shards" / "000001.lmdb")
    assert main(arguments(data, tmp_path / "run", "--num-workers", "2")) == 1
    said = capsys.readouterr().err
    assert "000001.lmdb: its SHA-256 is" in said
    assert "Traceback" not in said
    assert main(arguments(data, tmp_path / "other", "--no-verify-shards")) == 0
    assert journal(tmp_path / "other")[-1]["step"] == STEPS
    assert not (tmp_path / "other" / ".verified").exists()
