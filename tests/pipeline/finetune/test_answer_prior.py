"""`--answer-prior`: a classifier that begins with the answers' shares."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from vilbert.model.config import ViLBertConfig
from vilbert.pipeline.finetune.start import begin_with_prior, build_task_model
from vilbert.pipeline.tasks.gqa.files import GqaQuestion
from vilbert.pipeline.tasks.gqa.task import GqaTask
from vilbert.pipeline.tasks.vqa.files import read_questions
from vilbert.pipeline.tasks.vqa.task import VqaTask

SIZES: dict[str, Any] = {
    "vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8,
    "v_feature_size": 4, "v_hidden_size": 8, "v_num_hidden_layers": 1, "v_num_attention_heads": 2,
    "v_intermediate_size": 8, "bi_hidden_size": 8, "bi_num_attention_heads": 2, "v_biattention_id": [0],
    "t_biattention_id": [0],
}  # fmt: skip


def test_the_answers_of_gqa_begin_with_their_shares() -> None:
    answers = ["yes", "yes", "yes", "no", None, "cat"]
    questions = [
        GqaQuestion(question_id=str(n), image_id="1", text="what", answer=answer) for n, answer in enumerate(answers)
    ]
    model = build_task_model(ViLBertConfig(**SIZES, num_gqa_answers=3), seed=0)
    begin_with_prior(model, GqaTask("gqa", questions, ["yes", "no", "never"]))
    shares = model.vil_prediction_gqa.get_parameter("logit_fc.3.bias").sigmoid()
    assert shares.tolist() == pytest.approx([0.6, 0.2, 0.1])  # of five with an answer; none counts as half a one


@pytest.mark.parametrize("heads", ["multitask", "beta"])
def test_the_answers_of_vqa_begin_with_their_mean_scores(small: Path, heads: Literal["beta", "multitask"]) -> None:
    task = VqaTask("vqa", read_questions(small / "vqa", "val"), ["yes", "no"])
    model = build_task_model(ViLBertConfig(**SIZES, num_answers=2, task_heads=heads), seed=0)
    before = {name: value.clone() for name, value in model.named_parameters()}
    begin_with_prior(model, task)
    changed = [name for name, value in model.named_parameters() if not torch.equal(value, before[name])]
    assert len(changed) == 1
    assert changed[0].startswith("vil_prediction.")
    targets = task.targets(range(len(task.items)), [None] * len(task.items))
    wanted = [float(targets["label_scores"][targets["label_ids"] == label].sum()) / len(task.items) for label in (0, 1)]
    assert dict(model.named_parameters())[changed[0]].sigmoid().tolist() == pytest.approx(wanted)
