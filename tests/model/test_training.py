"""The models learn: gradients reach what they should, losses fall to their floor, and weights survive a round trip."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForPreTraining

from vilbert.model.config import ViLBertConfig
from vilbert.model.tasks import PRETRAINING_SCORES, TASK_HEADS, ViLBertForTasks
from vilbert.model.vilbert import ViLBertForPreTraining, ViLBertModel

from .tiny_model import TINY, batch, fill, labels, largest_difference

SMALL = {"hidden_size": 32, "v_hidden_size": 36, "bi_hidden_size": 32, "v_feature_size": 16, "v_target_size": 16}
ROWS, WORDS, REGIONS = 4, 6, 5
COMPILER = shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++") or shutil.which("clang++")


def without_dropout(model: Any) -> Any:
    """Return the model in training mode with every dropout, the published constants too, at zero."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model.train()


def config(**changes: Any) -> ViLBertConfig:
    rates = {f"{name}_dropout_prob": 0.0 for name in ("hidden", "attention_probs", "v_hidden", "v_attention_probs")}
    return ViLBertConfig(**{**TINY, **rates, **changes})


def small_batch(kind: int, seed: int = 5) -> dict[str, Any]:
    """Return a batch to learn by heart, with padding in its last row, for the `visual_target` kind."""
    generator = torch.Generator().manual_seed(seed)
    given = batch(ROWS, WORDS, regions=REGIONS)
    given["image_feat"] = torch.randn(ROWS, REGIONS, 16, generator=generator)
    given["attention_mask"] = torch.ones(ROWS, WORDS, dtype=torch.long)
    given["attention_mask"][-1, -2:] = 0
    given |= labels(ROWS, WORDS, REGIONS)
    given["masked_lm_labels"][:, 2] = torch.tensor([3, 11, 19, 27])
    target = torch.randn(ROWS, REGIONS - 1, 16, generator=generator)
    given["image_target"] = (2 * target).softmax(-1) if kind == 0 else target
    if kind == 2:
        given["generator"] = generator
    return given


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


def everything(output: Any) -> Any:
    """Return one number that every tensor of an output has a say in, each component with a weight of its own."""
    drawn = torch.Generator().manual_seed(7)
    return torch.stack([(value * torch.randn(value.shape, generator=drawn)).sum() for value in output.values()]).sum()


def missing(model: nn.Module) -> set[str]:
    """Name the parameters that got no gradient, or only zeros. A key's bias shifts all scores of a softmax alike."""
    there = gradients(model)
    without = {name for name, _ in model.named_parameters() if name not in there}
    return without | {name for name, value in there.items() if not value.any() and "key" not in name}


@pytest.mark.parametrize("changes", [{}, {"dynamic_attention": True, "task_specific_tokens": True}])
def test_all_but_the_unused_parameters_get_gradients(changes: dict[str, Any]) -> None:
    given = batch(ROWS, WORDS, regions=REGIONS)
    if changes:
        given["task_ids"] = torch.arange(ROWS)[:, None]
    model = fill(ViLBertForPreTraining(config(**changes)))
    model(**given, **labels(ROWS, WORDS, REGIONS)).loss.backward()
    unused = {name for name, _ in model.named_parameters() if "q_dense" in name}
    assert len(unused) == 8
    assert missing(model) == unused
    for flavour, heads in TASK_HEADS.items():
        tasks = fill(ViLBertForTasks(config(task_heads=flavour, **changes)))
        everything(tasks(**given, heads=[*heads, *PRETRAINING_SCORES])).backward()
        # vilbert_beta's binary head is the alignment head; the other flavour has no use for it.
        spare = {f"cls.bi_seq_relationship.{name}" for name in ("weight", "bias")} if flavour == "multitask" else set()
        assert missing(tasks) == unused | spare


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_changes_no_gradient(reentrant: bool) -> None:
    model = without_dropout(fill(ViLBertForPreTraining(config(dynamic_attention=True))))
    given = batch(ROWS, WORDS, regions=REGIONS) | labels(ROWS, WORDS, REGIONS)
    given["attention_mask"] = torch.arange(WORDS).expand(ROWS, -1).lt(4).long()
    model(**given).loss.backward()
    plain = {name: value.clone() for name, value in gradients(model).items()}
    model.zero_grad()
    runs = []
    model.bert.encoder.c_layer[0].biattention.register_forward_hook(lambda *_: runs.append(1))
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model(**given).loss.backward()
    assert len(runs) == 2  # forward, and again on the way back
    again = gradients(model)
    assert again.keys() == plain.keys()
    for name, value in plain.items():
        torch.testing.assert_close(again[name], value, rtol=1e-6, atol=1e-6)


