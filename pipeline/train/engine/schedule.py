"""The learning rate over a run: a factor that depends on the step and on nothing that came before."""

from __future__ import annotations

import math
from typing import Literal

from vilbert.settings import Share, validated


@validated
class ScheduleSettings:
    """Learning rate schedule."""

    schedule: Literal["linear", "cosine", "constant", "steps"] = "linear"
    """Decay after the warm-up; steps: by --drop-factor at each of --drops."""
    warmup: Share = 0.1
    """Fraction of all steps with linear warm-up from 0."""
    final_factor: Share = 0.0
    """Final fraction of the peak rate, for linear and cosine."""
    drops: tuple[Share, ...] = (0.6, 0.8)
    """Fractions of all steps after which the rate is multiplied by --drop-factor."""
    drop_factor: Share = 0.1
    """Factor applied at each of --drops."""


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
