"""Spec of SNLI-VE, importable without torch."""

from __future__ import annotations

from vilbert.pipeline.tasks.registry import TaskSpec

LABELS = ("contradiction", "neutral", "entailment")
"""The classes in the order of ViLBERT's classifier."""

SNLI_VE = TaskSpec(
    open="vilbert.pipeline.tasks.snli_ve.task:open_task",
    head="vil_tri_prediction",
    prediction="answer",
    token=13,
    labels=LABELS,
    task_heads=("multitask",),
    test_splits=("test",),
)
