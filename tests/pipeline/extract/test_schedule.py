"""The scheduling loop against plain objects as workers: who gets what, and what becomes of a lost worker's shards."""

from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future

import pytest

from pipeline.extract.run import started
from pipeline.extract.schedule import ATTEMPTS, WorkerLostError, assign, schedule
from pipeline.shards.errors import ShardError


class FakeWorker:
    """Finishes a shard at once, with the outcome that `outcome(shard)` returns or raises."""

    def __init__(self, outcome: Callable[[int], object]) -> None:
        self.outcome = outcome
        self.given: list[int] = []
        self.closed = False

    def extract_shard(self, shard: int, rows: tuple[int, int]) -> Future:
        assert rows == (10 * shard, 10 * shard + 10)
        self.given.append(shard)
        future: Future = Future()
        try:
            future.set_result(self.outcome(shard))
        except Exception as error:
            future.set_exception(error)
        return future

    def close(self) -> None:
        self.closed = True


def run(workers: list, shards: range, start_worker: Callable[[], object]) -> list:
    rows = {shard: (10 * shard, 10 * shard + 10) for shard in shards}
    return [record for record in schedule(start_worker, workers, rows, 0.01) if record is not None]


def test_every_shard_is_done_once() -> None:
    workers = [FakeWorker(lambda shard: shard) for _ in range(3)]
    done = run(workers, range(20), lambda: pytest.fail("no worker was lost"))
    assert sorted(done) == list(range(20))
    assert sum(len(worker.given) for worker in workers) == 20


def test_a_lost_workers_shard_is_done_by_its_replacement() -> None:
    deaths = Counter()

    def dies_once_on_three(shard: int) -> int:
        if shard == 3 and not deaths[shard]:
            deaths[shard] += 1
            raise WorkerLostError("killed")
        return shard

    first = FakeWorker(dies_once_on_three)
    workers = [first]
    done = run(workers, range(8), lambda: FakeWorker(dies_once_on_three))
    assert sorted(done) == list(range(8))
    assert first.closed
    assert workers[0] is not first


def test_a_shard_that_kills_every_worker_stops_the_run() -> None:
    deaths = Counter()

    def always_dies_on_two(shard: int) -> int:
        if shard == 2:
            deaths[shard] += 1
            raise WorkerLostError("killed")
        return shard

    with pytest.raises(ShardError, match="shard 2 ended 3 workers"):
        run([FakeWorker(always_dies_on_two)], range(4), lambda: FakeWorker(always_dies_on_two))
    assert deaths[2] == ATTEMPTS


def test_another_error_of_a_worker_is_passed_on() -> None:
    def fails(shard: int) -> int:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        run([FakeWorker(fails)], range(2), lambda: pytest.fail("no worker was lost"))


def test_idle_workers_come_first_and_the_last_shards_are_not_hoarded() -> None:
    a, b = FakeWorker(lambda shard: shard), FakeWorker(lambda shard: shard)
    waiting = deque(range(2))
    assert [(worker is a, shard) for worker, shard in assign([a, b], [], waiting)] == [(True, 0), (False, 1)]
    waiting = deque(range(9))
    given = [(worker is a, shard) for worker, shard in assign([a, b], [a], waiting)]
    assert given == [(False, 0), (True, 1), (False, 2)]
    waiting = deque([7])
    assert list(assign([a, b], [a, b], waiting)) == []


def test_a_worker_that_dies_while_it_builds_its_detector_is_no_traceback() -> None:
    starting: Future = Future()
    starting.set_exception(WorkerLostError("killed"))
    with pytest.raises(ShardError, match="died while it built the detector"):
        started(starting)
