"""Worker processes: the same batches in the same order, errors as they are, nothing left behind."""

from __future__ import annotations

import gc
import logging
import multiprocessing.util
import os
import random
import signal
import tempfile
import time
from collections.abc import Callable
from functools import partial
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from vilbert.pipeline.errors import CorruptShardError, LoaderError
from vilbert.pipeline.train.data.corpus import Corpus
from vilbert.pipeline.train.data.loader import batches
from vilbert.pipeline.train.data.order import Order
from vilbert.pipeline.train.data.shared_buffers import empty_features
from vilbert.pipeline.train.engine.share import Share
from vilbert.pipeline.train.examples.batch import Batch, make_batches
from vilbert.pipeline.train.examples.item_settings import ItemSettings
from vilbert.pipeline.train.examples.words import new_tokenizer


def make(step: int, *, parts: int = 2, shared: bool = True) -> list[Batch]:
    """Return batches of numbers that follow from the step, and say which process made them."""
    found = []
    for part in range(parts):
        draw = np.random.default_rng((step, part))
        rows, regions = 2, 1 + int(draw.integers(6))
        features = (
            empty_features((rows, regions, 8), room=rows * 6 * 8) if shared else torch.empty(rows, regions, 8).half()
        )
        features.numpy()[:] = draw.random((rows, regions, 8))
        found.append(
            Batch(
                input_ids=torch.from_numpy(draw.integers(0, 9, (rows, 5))),
                attention_mask=torch.ones(rows, 5, dtype=torch.int64),
                masked_lm_labels=torch.from_numpy(draw.integers(-1, 9, (rows, 5))),
                features=features,
                zeroed=torch.from_numpy(draw.random((rows, regions)) < 0.5),
                divisor=torch.full((rows,), float(step)),
                locations=torch.from_numpy(draw.random((rows, regions, 5), np.float32)),
                region_mask=torch.ones(rows, regions, dtype=torch.int64),
                image_label=torch.ones(rows, regions, dtype=torch.int64),
                class_ids=torch.ones(rows, regions, 3, dtype=torch.int32),
                class_probs=torch.ones(rows, regions, 3).half(),
                next_sentence_label=torch.zeros(rows, dtype=torch.int64),
                image_ids=(f"step {step}", str(os.getpid())),
                unread=step,
            )
        )
    return found


def content(made: list[Batch]) -> list[Any]:
    """Return what a step holds, bit for bit, but for the process."""
    return [
        [
            (value.dtype, tuple(value.shape), value.numpy().tobytes()) if isinstance(value, torch.Tensor) else value
            for name, value in (vars(batch) | batch.positions).items()
            if name not in ("image_ids", "positions")
        ]
        + [batch.image_ids[0]]
        for batch in made
    ]


EXPECTED = [content(make(step)) for step in range(30)]


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_batches_are_the_same_and_in_order_with_any_number_of_workers(num_workers: int, shared: bool) -> None:
    loaded = batches(partial(make, shared=shared), range(30), num_workers=num_workers)
    assert [content(made) for made in loaded] == EXPECTED


def test_batches_that_are_kept_stay_as_they_are() -> None:
    # All of them at once are more than the workers' buffers at first.
    kept = list(batches(make, range(30), num_workers=2, prefetch=1))
    assert [content(made) for made in kept] == EXPECTED


def test_a_part_of_a_batch_that_is_kept_stays_as_it_is() -> None:
    kept = [made[1].features[1:, :, 2] for made in batches(make, range(30), num_workers=1)]
    for step, part in enumerate(kept):
        assert (part == make(step)[1].features[1:, :, 2]).all()


def test_buffers_are_used_again() -> None:
    where = [made[0].features.data_ptr() for made in batches(make, range(30), num_workers=1)]
    assert len(set(where)) <= 12  # 2 parts of at most 2 steps ahead, the one at hand and the one in the making


def test_work_is_done_by_other_processes() -> None:
    pids = {made[0].image_ids[1] for made in batches(make, range(20), num_workers=2)}
    assert len(pids) == 2
    assert str(os.getpid()) not in pids


@pytest.mark.parametrize("num_workers", [0, 2])
def test_any_step_can_be_the_first(num_workers: int) -> None:
    assert [content(made) for made in batches(make, range(17, 23), num_workers=num_workers)] == EXPECTED[17:23]


def test_no_steps_are_no_batches() -> None:
    assert list(batches(make, range(5, 5), num_workers=1)) == []


def real_make(folder: Path) -> partial[list[Batch]]:
    """Return what makes batches of a data set on disk."""
    corpus = Corpus.open([str(folder)], split=None)
    tokenizer = new_tokenizer(f"scene {row} seen again photograph of" for row in range(40))
    order = Order(corpus.shard_sizes, seed=1, window=8)
    share = Share(rank=0, world=1, accumulation=2, batch_size=6)
    return partial(make_batches, corpus, order, tokenizer, ItemSettings(), share, seed=4)


