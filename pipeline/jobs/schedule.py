"""Assign shards to workers until all shards are finished, even if workers are lost. Independent of Ray."""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue

from vilbert.pipeline.errors import CorruptShardError, RefusedError, ShardError
from vilbert.pipeline.jobs.claims import Claim, Claims
from vilbert.pipeline.jobs.crew import Crew, Handle, WorkerLostError
from vilbert.pipeline.jobs.journal import parse_journal
from vilbert.pipeline.jobs.journals import Journals
from vilbert.pipeline.jobs.run_log import shard_log
from vilbert.pipeline.jobs.stall import StallWatch
from vilbert.pipeline.jobs.suspects import judge, require_sound
from vilbert.pipeline.jobs.worker import SHARDS_IN_FLIGHT, ShardDone

logger = logging.getLogger(__name__)

ATTEMPTS = 6
"""Number of attempts at a shard whose workers died without an identified image, before the run ends."""
ERRORS_IN_A_ROW = 3
"""Number of consecutive failed shards, or of failed attempts at one shard, after which an error ends the run."""
REST_SECONDS = 60.0
"""Seconds for which a worker whose shard failed gets no new shard."""


def assign(
    workers: Sequence[Handle], busy: Sequence[tuple[Handle, int]], waiting: deque[int], fragile: Collection[int] = ()
) -> Iterator[tuple[Handle, int]]:
    """Yield assignments of waiting shards: first one to each idle worker, then a second one to each.

    The last shards are not assigned as second ones, because a worker that becomes idle can start them sooner.

    fragile: shards during which a worker died. Each of them gets a worker of its own, so that the responsible image can
    be identified and no other shard is affected. They come first; the others wait until a worker is free for them.
    """
    load = Counter(id(worker) for worker, _ in busy)
    taken = {id(worker) for worker, shard in busy if shard in fragile}
    for depth in range(SHARDS_IN_FLIGHT):
        for worker in workers:
            if not waiting or load[id(worker)] != depth or id(worker) in taken:
                continue
            if depth and (len(waiting) < len(workers) or waiting[0] in fragile):
                continue
            shard = waiting.popleft()
            load[id(worker)] += 1
            if shard in fragile:
                taken.add(id(worker))
            yield worker, shard


