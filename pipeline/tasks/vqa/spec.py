"""VQA v2: facts that are known without importing torch."""

from __future__ import annotations

from vilbert.pipeline.tasks.registry import TaskSpec

VQA = TaskSpec(
    open="vilbert.pipeline.tasks.vqa.task:open_task",
    head="vil_prediction",
    prediction="answer",
    token=1,
    labels_setting="num_answers",
    about_metrics="The official accuracy of VQA: an answer is wholly right if three of ten people gave it.",
)
