"""The learning rates of fine-tuning: one for all but new heads, as published, or another for the text stream."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from vilbert.model.config import ViLBertConfig
from vilbert.pipeline.cli import main, parse
from vilbert.pipeline.finetune.start import build_task_model

from ..tasks.small_tasks import finetune_arguments


def moved(small: Path, output: Path, *more: str) -> dict[str, float]:
    """Return by how much each parameter changed in the first step, at most."""
    torch.set_num_threads(1)
    # A bias-corrected first step of AdamW moves each parameter by its rate.
    options = ["--warmup", "0", "--schedule", "constant", "--weight-decay", "0", "--batch-size", "64", *more]
    assert main([*finetune_arguments(small, "vqa", output, steps=1), *options]) == 0
    config = ViLBertConfig.from_pretrained(output / "final")
    before = dict(build_task_model(config, 1).named_parameters())
    after = load_file(output / "final" / "model.safetensors")
    return {name: float((value - before[name].detach()).abs().max()) for name, value in after.items()}


TEXT = "bert.encoder.layer.0.attention.self.value.weight"
IMAGE = "bert.encoder.v_layer.0.attention.self.value.weight"
HEAD = "vil_prediction.logit_fc.3.weight"


def test_by_default_words_and_regions_have_one_rate_and_heads_their_own(small: Path, tmp_path: Path) -> None:
    found = moved(small, tmp_path / "run", "--learning-rate", "0.001", "--head-learning-rate", "0.004")
    assert abs(found[TEXT] - 0.001) < 2e-5
    assert abs(found[IMAGE] - 0.001) < 2e-5
    assert abs(found[HEAD] - 0.004) < 8e-5


def test_the_text_stream_can_have_a_share_of_the_rate(small: Path, tmp_path: Path) -> None:
    found = moved(small, tmp_path / "run", "--learning-rate", "0.001", "--text-learning-rate-factor", "0.25")
    assert abs(found[TEXT] - 0.00025) < 5e-6
    assert abs(found["bert.embeddings.word_embeddings.weight"] - 0.00025) < 5e-6
    assert abs(found[IMAGE] - 0.001) < 2e-5


def test_pretraining_has_a_share_by_default_and_fine_tuning_none() -> None:
    options = ["features", "--output", "o"]
    task = ["--annotations", "a", "--init-from", "i"]
    assert parse("finetune", ["vqa", *options, *task]).optimizer.text_learning_rate_factor == 1
    assert parse("pretrain", options).optimizer.text_learning_rate_factor == 0.1
