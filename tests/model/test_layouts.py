"""Names of every layout against renamings written out here, without the code under test."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from vilbert.model.checkpoint import CheckpointError, load_checkpoint
from vilbert.model.config import ViLBertConfig
from vilbert.model.layouts import clean, detect_layout, inferred_settings, inverse, to_ours
from vilbert.model.tasks import ViLBertForTasks
from vilbert.model.vilbert import ViLBertForPreTraining, ViLBertModel

# VOLTA's config/vilbert_base.json, which says what each of its sublayers is.
VOLTA_TEXT_ATTENTION = (0, 2, 4, 6, 8, 10, 14, 18, 22, 26, 30, 34)
VOLTA_CROSS_ATTENTION = (12, 16, 20, 24, 28, 32)
VOLTA_IMAGE_ATTENTION = (14, 18, 22, 26, 30, 34)
IDS: dict[str, Any] = {"t_biattention_id": range(6, 12), "v_biattention_id": range(6)}


def make(kind: Any = ViLBertForTasks, seed: int = 0, **changes: Any) -> Any:
    """The published numbers of layers, at tiny widths that are all different."""
    sizes = {
        "vocab_size": 13, "hidden_size": 6, "num_attention_heads": 2, "intermediate_size": 7,
        "max_position_embeddings": 9, "v_feature_size": 3, "v_target_size": 5, "v_hidden_size": 4,
        "v_num_attention_heads": 2, "v_intermediate_size": 8, "bi_hidden_size": 10,
        "bi_num_attention_heads": 2, "num_answers": 11, "num_gqa_answers": 12,
    }  # fmt: skip
    model = kind(ViLBertConfig(**{**sizes, **changes}))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def copies(model: Any) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def data_parallel(name: str) -> str:
    return f"module.{name}"


def tensorflow(name: str) -> str:
    return re.sub(r"(LayerNorm\d?)\.weight$", r"\1.gamma", re.sub(r"(LayerNorm\d?)\.bias$", r"\1.beta", name))


def new_weight_norm(name: str) -> str:
    name = name.replace(".weight_g", ".parametrizations.weight.original0")
    return name.replace(".weight_v", ".parametrizations.weight.original1")


def mmf(name: str) -> str:
    return f"model.{name}" if name.startswith(("bert.", "cls.")) else name


def old_mmf(name: str) -> str:
    return f"bert.{name}" if name.startswith(("bert.", "cls.")) else name


def mmf_data_parallel(name: str) -> str:
    return data_parallel(mmf(name))


@pytest.mark.parametrize("flavour", ["beta", "multitask"])
@pytest.mark.parametrize("rename", [data_parallel, tensorflow, new_weight_norm, mmf, old_mmf, mmf_data_parallel])
def test_renamed_checkpoints_load_into_the_same_model(rename: Callable[[str], str], flavour: Any) -> None:
    source, model = make(seed=1, task_heads=flavour), make(seed=2, task_heads=flavour)
    expected = copies(source)
    renamed = {rename(name): tensor for name, tensor in expected.items()}
    changed = set(renamed) != set(expected)
    assert changed is not (rename is new_weight_norm and flavour == "multitask")
    report = load_checkpoint(model, renamed)
    assert (report.missing, report.unexpected, report.unused) == ((), (), ())
    assert report.layout == ("mmf" if "mmf" in rename.__name__ else "reference")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


def to_volta(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Write a state dict as VOLTA does, by the sublayers of its json; a feed-forward is one behind its attention."""
    places: list[tuple[str, str, int]] = []  # our layer, the stream's prefix there, its sublayer
    places += [(f"layer.{i}.", "", at) for i, at in enumerate(VOLTA_TEXT_ATTENTION)]
    places += [(f"v_layer.{i}.", "v_", at) for i, at in enumerate(VOLTA_IMAGE_ATTENTION)]
    renames: dict[str, str] = {}
    for layer, v, at in places:
        for part in ("query", "key", "value"):
            renames[f"{layer}attention.self.{part}"] = f"layer.{at}.attention_self.{v}{part}"
        for part in ("dense", "LayerNorm"):
            renames[f"{layer}attention.output.{part}"] = f"layer.{at}.attention_output.{v}{part}"
            renames[f"{layer}output.{part}"] = f"layer.{at + 1}.output.{v}{part}"
        renames[f"{layer}intermediate.dense"] = f"layer.{at + 1}.intermediate.{v}dense"
    for i, at in enumerate(VOLTA_CROSS_ATTENTION):
        for side, v, stream in ((1, "v_", "v"), (2, "", "t")):
            for part in ("query", "key", "value"):
                renames[f"c_layer.{i}.biattention.{part}{side}"] = f"layer.{at}.attention_self.{v}{part}"
            for part in ("dense", "LayerNorm"):
                renames[f"c_layer.{i}.biOutput.{part}{side}"] = f"layer.{at}.attention_output.{v}{part}"
                renames[f"c_layer.{i}.{stream}_output.{part}"] = f"layer.{at + 1}.output.{v}{part}"
            renames[f"c_layer.{i}.{stream}_intermediate.dense"] = f"layer.{at + 1}.intermediate.{v}dense"
    written: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if "q_dense" in name:
            continue
        module, _, suffix = name.removeprefix("bert.encoder.").rpartition(".")
        if name.startswith("bert.encoder."):
            name = f"bert.encoder.{renames[module]}.{suffix}"
        written[name.replace("imagePredictions.decoder.", "imagePredictions.decoder_dict.0.")] = tensor
    return written