def test_a_data_set_gives_the_same_bits_with_any_number_of_workers(
    make_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_dataset(tmp_path / "data", samples=20, shard_size=5, regions=lambda row: 1 + row % 4)
    made = [
        [content(step) for step in batches(real_make(folder), range(2, 9), num_workers=num_workers)]
        for num_workers in (0, 1, 2)
    ]
    assert made[0] == made[1] == made[2]
    assert len(made[0]) == 7


def test_a_damaged_shard_is_named_across_processes(make_dataset: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_dataset(tmp_path / "data", samples=20, shard_size=5)
    prepared = real_make(folder)
    shard = sorted(folder.rglob("*.tar"))[1]
    shard.write_bytes(shard.read_bytes()[:700])
    with pytest.raises(CorruptShardError, match=shard.name):
        list(batches(prepared, range(5), num_workers=2))


def break_at(step: int, *, at: int, error: Exception) -> list[Batch]:
    if step == at:
        raise error
    return make(step)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_error_reaches_the_caller_as_what_it_is_after_the_steps_before_it(num_workers: int) -> None:
    error = CorruptShardError("ends too early", path=Path("x/00003.tar"), offset=512, key="abc")
    loaded = batches(partial(break_at, at=4, error=error), range(10), num_workers=num_workers)
    assert [content(next(loaded)) for _ in range(4)] == EXPECTED[:4]
    with pytest.raises(CorruptShardError) as caught:
        next(loaded)
    assert str(caught.value) == str(error)
    assert caught.value.path == Path("x/00003.tar")
    assert caught.value.offset == 512
    if num_workers:
        assert "break_at" in caught.value.__notes__[0]


class StubbornError(Exception):
    """Cannot be built from its own arguments."""

    def __init__(self, *, what: str) -> None:
        super().__init__(f"{what} went wrong")


def test_an_error_that_cannot_be_sent_is_told() -> None:
    loaded = batches(partial(break_at, at=0, error=StubbornError(what="it")), range(3), num_workers=1)
    with pytest.raises(RuntimeError, match="StubbornError: it went wrong"):
        next(loaded)


def test_no_process_is_left_after_closing_early_or_an_error() -> None:
    loaded = batches(make, range(1000), num_workers=2)
    next(loaded)
    assert len(active_children()) >= 2
    before = {child.pid for child in active_children()}
    loaded.close()  # type: ignore[attr-defined]
    assert not {child.pid for child in active_children()} & before
    broken = batches(partial(break_at, at=1, error=ValueError("no")), range(10), num_workers=2)
    next(broken)
    before = {child.pid for child in active_children()}
    with pytest.raises(ValueError, match="no"):
        next(broken)
    gc.collect()
    assert not {child.pid for child in active_children()} & before


@pytest.mark.parametrize("num_workers", [0, 2])
def test_no_global_generator_is_touched(num_workers: int) -> None:
    torch.manual_seed(12)
    states = torch.get_rng_state(), torch.initial_seed(), random.getstate(), np.random.get_state()[1].tobytes()
    list(batches(make, range(4), num_workers=num_workers))
    assert (torch.get_rng_state() == states[0]).all()
    assert (torch.initial_seed(), random.getstate()) == states[1:3]
    assert np.random.get_state()[1].tobytes() == states[3]


def report(step: int) -> list[Batch]:
    (batch,) = make(step, parts=1)
    batch.image_ids = (os.environ.get("TOKENIZERS_PARALLELISM", ""), str(torch.get_num_threads()))
    return [batch]


def test_a_worker_keeps_to_one_core() -> None:
    ((batch,),) = batches(report, range(1), num_workers=1)
    assert batch.image_ids == ("false", "1")


def sleep_before(step: int, *, seconds: float) -> list[Batch]:
    """Return the batch of a step; all but the first take long."""
    time.sleep(seconds if step else 0)
    return make(step)


def big(step: int) -> list[Batch]:
    """Return a batch whose message is larger than what a socket takes without being read."""
    (batch,) = make(step, parts=1)
    batch.image_ids = ("x" * 5_000_000, str(os.getpid()))
    return [batch]


def first_of_two(loaded: Any) -> int:
    """Return a worker's process after the first batch was taken from two of them."""
    next(loaded)
    first, _ = sorted(child.pid or 0 for child in active_children() if child.name.startswith("loader"))
    return first


@pytest.mark.parametrize("making", [make, big, partial(sleep_before, seconds=60)])
def test_a_worker_that_is_killed_is_named_at_once_and_no_other_is_left(making: Callable[[int], list[Batch]]) -> None:
    """It may be waiting, sending or at work."""
    loaded = batches(making, range(1000), num_workers=2)
    worker = first_of_two(loaded)
    begun = time.monotonic()
    os.kill(worker, signal.SIGKILL)
    with pytest.raises(LoaderError, match=rf"process {worker}\) was killed by signal 9 .*out of memory.*--num-workers"):
        list(loaded)
    assert time.monotonic() - begun < 10
    assert not [child for child in active_children() if child.name.startswith("loader")]


def leave(step: int) -> list[Batch]:
    if step == 3:
        os._exit(7)
    return make(step)


def test_a_worker_that_leaves_is_said() -> None:
    with pytest.raises(LoaderError, match="ended with exit status 7"):
        list(batches(leave, range(10), num_workers=2))


def test_a_worker_that_no_longer_moves_counts_as_lost(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("vilbert.pipeline.train.data.loader_processes.STALL_WARNING_SECONDS", 0.5)
    monkeypatch.setattr("vilbert.pipeline.train.data.loader_processes.STALL_LIMIT_SECONDS", 3.0)
    loaded = batches(make, range(1000), num_workers=2)
    worker = first_of_two(loaded)
    os.kill(worker, signal.SIGSTOP)
    with pytest.raises(LoaderError, match=rf"process {worker}\) used no CPU time"):
        list(loaded)
    assert f"data loading process {worker}" in caplog.text


def ended(process: int, *, seconds: float = 10) -> bool:
    """Say whether a process ends within that time."""
    deadline = time.monotonic() + seconds
    while psutil.pid_exists(process) and psutil.Process(process).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def run_forked(function: Callable[[], object]) -> tuple[int, int]:
    """Run a function in a fork that ends as a process of Python does; return the process and its standard output."""
    output, there = os.pipe()
    process = os.fork()
    if process:
        os.close(there)
        return process, output
    os.dup2(there, 1)
    try:
        function()
    finally:
        multiprocessing.util._exit_function()  # type: ignore[attr-defined] # what Python runs at exit
        os._exit(0)


def hold_batches() -> None:
    loaded = batches(make, range(1000), num_workers=2)
    next(loaded)
    evaluating = batches(make, range(1000), num_workers=1)
    next(evaluating)
    os.write(1, " ".join(str(child.pid) for child in active_children()).encode())
    signal.pause()


def test_workers_end_with_a_parent_that_is_killed() -> None:
    process, output = run_forked(hold_batches)
    workers = [int(number) for number in os.read(output, 1000).split()]
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    os.close(output)
    assert len(workers) == 3
    assert all(ended(worker) for worker in workers)


def leave_batches_open() -> None:
    loaded = batches(make, range(1000), num_workers=2)
    next(loaded)
    global _never_closed
    _never_closed = loaded  # as the frames of an exception's traceback hold it


_never_closed: Any = None


def test_a_process_ends_that_never_closed_its_batches() -> None:
    process, output = run_forked(leave_batches_open)
    os.close(output)
    assert ended(process)
    assert os.waitpid(process, 0)[1] == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_to_the_whole_group_leave_the_batches_to_the_parent(number: signal.Signals) -> None:
    loaded = batches(make, range(20), num_workers=2)
    made = [next(loaded)]
    for child in active_children():
        if child.name.startswith("loader"):
            os.kill(child.pid or 0, number)
    assert [content(step) for step in (*made, *loaded)] == EXPECTED[:20]


def test_shared_memory_of_the_system_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch.UntypedStorage, "_new_shared", fail)
    monkeypatch.setattr("_multiprocessing.SemLock", fail)
    before = set(os.listdir("/dev/shm"))
    loaded = batches(make, range(10), num_workers=2)
    assert [content(made) for made in loaded] == EXPECTED[:10]
    assert not [name for name in set(os.listdir("/dev/shm")) - before if "torch" in name]


def test_shared_memory_that_is_smaller_than_a_batch_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("vilbert.pipeline.train.data.shared_buffers._said", False)
    monkeypatch.setattr("vilbert.pipeline.train.data.shared_buffers._shared_memory_bytes", lambda: 64)
    with caplog.at_level(logging.INFO):
        list(batches(make, range(10), num_workers=2))
    assert caplog.text.count("/dev/shm has 64 bytes") == 1
    assert "--shm-size" in caplog.text


def test_without_anonymous_memory_it_uses_the_folder_for_temporary_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delattr(os, "memfd_create")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert [content(made) for made in batches(make, range(30), num_workers=2)] == EXPECTED
    assert not list(tmp_path.iterdir())


def test_a_full_folder_for_temporary_files_is_named_before_anything_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.delattr(os, "memfd_create")
    monkeypatch.setattr(os, "posix_fallocate", full)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(LoaderError, match=rf"{tmp_path}: no room .*TMPDIR.*--num-workers 0"):
        list(batches(make, range(3), num_workers=1))
