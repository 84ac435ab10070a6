"""RUN/final: it loads as its card says, gives the same bits, and is there whole or not at all."""

import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from vilbert.model.config import ViLBertConfig
from vilbert.model.vilbert import ViLBertForPreTraining
from vilbert.pipeline.train.examples.words import load_tokenizer
from vilbert.pipeline.train.run.export import export_final, model_card

CAPTIONS = ("a red cube left of a blue ball", "two green cones")
FACTS: dict[str, Any] = {
    "settings": {"items": {"max_words": 36}, "data": ["a", "b"]},
    "data": [{"path": "data/shapes", "records_sha256": "ab" * 32, "fingerprint": {"detector": "d"}, "samples": 12345}],
    "eval_data": [{"path": "data/held", "records_sha256": "cd" * 32, "fingerprint": "f", "samples": 99}],
    "software": {"torch": "2.14"},
    "steps": 2000,
    "evaluation": {"kind": "eval", "step": 2000, "alignment_accuracy": 0.9375},
}


def build_model(tokenizer: PreTrainedTokenizerBase, seed: int = 0) -> PreTrainedModel:
    config = ViLBertConfig(
        vocab_size=len(tokenizer), hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12,
        max_position_embeddings=24, v_feature_size=5, v_target_size=4, v_hidden_size=12, v_num_hidden_layers=1,
        v_num_attention_heads=3, v_intermediate_size=10, bi_hidden_size=8, bi_num_attention_heads=4,
        v_biattention_id=[0], t_biattention_id=[1],
    )  # fmt: skip
    model = ViLBertForPreTraining(config).eval()
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw))
    return model


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerBase:
    return load_tokenizer("new", CAPTIONS)


