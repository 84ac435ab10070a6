"""The scheduling loop against plain objects as workers: who gets what, and what becomes of a lost worker's shards."""

import time
from collections import Counter, deque
from collections.abc import Callable, Container
from concurrent.futures import Future
from pathlib import Path

import pytest

from vilbert.extractors.extractor import ExtractorError
from vilbert.pipeline.errors import CorruptShardError, FingerprintError, ShardError
from vilbert.pipeline.jobs import crew
from vilbert.pipeline.jobs.crew import FAILED_STARTS, Crew, WorkerLostError
from vilbert.pipeline.jobs.journal import Journal, parse_journal
from vilbert.pipeline.jobs.journals import Journals
from vilbert.pipeline.jobs.schedule import ATTEMPTS, ERRORS_IN_A_ROW, Schedule, assign
from vilbert.pipeline.jobs.stall import Pulse
from vilbert.pipeline.jobs.worker import ShardDone
from vilbert.pipeline.shards.location.folder import LocalFolder
from vilbert.pipeline.shards.record import ShardRecord


def record_of(shard: int) -> ShardRecord:
    """Return the record of a shard of ten rows, one of which failed."""
    return ShardRecord(
        shard=shard,
        rows=(10 * shard, 10 * shard + 10),
        file=f"{shard:06d}.tar",
        samples=9,
        sha256="0" * 64,
        first_key="a",
        last_key="b",
        failures={"http_404": 1},
        failures_sha256="0" * 64,
        fingerprint="0" * 64,
        bytes=100,
    )


def journals_in(folder: Path) -> Journals:
    return Journals(LocalFolder(folder))


def begin(folder: Path, shard: int) -> Journal:
    return Journal(journals_in(folder).open(shard, careful=True), keep=True)


class FakeWorker:
    """Finishes a shard at once, or raises what `outcome(shard)` raises; never finishes it where that gives None."""

    stuck = False

    def __init__(self, outcome: Callable[[int], object]) -> None:
        self.outcome = outcome
        self.given: list[int] = []
        self.closed = False

    def start(self) -> Future:
        future: Future = Future()
        future.set_result("description")
        return future

    def make_shard(self, shard: int, rows: tuple[int, int], retry: bool = False) -> Future:
        assert rows == (10 * shard, 10 * shard + 10)
        self.given.append(shard)
        future: Future = Future()
        try:
            if self.outcome(shard) is not None:
                future.set_result(ShardDone(record_of(shard), 1.0, 0.5))
        except Exception as error:
            future.set_exception(error)
        return future

    def pulse(self) -> Pulse:
        return Pulse(0, 0)

    def stop(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


class Team:
    """Makes workers that all have this outcome, and remembers them."""

    def __init__(self, outcome: Callable[[int], object], wanted: Callable[[], int] = lambda: 1) -> None:
        self.outcome = outcome
        self.workers: list[FakeWorker] = []
        self.kind = FakeWorker
        self.crew = Crew(self.start, wanted)

    def start(self) -> FakeWorker:
        self.workers.append(self.kind(self.outcome))
        return self.workers[-1]

    def run(self, folder: Path, shards: range, stall_seconds: float = 0.0) -> list:
        rows = {shard: (10 * shard, 10 * shard + 10) for shard in shards}
        schedule = Schedule(
            self.crew, rows, journals=journals_in(folder), stall_seconds=stall_seconds, seconds_between_ticks=0.01
        )
        return [(extracted.record.shard,) for extracted in schedule.run() if extracted is not None]


def test_every_shard_is_done_once(tmp_path: Path) -> None:
    team = Team(lambda shard: (shard,), lambda: 3)
    assert sorted(team.run(tmp_path, range(20))) == [(shard,) for shard in range(20)]
    assert len(team.workers) == 3
    assert sum(len(worker.given) for worker in team.workers) == 20


def test_a_lost_workers_shard_is_done_by_its_replacement(tmp_path: Path) -> None:
    deaths = Counter()

    def dies_once_on_three(shard: int) -> tuple:
        if shard == 3 and not deaths[shard]:
            deaths[shard] += 1
            raise WorkerLostError("killed")
        return (shard,)

    team = Team(dies_once_on_three)
    assert sorted(team.run(tmp_path, range(8))) == [(shard,) for shard in range(8)]
    first, second = team.workers
    assert first.closed
    assert 3 in second.given


def test_a_shard_that_kills_every_worker_stops_the_run(tmp_path: Path) -> None:
    deaths = Counter()

    def always_dies_on_two(shard: int) -> tuple:
        if shard == 2:
            deaths[shard] += 1
            raise WorkerLostError("killed")
        return (shard,)

    with pytest.raises(ShardError, match=f"shard 2 ended {ATTEMPTS} workers"):
        Team(always_dies_on_two).run(tmp_path, range(4))
    assert deaths[2] == ATTEMPTS


def test_a_shard_whose_images_are_found_out_one_by_one_may_take_as_many_tries_as_it_needs(tmp_path: Path) -> None:
    deaths = Counter()
    killers = [20, 23, 27, 28]

    def dies_over_one_killer_after_the_other(shard: int) -> tuple:
        if shard == 2 and deaths[shard] < 3 * len(killers):
            journal = begin(tmp_path, shard)
            # As the worker does: the first of three deaths has others in hand, the next two have the row alone.
            row, in_company = killers[deaths[shard] // 3], deaths[shard] % 3 == 0
            journal.note("detect" if in_company else "alone", [row, row + 1] if in_company else [row])
            deaths[shard] += 1
            raise WorkerLostError("killed")
        return (shard,)

    team = Team(dies_over_one_killer_after_the_other)
    assert len(team.run(tmp_path, range(4))) == 4
    assert deaths[2] == 12 > ATTEMPTS


def test_another_error_of_a_worker_is_passed_on(tmp_path: Path) -> None:
    def fails(shard: int) -> tuple:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        Team(fails).run(tmp_path, range(2))


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ShardError("the mount is stale")])
def test_one_machine_that_cannot_write_ends_no_run_in_which_others_can(tmp_path: Path, error: Exception) -> None:
    team = Team(lambda shard: (shard,), lambda: 3)
    team.crew.tend(3)

    def fails(shard: int) -> tuple:
        raise error

    team.workers[1].outcome = fails
    assert sorted(team.run(tmp_path, range(60))) == [(shard,) for shard in range(60)]
    assert team.workers[1].given