def test_volta_by_its_own_list_of_sublayers() -> None:
    source, model = make(ViLBertForPreTraining, seed=1), make(ViLBertForPreTraining, seed=2)
    expected, before = copies(source), copies(model)
    report = load_checkpoint(model, to_volta(expected))
    assert report.layout == "volta"
    assert (report.missing, report.unexpected, report.unused) == ((), (), ())
    assert len(report.unread) == 6 * 2 * 2
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, (before if name in report.unread else expected)[name]), name


def test_volta_of_another_shape_is_refused() -> None:
    written = to_volta(copies(make(ViLBertForPreTraining)))
    less = {name: tensor for name, tensor in written.items() if not re.search(r"layer\.(2\d|3\d)\.", name)}
    with pytest.raises(CheckpointError, match=r"text stream has \d+ sublayers"):
        load_checkpoint(make(ViLBertForPreTraining), less)


@pytest.mark.parametrize("write", [mmf, old_mmf, data_parallel, tensorflow, to_volta])
def test_maps_turn_around(write: Callable[..., Any]) -> None:
    ours = list(make(ViLBertForPreTraining).state_dict())
    if write is to_volta:
        theirs = list(to_volta({name: torch.empty(0) for name in ours}))
    else:
        theirs = [write(name) for name in ours]
    mapped = to_ours(theirs, detect_layout(theirs), **IDS)
    back = inverse(mapped)
    assert set(back) == {name for name in ours if write is not to_volta or "q_dense" not in name}
    assert {back[name]: name for name in back} == mapped


@pytest.mark.slow
def test_a_backbone_saved_alone() -> None:
    source, model = make(ViLBertModel, seed=1), make(ViLBertForPreTraining, seed=2)
    report = load_checkpoint(model, copies(source))
    assert {name.partition(".")[0] for name in report.missing} == {"cls"}
    assert all(torch.equal(tensor, source.state_dict()[name]) for name, tensor in model.bert.state_dict().items())


def test_heads_and_buffers_without_a_place_are_reported_not_refused() -> None:
    state = {mmf(name): tensor for name, tensor in copies(make(ViLBertForPreTraining)).items()}
    extra = {
        "model.classifier.0.dense.weight": torch.ones(1), "model.classifier.1.bias": torch.ones(1),
        "model.bert.embeddings.position_ids": torch.arange(9), "model.cls.predictions.decoder.bias": torch.ones(13),
    }  # fmt: skip
    report = load_checkpoint(make(), state | extra)
    assert set(report.unused) == set(extra)
    assert {name.partition(".")[0] for name in report.missing} == {
        "vil_prediction", "vil_prediction_gqa", "vil_binary_prediction", "vil_tri_prediction", "vil_logit",
        "vision_logit", "linguisic_logit",
    }  # fmt: skip


def test_two_names_for_one_parameter_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"LayerNorm\.gamma and .*LayerNorm\.weight mean"):
        to_ours(["v_embeddings.LayerNorm.gamma", "v_embeddings.LayerNorm.weight"], "reference", **IDS)


def test_only_whole_suffixes_are_respelled() -> None:
    assert clean("module.a.beta") == "a.bias"
    assert clean("a.betas.x") == "a.betas.x"
    assert clean("a.alphabeta") == "a.alphabeta"


@pytest.mark.parametrize("flavour", ["beta", "multitask"])
def test_shapes_say_which_heads_there_are(flavour: Any) -> None:
    config = {"task_heads": flavour, "task_specific_tokens": True, "num_task_tokens": 4, "dynamic_attention": True}
    shapes = {name: tuple(tensor.shape) for name, tensor in make(**config).state_dict().items()}
    expected = {**config, "num_answers": 11, "v_target_size": 5}
    if flavour == "multitask":
        expected["num_gqa_answers"] = 12
    assert inferred_settings(shapes) == expected
    assert inferred_settings({}) == {}
