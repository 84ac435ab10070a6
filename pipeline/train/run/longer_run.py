"""Extend a run: raise `--max-steps` or `--epochs` of an unfinished or finished run.

The extended run is the same run only if the learning rates of the remaining steps do not depend on the number of steps,
as with a constant schedule after its warm-up.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.train.engine.schedule import factor_at
from vilbert.pipeline.train.run.folder import FINAL_FOLDER

if TYPE_CHECKING:
    from vilbert.pipeline.train.engine.loop import Training

LENGTH = ("max_steps", "epochs")


def as_long(training: Training, before: Mapping[str, Any], step: int, *, where: Path) -> Mapping[str, Any]:
    """Return a run's description with the length that is asked for now, where it may be made longer.

    before: of the run as it was. step: steps that it has made. where: for messages. Raises RefusedError, saying why and
    what to do, where its remaining steps would not be those of the same run. A run whose description differs in more
    than its length is returned as it is.
    """
    settings, now = before.get("settings"), training.description["settings"]
    if not isinstance(settings, Mapping) or all(settings.get(name) == now.get(name) for name in LENGTH):
        return before
    longer = {**before, "settings": {**settings, **{name: now.get(name) for name in LENGTH}}}
    if longer["settings"] != now:
        return before  # other differences are refused, with these
    old, new = _steps(training, settings), training.total_steps
    reason = _why_not(training, step, old, new)
    if reason is not None:
        output = training.settings.output
        raise RefusedError(
            f"{where}: {reason}. Give the same --max-steps and --epochs as before; or start a new run from the model "
            "of the "
            f"finished run, with its own learning rate schedule: --init-from {output / FINAL_FOLDER} --output NEW"
        )
    return longer


def _steps(training: Training, settings: Mapping[str, Any]) -> int | None:
    """Return the number of steps of a run with these settings; None if it is unknown."""
    if training.epoch_size is None or not isinstance(settings.get("epochs"), (int, float)):
        return None
    planned = dataclasses.replace(
        training.settings, max_steps=settings.get("max_steps"), epochs=float(settings["epochs"])
    )
    return planned.steps(training.epoch_size)


def _why_not(training: Training, step: int, old: int | None, new: int) -> str | None:
    """Return why a run at `step` of `old` steps cannot be extended to `new`; None if it can."""
    if step == 0 or old == new:
        return None
    if training.steering is not None or old is None:
        return f"the turns of its tasks were planned for its first length, which cannot become {new} steps"
    if new < old:
        return f"was planned for {old} steps; {new} are fewer, and only more can be added"
    schedule = training.settings.schedule
    for at in range(step - 1, old):
        then, now = factor_at(at, old, schedule), factor_at(at, new, schedule)
        if then != now:
            return (
                f"was planned for {old} steps, on which its {schedule.schedule} schedule depends: with {new} steps, "
                f"step {at + 1} has {now:.3g} of the full learning rate, not {then:.3g}"
            )
    return None
