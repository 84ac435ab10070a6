"""Referring expressions: facts that are known without importing torch."""

from __future__ import annotations

from dataclasses import replace

from vilbert.pipeline.tasks.registry import TaskSpec

REFCOCO = TaskSpec(
    open="vilbert.pipeline.tasks.refer.task:open_task",
    head="vision_logit",
    prediction="point",
    token=9,
    given_boxes="candidates",
    test_splits=("testA", "testB"),
    about_metrics="An answer is right where the model's box and people's overlap by more than half (IoU above 0.5).",
)
REFCOCO_PLUS = replace(REFCOCO, token=10)
REFCOCOG = replace(REFCOCO, token=11, test_splits=("test",))
