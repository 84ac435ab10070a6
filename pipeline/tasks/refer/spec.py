"""Specs of referring expressions, importable without torch."""

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
    about_metrics="An answer is correct if the IoU of the model's box and the annotated box is above 0.5.",
)
REFCOCO_PLUS = replace(REFCOCO, token=10)
REFCOCOG = replace(REFCOCO, token=11, test_splits=("test",))
