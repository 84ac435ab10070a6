"""`vilbert pretrain`: train in this process, or start Ray's workers that do. Nothing heavy is imported before."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from typing import TypeVar

from vilbert.pipeline.signals import terminate_like_interrupt
from vilbert.pipeline.train.pretraining.settings import PretrainSettings
from vilbert.pipeline.train.run.settings import RunSettings

__all__ = ["PretrainSettings", "pretrain", "start"]

S = TypeVar("S", bound=RunSettings)


def pretrain(settings: PretrainSettings) -> int:
    """Pre-train; return the exit status."""
    from vilbert.pipeline.train.pretraining.run import pretrain

    return start(pretrain, settings)


def start(train: Callable[[S], int], settings: S) -> int:
    """Run `train` here or on Ray's workers; return 0, or 130 where a signal ended it.

    A signal ends this process, or those of torchrun, with a checkpoint of the step under way; under Ray the last
    periodic one is what is left.
    """
    if not settings.workers:
        # A process of a group dies of SIGTERM as others do until its first step: it may be waiting in native code.
        alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
        with terminate_like_interrupt() if alone else nullcontext():
            return train(settings)
    from vilbert.pipeline.train.run.folder import run_folder
    from vilbert.pipeline.train.run.ray_launch import launch
    from vilbert.pipeline.train.run.run import begin_group

    with run_folder(settings.output):
        begin_group(settings)
        return launch(
            train,
            settings,
            workers=settings.workers,
            use_gpu=settings.use_gpu,
            run=settings.output,
            max_failures=settings.max_failures,
            address=settings.ray_address,
        )
