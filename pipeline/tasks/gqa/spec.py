"""Spec of GQA, importable without torch."""

from __future__ import annotations

from vilbert.pipeline.tasks.registry import TaskSpec

GQA = TaskSpec(
    open="vilbert.pipeline.tasks.gqa.task:open_task",
    head="vil_prediction_gqa",
    prediction="answer",
    token=15,
    labels_setting="num_gqa_answers",
    task_heads=("multitask",),
    image_ids="gqa",
    test_splits=("testdev",),
)
