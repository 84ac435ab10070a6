"""Specs of caption-based retrieval, importable without torch.

Two tasks, so that one model can train on both data sets with different task tokens.
"""

from __future__ import annotations

from dataclasses import replace

from vilbert.pipeline.tasks.registry import TaskSpec

FLICKR30K = TaskSpec(
    open="vilbert.pipeline.tasks.retrieval.task:open_task",
    head="vil_logit",
    prediction="rank",
    token=8,
    test_splits=("test",),
    evaluation="vilbert.pipeline.evaluate.retrieval:answer",
    main_metric="image_retrieval_r1",
    about_metrics=(
        "R@1, R@5 and R@10: fraction of captions whose image, or of images with a caption that, is among the first "
        "1, 5 and 10."
    ),
)
COCO = replace(FLICKR30K, token=7)
