"""Find the images that crash workers: which rows of a shard to skip, and which to try alone first.

When a process dies, any row in progress may be the cause, or none (a power failure). So these rows are suspects, and
the next attempt first tries them one by one. If the process dies again while a row is tried alone, the row remains a
suspect; if it passes, it is no longer one. A row that was in progress in three deaths, alone in the last two, is
skipped and recorded as a failure. Three coincidences are unlikely.

Crashes that occur only with several rows (two images that together exceed the memory) are avoided by slowing down:
after three deaths, rows are decoded one at a time, and the rows of a batch that died twice go through the detector one
by one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.jobs.journal import Attempt
from vilbert.pipeline.jobs.journals import Journals

DEATHS = 3
"""Number of deaths of the process with a row in progress after which the row is skipped."""
DEATHS_ALONE = 2
"""Number of these deaths in which the row must have been alone."""
BATCH_DEATHS = 2
"""Number of deaths after which the rows of a batch go through the detector one by one."""
DEATHS_BEFORE_SLOW = 3
"""Number of deaths of a shard with several rows in progress after which rows are decoded one at a time."""
MOST_BLAMED = 8
"""Number of skipped rows of a shard without any passed row after which the worker is considered broken."""

DETAILS = {
    "crash": f"the process died {DEATHS} times while it processed this image, the last {DEATHS_ALONE} times alone",
    "hang": f"the process made no progress {DEATHS} times while it processed this image, the last {DEATHS_ALONE} times "
    "alone",
}
"""Detail by reason, as in a file of failures; the same on every run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """How the next attempt at a shard must proceed."""

    quarantined: dict[int, str]
    """Rows to skip, with the reason: `crash` or `hang`."""
    suspects: tuple[int, ...]
    """Rows to try by themselves first, the most suspect ones first."""
    singly: frozenset[int]
    """Rows whose batch goes through the detector row by row."""
    slow: bool
    """Whether rows are decoded one at a time while the detector waits."""
    broken: bool
    """Whether the worker is broken and not the rows, because every row that it tried ended it."""


def judge(attempts: Iterable[Attempt]) -> Verdict:
    """Return how to proceed with a shard after these attempts, in order."""
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
            if in_company > DEATHS_BEFORE_SLOW and len(in_hand) == 1:  # in slow mode this row was alone too
                alone.update(in_hand)
        for row in in_hand:
            if deaths[row] >= DEATHS and alone[row] >= DEATHS_ALONE:
                quarantined[row] = "hang" if stalls[row] else "crash"
    slow = in_company >= DEATHS_BEFORE_SLOW
    # A slow attempt processes one row at a time anyway.
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
    """Raise ShardError if the worker is broken, and delete the journal, because its images are not the cause."""
    if verdict.broken:
        journals.remove(shard)
        raise ShardError(
            f"shard {shard}: each of {len(verdict.quarantined)} images ended the process three times, and none was "
            "processed: the machine or the detector is broken (see `vilbert doctor`), so no image is skipped. "
            "Finished shards are kept; fix the problem and run the same command again"
        )
