"""Find the images that crash workers: which rows of a shard to leave out, and which to try alone first.

When a process dies, any row in hand may have done it, or none: somebody may have pulled the plug. So those rows are
suspects, and the next attempt tries them one by one before it does anything else. One that the process dies over
again, alone this time, stays a suspect; one that passes is none any more. A row that was in hand in three deaths, in
the last two of them alone, is left out as a failure of the shard. An unlucky moment hardly comes three times.

What only ever happens in company (two images that together are too much for the memory) is met by going slowly: after
three deaths the rows are decoded one at a time, and the rows of a batch that died twice pass the detector one by one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.jobs.journal import Attempt
from vilbert.pipeline.jobs.journals import Journals

DEATHS = 3
"""So many times a row must have been in hand when the process died, to be left out."""
DEATHS_ALONE = 2
"""So many of them with nothing else in hand."""
BATCH_DEATHS = 2
"""After so many, the rows of a batch go through the detector one by one."""
DEATHS_BEFORE_SLOW = 3
"""Of a shard, with several rows in hand."""
MOST_BLAMED = 8
"""Rows of a shard that are left out while none of it has come through yet. Then it is the worker that is broken."""

DETAILS = {
    "crash": f"the process died {DEATHS} times while it had this image in hand, the last {DEATHS_ALONE} with it alone",
    "hang": f"the process stood still {DEATHS} times while it had this image in hand, the last {DEATHS_ALONE} "
    "with it alone",
}
"""By reason, as in a file of failures: the same on every run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """How the next attempt at a shard is to go about it."""

    quarantined: dict[int, str]
    """Rows to leave out, with the reason: `crash` or `hang`."""
    suspects: tuple[int, ...]
    """Rows to try by themselves first, the most suspect in front."""
    singly: frozenset[int]
    """Rows whose batch goes through the detector one by one."""
    slow: bool
    """Whether rows are decoded one at a time, while the detector waits."""
    broken: bool
    """Whether the worker is to blame and not the rows: every one that it has tried ended it."""


def judge(attempts: Iterable[Attempt]) -> Verdict:
    """Return the verdict on a shard after these attempts, in their order."""
    deaths: Counter[int] = Counter()
    alone: Counter[int] = Counter()
    batches: Counter[int] = Counter()
    stalls: dict[int, bool] = {}
    quarantined: dict[int, str] = {}
    in_company = 0
    came_through = False
    for attempt in attempts:
        came_through = came_through or attempt.came_through
        for row in attempt.passed:  # another row was to blame
            deaths.pop(row, None)
            alone.pop(row, None)
        if attempt.ended:  # it did not die
            continue
        in_hand = {attempt.alone} if attempt.alone is not None else attempt.decoding | attempt.detecting
        deaths.update(in_hand)
        stalls.update(dict.fromkeys(in_hand, attempt.stalled))
        if attempt.alone is not None:
            alone[attempt.alone] += 1
        elif in_hand:
            in_company += 1
            batches.update(attempt.detecting)
            if in_company > DEATHS_BEFORE_SLOW and len(in_hand) == 1:  # going slowly, it too was alone
                alone.update(in_hand)
        for row in in_hand:
            if deaths[row] >= DEATHS and alone[row] >= DEATHS_ALONE:
                quarantined[row] = "hang" if stalls[row] else "crash"
    slow = in_company >= DEATHS_BEFORE_SLOW
    # An attempt that goes slowly has one row in hand at a time anyway.
    left = () if slow else deaths.keys() - quarantined.keys()
    suspects = sorted(left, key=lambda row: (-alone[row], -deaths[row], row))
    return Verdict(
        quarantined=dict(sorted(quarantined.items())),
        suspects=tuple(suspects),
        singly=frozenset(row for row, count in batches.items() if count >= BATCH_DEATHS),
        slow=slow,
        broken=len(quarantined) >= MOST_BLAMED and not came_through,
    )


def require_sound(verdict: Verdict, journals: Journals, *, shard: int) -> None:
    """Raise ShardError where the worker is broken, and throw the journal away, for its images are not to blame."""
    if verdict.broken:
        journals.remove(shard)
        raise ShardError(
            f"shard {shard}: each of {len(verdict.quarantined)} images ended the process three times, and none was "
            "processed: the machine or the detector is broken (see `vilbert doctor`), so no image is skipped. "
            "Finished shards are kept; fix the problem and run the same command again"
        )
