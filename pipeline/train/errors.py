"""What can end a training run."""

from __future__ import annotations


class TrainingError(Exception):
    """A run that cannot go on; says at which step, why, and what to do."""


class NonFiniteError(TrainingError):
    """A loss or a gradient that is no number."""