def test_where_none_can_write_the_run_ends_with_their_error(tmp_path: Path) -> None:
    failed = []

    def fails(shard: int) -> tuple:
        failed.append(shard)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        Team(fails, lambda: 4).run(tmp_path, range(60))
    assert len(failed) >= ERRORS_IN_A_ROW


def test_a_shard_that_is_damaged_ends_the_run_at_once(tmp_path: Path) -> None:
    failed = []

    def fails(shard: int) -> tuple:
        failed.append(shard)
        raise CorruptShardError("its bytes are not those of its record", path=tmp_path / "000000.tar")

    with pytest.raises(CorruptShardError):
        Team(fails, lambda: 1).run(tmp_path, range(60))
    assert len(failed) == 2  # a worker has two shards at a time


def test_a_worker_in_which_nothing_moves_is_replaced_and_its_shards_journals_say_so(tmp_path: Path) -> None:
    team = Team(lambda shard: None if shard == 1 and len(team.workers) == 1 else (shard,))
    begin(tmp_path, 1)
    assert sorted(team.run(tmp_path, range(6), stall_seconds=0.1)) == [(shard,) for shard in range(6)]
    assert [worker.closed for worker in team.workers] == [True, False]
    (attempt,) = parse_journal(journals_in(tmp_path).read(1) or b"", range(10, 20))
    assert attempt.stalled


def test_more_room_is_used_as_it_comes_and_those_at_work_stay_when_it_goes() -> None:
    room = [1]
    team = Team(lambda shard: (shard,), lambda: room[0])
    for room[0], most, started in ((1, 9, 1), (1, 9, 1), (3, 2, 2), (3, 9, 3), (1, 9, 3)):
        team.crew.tend(most)
        assert len(team.workers) == started
    team.crew.lose(team.crew.ready[0])
    team.crew.tend(9)
    assert len(team.workers) == 3  # the two that are left are more than there is room for
    assert [worker.closed for worker in team.workers] == [True, False, False]


def test_a_worker_that_waits_for_a_node_which_left_is_given_up() -> None:
    class Waits(FakeWorker):
        def start(self) -> Future:
            return Future() if len(team.workers) > 1 else super().start()

    room = [2]
    team = Team(lambda shard: (shard,), lambda: room[0])
    team.kind = Waits
    team.crew.tend(9)
    team.crew.tend(9)
    room[0] = 1
    team.crew.tend(9)
    assert [worker.closed for worker in team.workers] == [False, True]


def test_idle_workers_come_first_and_the_last_shards_are_not_hoarded() -> None:
    a, b = FakeWorker(lambda shard: shard), FakeWorker(lambda shard: shard)
    waiting = deque(range(2))
    assert [(worker is a, shard) for worker, shard in assign([a, b], [], waiting)] == [(True, 0), (False, 1)]
    waiting = deque(range(9))
    given = [(worker is a, shard) for worker, shard in assign([a, b], [(a, 99)], waiting)]
    assert given == [(False, 0), (True, 1), (False, 2)]
    waiting = deque([7])
    assert list(assign([a, b], [(a, 98), (b, 99)], waiting)) == []


def test_a_shard_that_a_worker_died_over_has_a_worker_for_itself() -> None:
    a, b = FakeWorker(lambda shard: shard), FakeWorker(lambda shard: shard)
    waiting = deque([7, *range(6)])
    assert [(worker is a, shard) for worker, shard in assign([a, b], [(a, 99)], waiting, {7})] == [
        (False, 7),  # to the idle one
        (True, 0),
    ]
    waiting = deque([7, *range(6)])
    assert list(assign([a, b], [(a, 98), (b, 99)], waiting, {7})) == []  # neither gets a second one before it


