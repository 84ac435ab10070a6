"""Spec of NLVR2, importable without torch."""

from __future__ import annotations

from vilbert.pipeline.tasks.registry import TaskSpec

NLVR2 = TaskSpec(
    open="vilbert.pipeline.tasks.nlvr2.task:open_task",
    head="vil_binary_prediction",
    prediction="judge",
    token=12,
    task_heads=("multitask",),
    image_ids="nlvr2",
    test_splits=("test1",),
)
