"""`vilbert pretrain`: train in this process or start Ray workers. Heavy modules are imported only when it runs."""

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
    """Run `train` in this process or on Ray workers; return 0, or 130 if a signal ended it.

    On a signal, this process or those of torchrun write a checkpoint of the current step; under Ray the last periodic
    checkpoint remains.
    """
    if not settings.workers:
        # Until its first step, a process of a group keeps the default action of SIGTERM: it may be waiting in native
        # code.
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