def fresh(model_class: type[Any], settings: ViLBertConfig) -> Any:
    """Return a model to train, with initial weights that no other test has a say in."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # transformers draws them from the global generator
        return without_dropout(model_class(settings))


def learn(model: Any, parts: Callable[[], list[Any]], *, steps: int, floor: float) -> list[float]:
    """Return the largest part of the loss before each step, until it is under the floor or steps are spent."""
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=3e-3)
    largest: list[float] = []
    for _ in range(steps):
        now = parts()
        largest.append(max(part.item() for part in now))
        if largest[-1] < floor:
            break
        optimizer.zero_grad()
        torch.autograd.backward(torch.stack(now).sum())
        optimizer.step()
    return largest


@pytest.mark.slow
@pytest.mark.parametrize("kind", [0, *(pytest.param(kind, marks=pytest.mark.slow) for kind in (1, 2))])
def test_pretraining_learns_a_batch_by_heart(kind: int) -> None:
    model = fresh(ViLBertForPreTraining, config(**SMALL, visual_target=kind))
    given = small_batch(kind)

    def parts() -> list[Any]:
        output = model(**given)
        return [output.masked_lm.mean, output.masked_image.mean, output.alignment.mean]

    assert learn(model, parts, steps=400, floor=0.02)[-1] < 0.02


def task_loss(name: str, logits: Tensor) -> Tensor:
    """Return the loss of a head: cross-entropy where its outputs are classes of a row, else one question an output."""
    if name in ("vil_binary_prediction", "vil_tri_prediction"):
        return F.cross_entropy(logits, torch.arange(len(logits)) % logits.shape[1])
    answers = torch.arange(logits.numel()).mul(7).remainder(3).eq(0).view_as(logits).to(logits)
    return F.binary_cross_entropy_with_logits(logits, answers)


@pytest.mark.parametrize(
    ("flavour", "name"), [(flavour, name) for flavour in TASK_HEADS for name in TASK_HEADS[flavour]]
)
def test_task_head_learns_a_batch_by_heart(flavour: str, name: str) -> None:
    model = fresh(ViLBertForTasks, config(**SMALL, task_heads=flavour))
    given = {key: small_batch(0)[key] for key in ("input_ids", "image_feat", "image_loc")}
    losses = learn(model, lambda: [task_loss(name, getattr(model(**given, heads=[name]), name))], steps=100, floor=0.05)
    assert losses[1] < losses[0]
    assert losses[-1] < 0.05, losses


def one_layer_each() -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """Return a model with one layer of each kind, a batch without labels and with them."""
    sizes = {"num_hidden_layers": 1, "v_num_hidden_layers": 1, "t_biattention_id": [0], "v_biattention_id": [0]}
    given = batch(ROWS, WORDS, regions=REGIONS)
    given["attention_mask"] = torch.arange(WORDS).expand(ROWS, -1).lt(4).long()
    return fill(ViLBertForPreTraining(config(**sizes))), given, given | labels(ROWS, WORDS, REGIONS)


@pytest.mark.slow
def test_traced_gradients_equal_eager_ones() -> None:
    model, _, given = one_layer_each()
    traced: Any = torch.compile(model, backend="aot_eager")  # all of compilation but the kernels
    losses, found = [], []
    for run in (model, traced):
        model.zero_grad()
        loss: Any = run(**given).loss
        loss.backward()
        losses.append(loss)
        found.append({name: value.clone() for name, value in gradients(model).items()})
    torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(COMPILER is None, reason="torch.compile needs a C++ compiler: install g++ or clang++, or set CXX")
def test_compiled_equals_eager() -> None:
    model, given, learning = one_layer_each()
    compiled: Any = torch.compile(model)
    with torch.no_grad():
        torch.testing.assert_close(compiled(**learning).loss, model(**learning).loss, rtol=1e-5, atol=1e-5)
        plain, fast = model(**given), compiled(**given)
    for name in ("text_scores", "image_scores", "alignment_scores"):
        torch.testing.assert_close(fast[name], plain[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model_class", [ViLBertForPreTraining, ViLBertForTasks])
@pytest.mark.parametrize("size", [41, 20])
def test_resized_vocabulary_keeps_the_rows_it_can(model_class: type[Any], size: int, tmp_path: Path) -> None:
    model = fill(model_class(config()))
    rows, bias = model.get_input_embeddings().weight.detach().clone(), model.cls.predictions.bias.detach().clone()
    model.resize_token_embeddings(size)
    both = min(size, len(rows))
    words, head = model.get_input_embeddings(), model.cls.predictions
    assert model.config.vocab_size == len(words.weight) == len(head.bias) == size
    assert head.decoder.weight is words.weight
    assert torch.equal(words.weight[:both], rows[:both])
    assert torch.equal(head.bias[:both], bias[:both])
    assert not head.bias[both:].any()
    assert head.bias.requires_grad
    model.save_pretrained(tmp_path)
    assert torch.equal(model_class.from_pretrained(tmp_path).cls.predictions.bias, head.bias)


def test_saved_model_comes_back_to_the_bit(tmp_path: Path) -> None:
    model: Any = fill(ViLBertForPreTraining(config(fusion_method="sum", t_biattention_id=(1, 2))))
    model.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    tied = "cls.predictions.decoder.weight"
    assert model.state_dict().keys() - load_file(tmp_path / "model.safetensors").keys() == {tied}
    again: Any = AutoModelForPreTraining.from_pretrained(tmp_path)
    assert type(again) is ViLBertForPreTraining
    assert AutoConfig.from_pretrained(tmp_path).to_dict() == again.config.to_dict()
    assert again.config.fusion_method == "sum"
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    assert again.get_output_embeddings().weight is again.get_input_embeddings().weight
    backbone = AutoModel.from_pretrained(tmp_path)
    assert type(backbone) is ViLBertModel
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, model.state_dict()[f"bert.{name}"]), name
    given = batch(ROWS, WORDS, regions=REGIONS)
    assert largest_difference(again(**given).text_scores, model(**given).text_scores) == 0


def test_unused_parameters_stay_frozen(tmp_path: Path) -> None:
    ViLBertForPreTraining(config()).save_pretrained(tmp_path)
    for model_class in (ViLBertForPreTraining, ViLBertForTasks):
        model: Any = model_class.from_pretrained(tmp_path)
        model.resize_token_embeddings(40)
        model.gradient_checkpointing_enable()
        model.train()
        frozen = {name for name, value in model.named_parameters() if not value.requires_grad}
        assert len(frozen) == 8
        assert all("q_dense" in name for name in frozen)


def test_frozen_layers_stay_frozen_when_a_model_is_loaded(tmp_path: Path) -> None:
    changes = {"fixed_t_layer": 1, "t_biattention_id": [1, 2], "v_biattention_id": [1, 2]}
    made = ViLBertForPreTraining(config(**changes))
    made.save_pretrained(tmp_path)
    loaded: Any = ViLBertForPreTraining.from_pretrained(tmp_path)
    for model in (made, loaded):
        trained = {name for name, value in model.named_parameters() if value.requires_grad}
        assert "bert.embeddings.word_embeddings.weight" in trained
        assert not trained & {"bert.embeddings.LayerNorm.weight", "bert.encoder.layer.0.output.dense.weight"}
        assert "bert.encoder.layer.1.output.dense.weight" in trained


@pytest.mark.parametrize(
    "fixed", [{"fixed_t_layer": 1}, {"fixed_v_layer": 1}, {"fixed_t_layer": 1, "fixed_v_layer": 1}]
)
def test_frozen_layers_get_no_gradient_and_change_no_other(fixed: dict[str, int]) -> None:
    places = {"t_biattention_id": [1, 2], "v_biattention_id": [1, 2]}
    given, found = batch(ROWS, WORDS, regions=REGIONS), []
    for changes in ({}, fixed):
        model = fill(ViLBertModel(config(**places, **changes)))
        everything(model(**given)).backward()
        found.append(gradients(model))
    whole, rest = found
    beneath = {
        "fixed_t_layer": ("embeddings.", "encoder.layer.0."),
        "fixed_v_layer": ("v_embeddings.", "encoder.v_layer.0."),
    }
    under = tuple(prefix for name in fixed for prefix in beneath[name])
    assert rest.keys() == {name for name in whole if not name.startswith(under)}
    # An optimizer and DistributedDataParallel wait for exactly those that get a gradient; words may be tied to a head.
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    assert trained - {"embeddings.word_embeddings.weight"} == rest.keys() - {"embeddings.word_embeddings.weight"}
    assert len(rest) < len(whole)
    for name, value in rest.items():
        torch.testing.assert_close(value, whole[name], rtol=1e-5, atol=2e-5)