def outputs(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[torch.Tensor]:
    """Return all scores of a fixed batch."""
    words = tokenizer(list(CAPTIONS), padding=True, return_tensors="pt")
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        found = model(
            input_ids=words["input_ids"],
            attention_mask=words["attention_mask"],
            image_feat=torch.randn(2, 3, 5, generator=draw),
            image_loc=torch.rand(2, 3, 5, generator=draw),
        )
    return [found.text_scores, found.image_scores, found.alignment_scores]


def read_folder(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_code_on_the_card_loads_the_same_model_bit_by_bit(tmp_path: Path, tokenizer: Any) -> None:
    model = build_model(tokenizer)
    final = export_final(tmp_path, model, tokenizer, FACTS)
    (code,) = re.findall(r"```python\n(.*?)```", (final / "README.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code.replace("PATH/TO/THIS/FOLDER", str(final)), names)  # what a reader would run
    assert isinstance(names["vilbert"], ViLBertForPreTraining)
    for ours, theirs in zip(outputs(model, tokenizer), outputs(names["vilbert"], names["tokenizer"]), strict=True):
        assert ours.numpy().tobytes() == theirs.numpy().tobytes()


def test_the_tokenizer_gives_the_same_ids(tmp_path: Path, tokenizer: Any) -> None:
    final = export_final(tmp_path, build_model(tokenizer), tokenizer, FACTS)
    texts = [*CAPTIONS, "A RED [MASK] of zzz?"]
    assert AutoTokenizer.from_pretrained(final)(texts)["input_ids"] == tokenizer(texts)["input_ids"]


def test_the_card_names_data_settings_steps_and_figures() -> None:
    _, head, body = model_card(FACTS).split("---\n", 2)
    assert yaml.safe_load(head) == {
        "library_name": "transformers",
        "tags": ["vilbert", "vision-and-language", "pre-training"],
    }
    for text in ("2,000 steps", "12,345 samples", "ab" * 32, "cd" * 32, '{"detector": "d"}', "torch | 2.14"):
        assert text in body
    assert "| items.max_words | 36 |" in body
    assert "| alignment_accuracy | 0.9375 |" in body


def test_a_card_claims_no_license_and_names_no_folder_of_this_machine(tmp_path: Path) -> None:
    local = {"init_from": str(tmp_path / "base" / "final"), "data": [str(tmp_path)], "tokenizer": "owner/name"}
    data = [{**FACTS["data"][0], "path": str(tmp_path / "features")}]
    for stage in ("pretrain", "finetune vqa"):
        card = model_card({**FACTS, "stage": stage, "settings": local, "data": data, "eval_data": data})
        assert str(tmp_path) not in card
        assert "license" not in card
        assert "datasets:" not in card
        assert "owner/name" in card
        assert "ab" * 32 in card


def test_a_card_names_no_folder_that_was_given_without_a_slash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = ("secret-features", "secret-val", "secret-base", "secret-words", "secret-run")
    for name in (*names, "new", "bf16"):
        Path(name).mkdir()
    features, held_out, base, words, output = names
    settings = {"data": [features], "eval_data": [held_out], "init_from": base, "tokenizer": words, "output": output}
    for stage in ("pretrain", "finetune vqa"):
        assert "secret" not in model_card({**FACTS, "stage": stage, "settings": settings})
        assert "secret" not in model_card({**FACTS, "stage": stage, "settings": {"tasks": [settings]}})
    card = model_card({**FACTS, "settings": {"tokenizer": "new", "precision": "bf16", "init_from": "bert-base"}})
    for text in ("| tokenizer | new |", "| precision | bf16 |", "| init_from | bert-base |"):
        assert text in card


def test_a_card_without_evaluation_or_data_has_no_empty_sections() -> None:
    card = model_card({"steps": 1, "evaluation": None})
    assert "## " in card
    assert not re.search(r"## [^\n]*\n+(?=## |\Z)", card)
    assert "Evaluation" not in card


def test_texts_cannot_leave_their_cell_or_the_front_matter() -> None:
    hostile = "a|b\n---\n<script>: x"
    card = model_card({**FACTS, "settings": {"name": hostile}, "data": [{"path": hostile, "samples": 1}]})
    head = next(yaml.safe_load_all(card.split("\n# ViLBERT")[0].removesuffix("---\n\n")))
    assert head.keys() == {"library_name", "tags"}
    assert "| name | a\\|b --- &lt;script>: x |" in card.split("# ViLBERT")[1]


def test_an_older_export_is_replaced_and_nothing_else_is_left(tmp_path: Path, tokenizer: Any) -> None:
    export_final(tmp_path, build_model(tokenizer, seed=0), tokenizer, FACTS)
    (tmp_path / "final" / "of-an-older-version.bin").write_bytes(b"")
    newer = build_model(tokenizer, seed=1)
    final = export_final(tmp_path, newer, tokenizer, FACTS)
    assert [path.name for path in tmp_path.iterdir()] == ["final"]
    assert not (final / "of-an-older-version.bin").exists()
    loaded = ViLBertForPreTraining.from_pretrained(final).eval()
    assert torch.equal(outputs(loaded, tokenizer)[0], outputs(newer, tokenizer)[0])


@pytest.mark.parametrize(
    ("step", "older"),
    [(step, older) for step in ("save", "fsync", "rename 1") for older in (False, True)] + [("rename 2", True)],
)
def test_a_failure_at_any_step_leaves_the_older_export_or_none(
    step: str, older: bool, tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if older:
        export_final(tmp_path, build_model(tokenizer, seed=0), tokenizer, FACTS)
    before = read_folder(tmp_path / "final") if older else {}
    newer = build_model(tokenizer, seed=1)
    failed = break_at(step, monkeypatch, type(tokenizer))
    with pytest.raises(OSError, match="no space left"):
        export_final(tmp_path, newer, tokenizer, FACTS)
    assert failed
    assert [path.name for path in tmp_path.iterdir()] == (["final"] if older else [])
    if older:
        assert read_folder(tmp_path / "final") == before


def break_at(step: str, monkeypatch: pytest.MonkeyPatch, tokenizer_class: type) -> list[str]:
    """Let the disk be full at a step of an export; return a list that says whether it came to that."""
    failed: list[str] = []
    rename, calls = Path.rename, []

    def full(*_: Any, **__: Any) -> None:
        failed.append(step)
        raise OSError("no space left")

    def counted(path: Path, target: Path) -> Path:
        calls.append(path)
        if len(calls) == int(step[-1]):
            full()
        return rename(path, target)

    match step:
        case "save":
            monkeypatch.setattr(tokenizer_class, "save_pretrained", full)
        case "fsync":
            monkeypatch.setattr(os, "fsync", full)
        case _:
            monkeypatch.setattr(Path, "rename", counted)
    return failed


def test_what_a_killed_export_left_is_swept(tmp_path: Path, tokenizer: Any) -> None:
    final = export_final(tmp_path, build_model(tokenizer), tokenizer, FACTS)
    shutil.copytree(final, tmp_path / ".final.123.0123abcd.tmp")
    export_final(tmp_path, build_model(tokenizer), tokenizer, FACTS)
    assert [path.name for path in tmp_path.iterdir()] == ["final"]
