"""VCR, answers and reasons: facts that are known without importing torch."""

from __future__ import annotations

from dataclasses import replace

from vilbert.pipeline.tasks.registry import TaskSpec

VCR_QA = TaskSpec(
    open="vilbert.pipeline.tasks.vcr.task:open_task",
    head="vil_logit",
    prediction="choose",
    token=5,
    given_boxes="averaged",
    takes_names=True,
    image_ids="vcr",
    about_metrics="Of four options one is right: guessing is right in 25%.",
)
VCR_QAR = replace(VCR_QA, token=6, takes_answers=True)
