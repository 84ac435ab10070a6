"""Who stands still: clocks of workers, and of the shards that they are detecting."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pytest

from vilbert.pipeline.extract import turns
from vilbert.pipeline.extract.settings import ExtractSettings
from vilbert.pipeline.extract.worker import Worker
from vilbert.pipeline.jobs.stall import MOST_SECONDS_A_TICK, Pulse, StallWatch


def test_a_worker_is_stuck_once_its_pulse_has_not_changed_for_so_long() -> None:
    watch = StallWatch(10)
    for second in range(30):
        watch.tick(1000.0 + second)
        moving = Pulse(0, second)
        still = Pulse(3, min(second, 5))
        assert not watch.is_stuck("moving", moving)
        assert watch.is_stuck("still", still) == (second >= 15)
    watch.forget("still")
    assert not watch.is_stuck("still", Pulse(3, 5))


def test_a_shard_that_stands_still_is_not_hidden_by_another_one() -> None:
    watch = StallWatch(10)
    for second in range(30):
        watch.tick(float(second))
        pulse = Pulse(second, second, {3: second, 4: min(second, 5)})
        assert watch.is_stuck("worker", pulse) == (second >= 15)


def test_a_shard_that_waits_for_the_detector_may_stand_still() -> None:
    watch = StallWatch(10)
    for second in range(60):
        watch.tick(float(second))
        at_it = {4: 7} if second % 20 < 9 else {}
        assert not watch.is_stuck("worker", Pulse(second, second, {3: second, **at_it}))


def test_a_driver_that_was_held_up_blames_no_worker() -> None:
    watch = StallWatch(10)
    watch.tick(0.0)
    assert not watch.is_stuck("worker", Pulse(0, 0))
    watch.tick(100_000.0)  # the laptop was closed
    assert MOST_SECONDS_A_TICK < 10
    assert not watch.is_stuck("worker", Pulse(0, 0))


def test_zero_seconds_is_never() -> None:
    watch = StallWatch(0)
    for second in range(100):
        watch.tick(float(second))
        assert not watch.is_stuck("worker", Pulse(0, 0))


@pytest.mark.slow
def test_an_image_that_hangs_is_noticed_though_the_other_shard_at_the_detector_goes_on(
    settings_for: Callable[..., ExtractSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()
    prepare = Worker._prepare

    def hangs_at_row_one(self: Worker, row: int, *arguments: object) -> object:
        if row == 1:
            released.wait(60)
        return prepare(self, row, *arguments)

    monkeypatch.setattr(Worker, "_prepare", hangs_at_row_one)
    monkeypatch.setattr(turns, "_cuda_streams", lambda: [nullcontext(), nullcontext()])
    monkeypatch.setattr("vilbert.pipeline.extract.worker.Turns", lambda device: turns.Turns("cuda"))
    worker = Worker(settings_for("features", cpus_per_worker=2))
    worker.start()
    watch = StallWatch(10)
    with ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(worker.make_shard, 0, (0, 5))
        try:
            deadline = time.monotonic() + 30
            while 0 not in worker.pulse().shards:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            stuck = []
            for shard in (1, 2, 3):
                worker.make_shard(shard, (5 * shard, 5 * shard + 5))
                watch.tick(5.0 * shard)
                stuck.append(watch.is_stuck("worker", worker.pulse()))
            assert stuck == [False, False, True]
        finally:
            released.set()
        assert hanging.result().record.samples == 4
    assert not worker.pulse().shards
    worker.stop()
