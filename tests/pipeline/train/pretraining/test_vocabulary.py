"""A tokenizer that is not the one of the initial embeddings is noticed, whatever its size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from vilbert.model import text_stream
from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.train.examples.words import new_tokenizer
from vilbert.pipeline.train.pretraining.settings import PretrainSettings
from vilbert.pipeline.train.pretraining.start import model_config

from ..tiny_runs import MODEL

CAPTIONS = ["a red dog", "two blue boats"]
OTHER_CAPTIONS = ["a red god", "two blue boats"]


def embeddings(captions: list[str] = CAPTIONS) -> int:
    return len(new_tokenizer(captions))


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    """Return the folder of a BERT with an embedding for each word piece of `CAPTIONS`; no tokenizer is beside it."""
    config = BertConfig(
        vocab_size=embeddings(), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=40,
    )  # fmt: skip
    BertModel(config).save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


def check(init_from: Path | str, tokenizer: PreTrainedTokenizerFast, scratch: Path, *, name: str = "words") -> None:
    """Ask for the config of a run that begins from `init_from` with a tokenizer."""
    path = scratch / "model.json"
    path.write_text(json.dumps({**MODEL, "vocab_size": embeddings()}))
    settings = PretrainSettings(
        data=("a",), output=scratch / "run", model=str(path), tokenizer=name, init_from=str(init_from)
    )
    model_config(settings, tokenizer, feature_dim=8, num_classes=7)


@pytest.mark.parametrize("change", [-1, 1])
def test_another_number_of_word_pieces_is_refused_with_both(bert: Path, tmp_path: Path, change: int) -> None:
    has = embeddings()
    tokenizer = new_tokenizer(CAPTIONS, size=has - 1) if change < 0 else new_tokenizer([*CAPTIONS, "three dog"])
    with pytest.raises(RefusedError, match=rf"words has {len(tokenizer)} word pieces, .*bert embeds {has}.*: give the"):
        check(bert, tokenizer, tmp_path)


def test_without_a_tokenizer_to_compare_the_same_number_will_do(bert: Path, tmp_path: Path) -> None:
    check(bert, new_tokenizer(CAPTIONS), tmp_path)


def test_but_not_for_a_vocabulary_of_these_captions(bert: Path, tmp_path: Path) -> None:
    """It may be cut at BERT's own number of word pieces."""
    with pytest.raises(RefusedError, match=r"--tokenizer new has .*not stored beside it"):
        check(bert, new_tokenizer(CAPTIONS), tmp_path, name="new")


def test_a_vocabulary_of_the_same_size_is_compared_by_word(bert: Path, tmp_path: Path) -> None:
    new_tokenizer(CAPTIONS).save_pretrained(bert)
    check(bert, new_tokenizer(CAPTIONS), tmp_path, name="new")
    other = new_tokenizer(OTHER_CAPTIONS)
    assert len(other) == embeddings()
    with pytest.raises(RefusedError, match=rf"was trained with another {embeddings()}: .* give --tokenizer {bert}"):
        check(bert, other, tmp_path)


def test_fewer_word_pieces_with_the_same_numbers_will_do(bert: Path, tmp_path: Path) -> None:
    new_tokenizer(CAPTIONS).save_pretrained(bert)
    check(bert, new_tokenizer(CAPTIONS, size=embeddings() - 2), tmp_path)


@pytest.mark.parametrize(
    ("checkpoint", "tokenizer"), [("final", "final"), ("checkpoints/step-00000002", "tokenizer"), ("a/b.bin", "a")]
)
def test_a_checkpoint_is_known_by_the_tokenizer_of_its_run(tmp_path: Path, checkpoint: str, tokenizer: str) -> None:
    path = tmp_path / "earlier" / checkpoint
    (path.parent if path.suffix else path).mkdir(parents=True)
    if path.suffix:
        path.touch()
    new_tokenizer(CAPTIONS).save_pretrained(tmp_path / "earlier" / tokenizer)
    check(path, new_tokenizer(CAPTIONS), tmp_path)
    with pytest.raises(RefusedError, match="was trained with another"):
        check(path, new_tokenizer(OTHER_CAPTIONS), tmp_path)


def test_a_checkpoint_that_is_gone_is_no_reason_to_stop_a_run_that_goes_on(tmp_path: Path) -> None:
    check(tmp_path / "gone.bin", new_tokenizer(CAPTIONS), tmp_path, name="new")


def test_the_hub_has_tokenizers_too(bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub is played by a folder, which both know by a name with a dot."""
    new_tokenizer(CAPTIONS).save_pretrained(bert)
    name = "someone/bert-v1.0"
    monkeypatch.setattr(text_stream, "hf_hub_download", lambda _, file, **options: str(bert / file))
    monkeypatch.chdir(tmp_path)
    real, asked = PreTrainedTokenizerFast.from_pretrained, []
    monkeypatch.setattr(
        "vilbert.pipeline.train.examples.words.AutoTokenizer.from_pretrained",
        lambda source, **options: asked.append(source) or real(bert, **options),  # type: ignore[func-returns-value]
    )
    check(name, new_tokenizer(CAPTIONS), tmp_path)
    assert asked == [name]
    with pytest.raises(RefusedError, match="was trained with another"):
        check(name, new_tokenizer(OTHER_CAPTIONS), tmp_path)


def test_a_model_that_cannot_be_read_is_said_of_init_from(tmp_path: Path, bert: Path) -> None:
    (bert / "config.json").write_text('{"model_type": "bert", ')
    with pytest.raises(RefusedError, match=f"^--init-from {bert}: "):
        check(bert, new_tokenizer(CAPTIONS), tmp_path)
