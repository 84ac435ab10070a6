"""What can end a training run."""

from __future__ import annotations


class TrainingError(Exception):
    """A run that cannot go on; says at which step, why, and what to do."""


class NonFiniteError(TrainingError):
    """A loss or a gradient that is no number."""


class LoaderError(TrainingError):
    """A data loading process that died or no longer moves."""


class OutOfMemoryError(TrainingError):
    """A step that needs more memory than the device or the machine has."""


class LostPeerError(TrainingError):
    """Another process of the group that failed or died."""
