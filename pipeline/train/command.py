"""`vilbert pretrain`: train in this process, or start Ray's workers that do. Nothing heavy is imported before."""

from __future__ import annotations

from pipeline.train.settings import PretrainSettings

__all__ = ["PretrainSettings", "pretrain"]


def pretrain(settings: PretrainSettings) -> int:
    """Pre-train; return 0, or 130 where a signal ended it.

    A signal ends this process, or those of torchrun, with a checkpoint of the step under way; under Ray the last
    periodic one is what is left.
    """
    from pipeline.train.pretrain import begin_group, train

    if not settings.workers:
        return train(settings)
    from pipeline.train.ray_launch import launch

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