class Schedule:
    """The state of one run: waiting shards, assigned shards, and shards during which workers died."""

    def __init__(
        self,
        crew: Crew,
        shards: Mapping[int, tuple[int, int]],
        *,
        journals: Journals,
        retry: Collection[int] = (),
        stall_seconds: float = 0.0,
        seconds_between_ticks: float = 2.0,
        claims: Claims | None = None,
    ) -> None:
        """Store the rows [start, stop) of each shard; `retry`: the shards whose samples are kept.

        claims: If other processes make shards of the same data set, a shard is assigned when it has been claimed.
        """
        self._crew = crew
        self._shards = shards
        self._journals = journals
        self._retry = retry
        self._seconds_between_ticks = seconds_between_ticks
        self._watch = StallWatch(stall_seconds)
        self._fragile = journals.shards() & shards.keys()  # left by a killed run
        order = sorted(shards, key=lambda shard: (shard not in self._fragile, shard))
        self._claims = claims
        self._unclaimed = deque(order if claims is not None else ())
        self._waiting = deque(order if claims is None else ())
        self._done_elsewhere: list[int] = []
        self._given: Counter[int] = Counter()
        """Number of attempts at each shard in this run."""
        self._attempts: Counter[int] = Counter()
        self._blamed: dict[int, int] = {}
        self._failed: Counter[int] = Counter()
        self._errors_in_a_row = 0
        self._rests: dict[int, float] = {}
        self._in_flight: dict[Future[ShardDone], tuple[Handle, int]] = {}
        self._done: SimpleQueue[Future[ShardDone]] = SimpleQueue()
        self.lost = 0
        """Number of workers that died or got stuck during a shard."""

    def run(self) -> Iterator[ShardDone | None]:
        """Yield each shard when it is finished, and None from time to time so that the caller can report progress.

        Raises an error that several workers raise in a row, or a single worker if it is the only one, and ShardError if
        ATTEMPTS workers are lost during one shard.
        """
        look = 0.0
        while self._unclaimed or self._waiting or self._in_flight:
            self._crew.tend(len(self._unclaimed) + len(self._waiting) + len(self._in_flight))
            self._claim()
            busy = list(self._in_flight.values())
            for worker, shard in assign(self._rested(), busy, self._waiting, self._fragile):
                self._given[shard] += 1
                shard_log.info("%s: assigned to a worker", self._name(shard))
                future = worker.make_shard(shard, self._shards[shard], shard in self._retry)
                self._in_flight[future] = worker, shard
                future.add_done_callback(self._done.put)
            for future in self._wait():
                if future not in self._in_flight:  # lost with its worker in the meantime
                    continue
                worker, shard = self._in_flight.pop(future)
                try:
                    made = future.result()
                except WorkerLostError as error:
                    self._part_with(worker)
                    self._put_back(shard, str(error))
                except (OSError, ShardError) as error:
                    self._excuse(worker, shard, error)
                else:
                    self._errors_in_a_row = 0
                    self._fragile.discard(shard)
                    if self._claims is not None:
                        self._claims.finish(shard)
                    shard_log.info("%s: %s", self._name(shard), _facts(made))
                    yield made
            if time.monotonic() >= look:  # not for every shard: with hundreds of workers one finishes all the time
                look = time.monotonic() + self._seconds_between_ticks
                self._end_stuck_workers()
                yield None
        yield None

    def take_done_elsewhere(self) -> list[int]:
        """Return the shards finished by other processes since the last call."""
        done, self._done_elsewhere = self._done_elsewhere, []
        return done

    def _claim(self) -> None:
        """Claim as many shards as can be assigned now. Shards claimed by other processes are tried again later."""
        if self._claims is None:
            return
        wanted = SHARDS_IN_FLIGHT * len(self._crew.ready) - len(self._waiting) - len(self._in_flight)
        for _ in range(len(self._unclaimed)):
            if wanted <= 0:
                return
            shard = self._unclaimed.popleft()
            claim = self._claims.take(shard)
            if claim is Claim.HELD:
                self._unclaimed.append(shard)
            elif claim is Claim.DONE:
                self._done_elsewhere.append(shard)
            else:
                self._waiting.append(shard)
                wanted -= 1
                if self._journals.read(shard):  # left by a process that was killed over it
                    self._fragile.add(shard)

    def _wait(self) -> list[Future[ShardDone]]:
        """Wait briefly for finished shards and return them; meanwhile a worker may become ready or a node may join."""
        try:
            done = [self._done.get(timeout=self._seconds_between_ticks)]
        except Empty:
            return []
        while not self._done.empty():
            done.append(self._done.get())
        return done

    def _part_with(self, worker: Handle) -> None:
        """Remove a worker that died or stalled."""
        self.lost += worker in self._crew.ready
        self._crew.lose(worker)
        self._watch.forget(id(worker))
        self._rests.pop(id(worker), None)

    def _put_back(self, shard: int, why: str) -> None:
        """Return the shard of a lost worker to the queue; raise ShardError after too many attempts."""
        verdict = judge(parse_journal(self._journals.read(shard) or b"", range(*self._shards[shard])))
        require_sound(verdict, self._journals, shard=shard)
        if len(verdict.quarantined) > self._blamed.get(shard, 0):
            self._blamed[shard] = len(verdict.quarantined)
            self._attempts[shard] = 0
            logger.warning("%s: skipped and recorded as failures: %s", self._name(shard), _list(verdict.quarantined))
        self._attempts[shard] += 1
        if self._attempts[shard] >= ATTEMPTS:
            raise ShardError(
                f"shard {shard} ended {ATTEMPTS} workers ({why}), and no image could be identified as the cause; check "
                "that there is enough memory. Finished shards are kept; run the same command again to retry"
            )
        logger.warning("%s: its worker was lost (%s); trying again", self._name(shard), why)
        self._fragile.add(shard)
        self._waiting.appendleft(shard)

    def _rested(self) -> list[Handle]:
        """Return the workers that may get shards."""
        now = time.monotonic()
        return [worker for worker in self._crew.ready if self._rests.get(id(worker), now) <= now]

    def _excuse(self, worker: Handle, shard: int, error: OSError | ShardError) -> None:
        """Return a failed shard to the queue, because perhaps only one machine cannot read or write; else raise."""
        self._failed[shard] += 1
        self._errors_in_a_row += 1
        if (
            isinstance(error, RefusedError | CorruptShardError)
            or len(self._crew.ready) < 2
            or max(self._errors_in_a_row, self._failed[shard]) >= ERRORS_IN_A_ROW
        ):
            raise error
        logger.warning("%s: failed (%s); it will be retried by another worker", self._name(shard), error)
        self._rests[id(worker)] = time.monotonic() + REST_SECONDS
        self._waiting.append(shard)

    def _name(self, shard: int) -> str:
        return f"shard {shard}, attempt {self._given[shard]}"

    def _end_stuck_workers(self) -> None:
        """Remove busy workers that make no progress."""
        self._watch.tick(time.monotonic())
        busy = {id(worker): worker for worker, _ in self._in_flight.values()}
        for worker in busy.values():
            if not self._watch.is_stuck(id(worker), worker.pulse()):
                continue
            self._part_with(worker)
            lost = [future for future, (holder, _) in self._in_flight.items() if holder is worker]
            shards = [self._in_flight.pop(future)[1] for future in lost]
            for shard in shards:
                self._journals.mark_stalled(shard)
            for shard in shards:
                self._put_back(shard, "it made no progress")
        for worker in self._crew.ready:
            if id(worker) not in busy:
                self._watch.forget(id(worker))


def _list(quarantined: Mapping[int, str]) -> str:
    return ", ".join(f"row {row} ({reason})" for row, reason in quarantined.items())


def _facts(done: ShardDone) -> str:
    record = done.record
    reasons = ", ".join(f"{count} {reason}" for reason, count in record.failures.items())
    busy = f", the detector busy for {done.busy_seconds:.1f} s" if done.busy_seconds else ""
    return (
        f"done, {record.samples} samples{f', failed: {reasons}' if reasons else ''}, {record.bytes} bytes, "
        f"{done.seconds:.1f} s{busy}"
    )
