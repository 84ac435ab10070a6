"""Spec of captioning, importable without torch. 12-in-1 has no such task, and no task in row 0 of the embedding."""

from __future__ import annotations

from vilbert.pipeline.tasks.registry import TaskSpec

CAPTIONING = TaskSpec(
    open="vilbert.pipeline.tasks.captioning.task:open_task",
    head="linguisic_prediction",
    prediction="describe",
    token=0,
    causal=True,
    test_splits=("test",),
    evaluation="vilbert.pipeline.evaluate.captioning:answer",
    main_metric="cider",
    about_metrics="BLEU, ROUGE-L and CIDEr compare the model's captions with human captions; higher is better.",
)
