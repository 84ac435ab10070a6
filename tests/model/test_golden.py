"""The published models' own numbers: outputs, losses and gradients of both repositories at tiny sizes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from vilbert.model.config import ViLBertConfig
from vilbert.model.tasks import PRETRAINING_SCORES, TASK_HEADS, ViLBertForTasks
from vilbert.model.vilbert import ViLBertForPreTraining

GOLDEN = Path(__file__).resolve().parents[2].parent / "shared" / "golden"
pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason="the golden numbers of ../shared/golden are not here")

FLAVOURS = ("beta", "multitask")
PATHS = ("eager", "sdpa")
GOLDEN_ANSWERS = {"num_answers": 11, "num_gqa_answers": 7}


def load(case: str, attention: str, dtype: torch.dtype = torch.float32):
    folder = GOLDEN / case
    flavour = case.split("_")[1]
    config = ViLBertConfig.from_reference(
        json.loads((folder / "config.json").read_text()), task_heads=flavour, **GOLDEN_ANSWERS
    )
    kind = ViLBertForPreTraining if case.startswith("pretraining") else ViLBertForTasks
    model = kind._from_config(config, attn_implementation=attention).eval()
    weights = load_file(folder / "weights.safetensors")
    assert {name: tuple(t.shape) for name, t in model.state_dict().items()} == {
        name: tuple(t.shape) for name, t in weights.items()
    }
    model.load_state_dict(weights)
    inputs = {name: torch.from_numpy(value) for name, value in np.load(folder / "inputs.npz").items()}
    inputs = {name: value.to(dtype) if value.is_floating_point() else value for name, value in inputs.items()}
    return model.to(dtype), inputs, dict(np.load(folder / "outputs.npz"))


def unlabelled(inputs):
    return {
        name: value
        for name, value in inputs.items()
        if name not in ("masked_lm_labels", "image_label", "image_target", "next_sentence_label")
    }


def assert_close(ours: torch.Tensor, golden: np.ndarray, tolerance: float) -> None:
    assert tuple(ours.shape) == golden.shape
    assert np.abs(ours.detach().numpy() - golden).max() <= tolerance


@pytest.mark.parametrize("attention", PATHS)
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_pretraining_scores_and_states(flavour: str, attention: str) -> None:
    model, inputs, golden = load(f"pretraining_{flavour}", attention)
    scores = model(**unlabelled(inputs))
    states = model.bert(**unlabelled(inputs))
    for ours, name in (
        (scores.text_scores, "prediction_scores_t"),
        (scores.image_scores, "prediction_scores_v"),
        (scores.alignment_scores, "seq_relationship_score"),
        (states.text_output, "sequence_output_t"),
        (states.image_output, "sequence_output_v"),
        (states.pooled_text, "pooled_output_t"),
        (states.pooled_image, "pooled_output_v"),
    ):
        assert_close(ours, golden[name], 1e-5)


@pytest.mark.parametrize("attention", PATHS)
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_losses_and_gradients(flavour: str, attention: str) -> None:
    model, inputs, golden = load(f"pretraining_{flavour}", attention)
    output = model(**inputs)
    for ours, name in (
        (output.masked_lm, "masked_lm_loss"),
        (output.masked_image, "masked_img_loss"),
        (output.alignment, "next_sentence_loss"),
    ):
        assert ours.mean.item() == pytest.approx(golden[name].item(), rel=1e-6)
    output.loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    compared = 0
    for key, expected in golden.items():
        if not key.startswith("grad:"):
            continue
        name = key.removeprefix("grad:")
        if "q_dense" in name:
            assert not np.any(expected)
            continue
        error = np.abs(gradients[name].numpy() - expected).max()
        assert error <= 1e-4 * np.abs(expected).max() + 1e-8, name
        compared += 1
    assert compared > 180


@pytest.mark.parametrize("attention", PATHS)
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_every_task_head(flavour: str, attention: str) -> None:
    model, inputs, golden = load(f"tasks_{flavour}", attention)
    output = model(**inputs, heads=(*TASK_HEADS[flavour], *PRETRAINING_SCORES))
    assert set(output.keys()) == set(golden)
    for name, expected in golden.items():
        assert_close(output[name], expected, 1e-5)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_float32_loss_is_that_of_float64(flavour: str) -> None:
    single, inputs, _ = load(f"pretraining_{flavour}", "sdpa")
    double, double_inputs, _ = load(f"pretraining_{flavour}", "sdpa", torch.float64)
    assert single(**inputs).loss.item() == pytest.approx(double(**double_inputs).loss.item(), rel=1e-6)