class Starts:
    """Starts workers, of which those numbered in `dying` die while they build the detector."""

    def __init__(self, dying: Container[int]) -> None:
        self.dying = dying
        self.number = 0

    def __call__(self) -> FakeWorker:
        worker = FakeWorker(lambda shard: (shard,))
        if self.number in self.dying:
            worker.start = self.die  # type: ignore[method-assign]
        self.number += 1
        return worker

    error: Exception = WorkerLostError("killed")

    def die(self) -> Future:
        future: Future = Future()
        future.set_exception(self.error)
        return future


def test_workers_that_die_while_they_build_the_detector_are_no_traceback() -> None:
    starts = Starts(range(99))
    with pytest.raises(ShardError, match="failed to start"):
        Crew(starts, lambda: 1).first()
    assert starts.number == FAILED_STARTS


def test_those_of_a_node_that_is_lost_while_they_start_die_as_one() -> None:
    crew = Crew(Starts(range(1, 9)), lambda: 8)
    crew.first()
    crew.lose(crew.ready[0])
    crew.tend(8)
    crew.tend(8)  # eight died, and eight others were started
    crew.tend(8)
    assert len(crew.ready) == 8


def test_the_very_first_workers_own_error_ends_the_run_at_once() -> None:
    starts = Starts(range(99))
    starts.error = ExtractorError("no such weights")
    with pytest.raises(ExtractorError, match="no such weights"):
        Crew(starts, lambda: 1).first()
    assert starts.number == 1


def test_without_room_for_a_worker_it_waits_and_does_not_spin(monkeypatch: pytest.MonkeyPatch) -> None:
    room = iter([0, 0, 0, 1])
    waited: list[float] = []
    monkeypatch.setattr(crew.time, "sleep", waited.append)
    assert Crew(Starts([]), lambda: next(room, 1)).first() == "description"
    assert len(waited) >= 3


def test_one_with_another_detector_is_not_taken_in_and_does_not_end_the_run(tmp_path: Path) -> None:
    """A node whose GPU's driver is broken computes on its CPU, for one."""
    team = Team(lambda shard: (shard,), lambda: 2)
    team.crew.first()
    checked = []

    def check(description: object) -> None:
        checked.append(description)
        raise FingerprintError("the workers' detectors differ")

    team.crew.require(check)
    assert len(team.run(tmp_path, range(50))) == 50
    assert 1 <= len(checked) <= FAILED_STARTS
    assert [bool(worker.given) for worker in team.workers] == [True, *[False] * len(checked)]
    assert all(worker.closed for worker in team.workers[1 : 1 + len(checked)])


def test_one_that_hangs_while_it_builds_its_detector_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "START_SECONDS", 0.05)
    starts = Starts([])
    hanging, waiting = starts(), starts()
    for worker in (hanging, waiting):
        worker.start = Future  # type: ignore[method-assign]
    hanging.pulse = lambda: Pulse(0, 1)  # type: ignore[method-assign]
    queue = [hanging, waiting]
    team = Crew(lambda: queue.pop(0) if queue else starts(), lambda: 1)
    team.tend(1)
    time.sleep(0.1)
    team.tend(1)
    assert not hanging.closed
    time.sleep(0.1)
    team.tend(1)
    assert hanging.closed  # and the next one waits for a place on a node, for as long as that takes
    time.sleep(0.1)
    team.tend(1)
    team.tend(1)
    assert not waiting.closed
    assert not queue


@pytest.mark.parametrize("error", [WorkerLostError("killed"), ExtractorError("this node has no GPU")])
def test_where_some_are_at_work_others_that_cannot_start_do_not_end_the_run(tmp_path: Path, error: Exception) -> None:
    starts = Starts(range(1, 99))
    starts.error = error
    team = Team(lambda shard: (shard,))
    team.crew = Crew(starts, lambda: 2)
    assert len(team.run(tmp_path, range(50))) == 50
    assert starts.number <= 1 + FAILED_STARTS


class Unready:
    """Makes workers that are never ready, with this sign of life."""

    def __init__(self, beats: int) -> None:
        self.beats = beats

    def __call__(self) -> FakeWorker:
        worker = FakeWorker(lambda shard: None)
        worker.start = Future  # type: ignore[method-assign]
        worker.pulse = lambda: Pulse(0, self.beats)  # type: ignore[method-assign]
        return worker


@pytest.mark.parametrize(
    ("beats", "room", "said"),
    [
        (1, 1, "the first one is still starting"),
        (0, 1, "the cluster may be busy"),
        (0, 0, "no node has enough free CPUs and GPUs"),
    ],
)
def test_while_no_worker_is_ready_it_says_what_is_waited_for(
    beats: int, room: int, said: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(crew, "SECONDS_BEFORE_WAITING_IS_SAID", 0.0)
    team = Crew(Unready(beats), lambda: room, no_process="the cluster may be busy")
    for _ in range(3):
        time.sleep(0.01)
        team.tend(1)
    [record] = caplog.records
    assert record.getMessage().startswith("no worker is ready yet: ")
    assert said in record.getMessage()
