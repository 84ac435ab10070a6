"""The text stream against transformers' own BERT and RoBERTa with the same weights, co-attention off."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    BertModel,
    GPT2Config,
    PreTrainedModel,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaModel,
)

from vilbert.model import text_stream
from vilbert.model.checkpoint import CheckpointError
from vilbert.model.config import ViLBertConfig
from vilbert.model.text_stream import load_text_stream, text_settings
from vilbert.model.vilbert import ViLBertForPreTraining, ViLBertModel

SIZES: dict[str, Any] = {
    "vocab_size": 41, "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 24,
    "max_position_embeddings": 20,
}  # fmt: skip
VISUAL: dict[str, Any] = {
    "v_feature_size": 6, "v_target_size": 5, "v_hidden_size": 8, "v_num_hidden_layers": 2, "v_num_attention_heads": 2,
    "v_intermediate_size": 6, "bi_hidden_size": 8, "bi_num_attention_heads": 2, "v_biattention_id": [0, 1],
    "t_biattention_id": [2, 3],
}  # fmt: skip
KINDS = (BertModel, BertForPreTraining, BertForMaskedLM, RobertaModel, RobertaForMaskedLM)


def is_roberta(kind: type[PreTrainedModel]) -> bool:
    return kind.__name__.startswith("Roberta")


def make(kind: Any) -> Any:
    config = (
        RobertaConfig(**SIZES, type_vocab_size=1, layer_norm_eps=1e-5, pad_token_id=1)
        if is_roberta(kind)
        else BertConfig(**SIZES, layer_norm_eps=1e-12, pad_token_id=0)
    )
    model = kind(config).eval()
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # larger than at the start, so that a wrong position shows
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3 + name.endswith("LayerNorm.weight"))
        # The row of padding is zero in transformers, and a gradient never moves it.
        model.base_model.embeddings.word_embeddings.weight[config.pad_token_id] = 0
    return model


def ours(folder: Path | str, kind: Any = ViLBertForPreTraining, **changes: Any) -> Any:
    return kind(ViLBertConfig(**{**text_settings(folder), **VISUAL, "with_coattention": False, **changes})).eval()


def batch(roberta: bool) -> dict[str, torch.Tensor]:
    """Three texts of 9, 6 and 1 words, the rest padding."""
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(3, 41, (3, 9), generator=generator)
    mask = (torch.arange(9)[None] < torch.tensor([[9], [6], [1]])).long()
    types = torch.zeros(3, 9, dtype=torch.long) if roberta else (torch.arange(9)[None] > 3).long().expand(3, 9)
    return {"input_ids": torch.where(mask == 1, ids, int(roberta)), "attention_mask": mask, "token_type_ids": types}


def run(model: Any, inputs: dict[str, torch.Tensor], **options: Any) -> Any:
    image = {"image_feat": torch.zeros(3, 2, 6), "image_loc": torch.zeros(3, 2, 5)}
    with torch.no_grad():
        return model(**inputs, **image, **options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bin_file", [False, True], ids=["safetensors", "bin"])
def test_states_are_those_of_transformers(kind: Any, bin_file: bool, tmp_path: Path) -> None:
    theirs = make(kind)
    theirs.save_pretrained(tmp_path)
    if bin_file:
        (tmp_path / "model.safetensors").unlink()
        torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    model = ours(tmp_path)
    report = load_text_stream(model, tmp_path)
    assert not report.notes + report.unexpected
    assert not report.mismatched
    assert {name.partition(".")[0] for name in report.missing} == (set() if "For" in kind.__name__ else {"cls"})
    inputs = batch(is_roberta(kind))
    with torch.no_grad():
        expected = theirs.base_model(**inputs, output_hidden_states=True)
    for attention in ("eager", "sdpa"):
        model.set_attn_implementation(attention)
        found = run(model.bert, inputs, output_hidden_states=True)
        seen = inputs["attention_mask"][..., None]
        assert len(found.text_hidden_states) == len(expected.hidden_states) == 5
        for state, own in zip(expected.hidden_states, found.text_hidden_states, strict=True):
            assert ((state - own) * seen).abs().max() <= 1e-5
        assert ((found.text_output - expected.last_hidden_state) * seen).abs().max() <= 1e-5


@pytest.mark.parametrize("kind", [BertForPreTraining, BertForMaskedLM, RobertaForMaskedLM])
def test_word_scores_are_those_of_transformers(kind: Any, tmp_path: Path) -> None:
    theirs = make(kind)
    theirs.save_pretrained(tmp_path)
    model = ours(tmp_path)
    load_text_stream(model, tmp_path)
    inputs = batch(is_roberta(kind))
    with torch.no_grad():
        output = theirs(**inputs)
    expected = output.prediction_logits if kind is BertForPreTraining else output.logits
    assert ((run(model, inputs).text_scores - expected) * inputs["attention_mask"][..., None]).abs().max() <= 1e-4


def test_the_published_positions_of_roberta_were_wrong(tmp_path: Path) -> None:
    theirs = make(RobertaModel)
    theirs.save_pretrained(tmp_path)
    model, published = ours(tmp_path), ours(tmp_path, reference_positions=True)
    for one in (model, published):
        load_text_stream(one, tmp_path)
    inputs = batch(roberta=True)
    with torch.no_grad():
        expected = theirs(**inputs).last_hidden_state[0]
    assert (run(model.bert, inputs).text_output[0] - expected).abs().max() <= 1e-5
    assert (run(published.bert, inputs).text_output[0] - expected).abs().max() > 1e-2


def test_what_is_not_text_stays_as_it_was(tmp_path: Path) -> None:
    make(BertForPreTraining).save_pretrained(tmp_path)
    model = ours(tmp_path, task_specific_tokens=True)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = load_text_stream(model, tmp_path)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    text = ("bert.embeddings.", "bert.encoder.layer.", "cls.predictions.")
    assert changed == {name for name in before if name.startswith(text)} - {"bert.embeddings.task_embeddings.weight"}
    assert set(report.loaded) == changed - {"cls.predictions.decoder.weight"}
    assert {"bert.pooler.dense.weight", "cls.seq_relationship.bias"} <= set(report.unused)


def test_a_bare_model_of_ours_and_old_spellings(tmp_path: Path) -> None:
    theirs = make(BertForPreTraining)
    theirs.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in theirs.state_dict().items()
    }
    torch.save(old, tmp_path / "pytorch_model.bin")
    model = ours(tmp_path, kind=ViLBertModel)
    report = load_text_stream(model, tmp_path)
    assert report.missing == ()
    assert torch.equal(model.embeddings.LayerNorm.weight, theirs.bert.embeddings.LayerNorm.weight)


def test_differences_are_named_together(tmp_path: Path) -> None:
    make(BertModel).save_pretrained(tmp_path)
    model = ours(tmp_path, vocab_size=43, num_attention_heads=2)
    with pytest.raises(
        CheckpointError, match=r"vocab_size 43, there 41; num_attention_heads 2, there 4\. Create the config"
    ):
        load_text_stream(model, tmp_path)
    bert_for_roberta = ours(tmp_path, text_model="roberta", pad_token_id=1)
    with pytest.raises(CheckpointError, match=r"pad_token_id 1, there 0; text_model 'roberta', there 'bert'"):
        load_text_stream(bert_for_roberta, tmp_path)


def test_another_epsilon_is_noted(tmp_path: Path) -> None:
    make(RobertaModel).save_pretrained(tmp_path)
    report = load_text_stream(ours(tmp_path, layer_norm_eps=1e-12), tmp_path)
    assert report.notes == ("layer_norm_eps 1e-12, there 1e-05: states will differ by as much",)
    assert "note: layer_norm_eps" in str(report)


def test_what_is_no_text_stream_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        text_settings(tmp_path)
    GPT2Config(n_layer=1).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"is a gpt2"):
        text_settings(tmp_path)
    theirs = make(BertModel)
    theirs.save_pretrained(tmp_path)
    model = ours(tmp_path)
    state = theirs.state_dict()
    del state["encoder.layer.3.output.dense.weight"]
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"contains none of model\.safetensors"):
        load_text_stream(model, tmp_path)
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"lacks 1 parameters.*layer\.3\.output\.dense\.weight"):
        load_text_stream(model, tmp_path)


def test_a_hub_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub is played by a folder; which files are asked for, and in what order, is the behaviour."""
    make(BertModel).save_pretrained(tmp_path / "bert")
    asked: list[str] = []

    def download(repository: str, name: str, *, local_files_only: bool) -> str:
        assert repository == "someone/bert"
        asked.append(name)
        return str(shutil.copy(tmp_path / "bert" / name, tmp_path / f"cached_{name}"))

    monkeypatch.setattr(text_stream, "hf_hub_download", download)
    model = ours("someone/bert")
    report = load_text_stream(model, "someone/bert")
    assert asked == ["config.json", "config.json", "model.safetensors"]
    assert "bert.encoder.layer.3.output.dense.weight" in report.loaded
    assert json.loads((tmp_path / "cached_config.json").read_text())["model_type"] == "bert"


def test_a_name_that_cannot_be_on_the_hub_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"neither a folder nor a model on the Hub"):
        text_settings("no/such/folder")
