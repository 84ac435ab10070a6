"""The learning rate over a run: a factor that depends on the step and on nothing that came before."""

from __future__ import annotations

import math
from typing import Literal

from vilbert.settings import Share, validated


@validated
class ScheduleSettings:
    """How the learning rate rises and falls."""

    schedule: Literal["linear", "cosine", "constant", "steps"] = "linear"
    """How it falls after the warm-up, if at all; steps: at once, at each of --drops."""
    warmup: Share = 0.1
    """Share of all steps in which it rises from 0, in a line."""
    final_factor: Share = 0.0
    """Share of the full rate that it falls to in a line or a cosine."""
    drops: tuple[Share, ...] = (0.6, 0.8)
    """Shares of all steps after which it is multiplied by --drop-factor."""
    drop_factor: Share = 0.1
    """What it is multiplied by at each of --drops."""


def factor_at(step: int, total: int, settings: ScheduleSettings) -> float:
    """Return the share of the full learning rate, 0 to 1, for the update that `step` others came before.

    So the first update, step 0, has rate 0 where there is a warm-up, and `final_factor` belongs to step `total`, which
    is never taken: as in BertAdam of pytorch-pretrained-bert 0.6.2 and in transformers. Beyond `total` it stays.
    Raises ValueError where total is below 1 or step below 0.
    """
    if total < 1 or step < 0:
        raise ValueError(f"step {step} of {total}: expected a step of 0 or more of at least 1")
    progress = min(step / total, 1.0)
    if progress < settings.warmup:
        return progress / settings.warmup
    if settings.schedule == "constant" or settings.warmup == 1:
        return 1.0
    if settings.schedule == "steps":
        return float(settings.drop_factor ** sum(progress >= drop for drop in settings.drops))
    left = (1 - progress) / (1 - settings.warmup)
    if settings.schedule == "cosine":
        left = (1 - math.cos(math.pi * left)) / 2
    return settings.final_factor + (1 - settings.final_factor) * left
