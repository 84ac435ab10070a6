"""Captions as ids, for tokenizers of both families and for those made of captions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast, RobertaTokenizer

from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.shapes.write import ShapesSettings, write_shapes
from vilbert.pipeline.train.examples.words import load_tokenizer, new_tokenizer, replacement_ids, to_words

CAPTIONS = ["A red circle left of a blue square.", "Two blue squares", "a Café in the rain", "the red, red circle"]


@pytest.fixture(scope="module")
def roberta() -> PreTrainedTokenizerFast:
    """Return a tokenizer of RoBERTa's kind: bytes, and <s> x </s> around a text."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: n for n, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", *letters, "<mask>"])}
    return RobertaTokenizer(vocab=vocabulary, merges=[])


def test_the_vocabulary_is_special_tokens_then_characters_then_words_by_count() -> None:
    vocabulary = new_tokenizer(["bb a", "bb c cc", "CC é"]).get_vocab()
    ranked = sorted(vocabulary, key=lambda entry: vocabulary[entry])
    assert ranked == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abce", "##a", "##b", "##c", "##e", "bb", "cc"]


def test_the_vocabulary_does_not_depend_on_the_order_of_the_captions() -> None:
    assert new_tokenizer(CAPTIONS).get_vocab() == new_tokenizer(CAPTIONS[::-1]).get_vocab()


def test_every_word_of_the_captions_is_one_piece() -> None:
    tokenizer = new_tokenizer(CAPTIONS)
    assert tokenizer.tokenize(CAPTIONS[0]) == ["a", "red", "circle", "left", "of", "a", "blue", "square", "."]


def test_a_word_that_is_not_in_the_vocabulary_is_spelt() -> None:
    assert new_tokenizer(CAPTIONS).tokenize("bed") == ["b", "##e", "##d"]


def test_the_vocabulary_is_cut_at_the_rarest_words() -> None:
    tokenizer = new_tokenizer(["aa ab aa", "ab aa ba"], size=5 + 2 + 2 + 2)
    assert tokenizer.tokenize("aa ab ba") == ["aa", "ab", "b", "##a"]


@given(st.lists(st.text(max_size=30), min_size=1, max_size=5))
def test_nothing_that_was_in_the_captions_is_unknown(captions: list[str]) -> None:
    assume(not any("[UNK]" in caption for caption in captions))  # who writes it gets it
    captions = [*captions, "a"]  # of no words at all there is no vocabulary
    tokenizer = new_tokenizer(captions)
    words = to_words(tokenizer, captions, max_words=200)
    assert not (words.ids == tokenizer.unk_token_id).any()


def test_no_words_at_all_are_refused() -> None:
    with pytest.raises(RefusedError, match="no captions"):
        new_tokenizer(["", " "])


def test_a_new_tokenizer_survives_saving(tmp_path: Path) -> None:
    tokenizer = new_tokenizer(CAPTIONS)
    tokenizer.save_pretrained(tmp_path)
    for loaded in (AutoTokenizer.from_pretrained(tmp_path), load_tokenizer(str(tmp_path), None)):
        assert loaded.is_fast
        assert loaded.get_vocab() == tokenizer.get_vocab()
        for caption in [*CAPTIONS, "unseen Wörds, too"]:
            assert loaded(caption)["input_ids"] == tokenizer(caption)["input_ids"]
        assert loaded.mask_token_id == tokenizer.mask_token_id
        assert loaded.pad_token_id == 0


def test_a_new_tokenizer_puts_its_own_special_tokens_as_to_words_does() -> None:
    tokenizer = new_tokenizer(CAPTIONS)
    words = to_words(tokenizer, CAPTIONS, max_words=36)
    for caption, ids, length in zip(CAPTIONS, words.ids, words.lengths, strict=True):
        assert ids[:length].tolist() == tokenizer(caption)["input_ids"]


def test_a_tokenizer_of_bytes_is_used_with_its_own_special_tokens(roberta: PreTrainedTokenizerFast) -> None:
    words = to_words(roberta, ["ab", "abcd"], max_words=36)
    assert words.ids[1].tolist() == roberta("abcd")["input_ids"]
    assert words.ids[0].tolist() == [*roberta("ab")["input_ids"], roberta.pad_token_id, roberta.pad_token_id]
    assert words.ids[0, [0, 3, 4]].tolist() == [0, 2, 1]


@given(st.lists(st.integers(0, 12), min_size=1, max_size=6), st.integers(3, 9))
def test_captions_lose_their_end_and_no_more(counts: list[int], max_words: int) -> None:
    tokenizer = new_tokenizer(["x y z"])
    letters = [tokenizer.get_vocab()[letter] for letter in "xyz"]
    captions = [" ".join("xyz"[n % 3] for n in range(count)) for count in counts]
    words = to_words(tokenizer, captions, max_words=max_words)
    assert words.ids.shape == (len(counts), min(max(counts) + 2, max_words))
    for row, count in enumerate(counts):
        kept = [letters[n % 3] for n in range(min(count, max_words - 2))]
        padding = [0] * (words.ids.shape[1] - len(kept) - 2)
        assert words.ids[row].tolist() == [2, *kept, 3, *padding]
        assert words.lengths[row] == len(kept) + 2
        assert np.flatnonzero(words.maskable[row]).tolist() == list(range(1, len(kept) + 1))


def test_a_special_token_spelt_in_a_caption_is_no_word_to_learn() -> None:
    tokenizer = new_tokenizer(["x y [SEP]"])
    words = to_words(tokenizer, ["x [MASK] y [SEP] x [PAD] y"], max_words=36)
    special = np.isin(words.ids, [tokenizer.mask_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id])
    assert not (words.maskable & special).any()
    assert words.maskable.sum() == 4


def test_random_words_are_the_vocabulary_without_special_tokens() -> None:
    tokenizer = new_tokenizer(["x y"])
    assert replacement_ids(tokenizer, special=False).tolist() == list(range(5, len(tokenizer)))
    assert replacement_ids(tokenizer, special=True).tolist() == list(range(len(tokenizer)))


def test_a_name_that_cannot_be_had_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(name: str, **kwargs: object) -> None:
        raise OSError("We couldn't connect to the hub\nand more")

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", no_network)
    monkeypatch.setattr("vilbert.pipeline.train.examples.words.hub_problem", lambda: None)
    with pytest.raises(RefusedError, match=r"some/name: .*couldn't connect.*Give a folder .*or new"):
        load_tokenizer("some/name", None)
    monkeypatch.setattr("vilbert.pipeline.train.examples.words.hub_problem", lambda: "the hub cannot be reached")
    with pytest.raises(RefusedError, match=r"some/name: .*the hub cannot be reached.*Give a folder .*or new"):
        load_tokenizer("some/name", None)


class PanicException(BaseException):
    """What tokenizers raises where its Rust code panics."""


@pytest.mark.parametrize("failure", [Exception("bad merges"), PanicException("bad merges"), KeyError("bad merges")])
def test_a_tokenizer_of_the_hub_that_is_damaged_is_refused(
    monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    def fail(name: str, **kwargs: object) -> None:
        raise failure

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", fail)
    with pytest.raises(RefusedError, match=r"some/name: .*cache of this machine is damaged \(.*bad merges.*or new"):
        load_tokenizer("some/name", None)


def test_an_interruption_is_no_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(name: str, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", interrupt)
    with pytest.raises(KeyboardInterrupt):
        load_tokenizer("some/name", None)


def test_nobody_is_advised_to_run_the_code_of_a_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    def advise(name: str, **kwargs: object) -> None:
        raise ValueError("The repository contains custom code. Please pass the argument `trust_remote_code=True`.")

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", advise)
    with pytest.raises(RefusedError, match=r"some/name: its tokenizer is Python code, which is not executed") as error:
        load_tokenizer("some/name", None)
    assert "trust_remote_code" not in str(error.value)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="contains no tokenizer"):
        load_tokenizer(str(tmp_path), None)


def test_new_needs_captions() -> None:
    with pytest.raises(RefusedError, match="no captions"):
        load_tokenizer("new", None)


def test_a_tokenizer_without_a_mask_is_refused(tmp_path: Path) -> None:
    model = models.WordLevel({"<unk>": 0, "<pad>": 1, "x": 2}, unk_token="<unk>")
    PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(model), unk_token="<unk>", pad_token="<pad>", cls_token="x", sep_token="x"
    ).save_pretrained(tmp_path)
    with pytest.raises(RefusedError, match="no mask token"):
        load_tokenizer(str(tmp_path), None)


def test_the_shipped_vocabulary_has_every_word_of_the_shapes_data_set(tmp_path: Path) -> None:
    assert write_shapes(ShapesSettings(output=tmp_path / "shapes", scenes=60)) == 0
    tokenizer = load_tokenizer("shapes", None)
    texts = [
        *(one["raw"] for image in read(tmp_path, "karpathy/dataset_coco.json")["images"] for one in image["sentences"]),
        *(one["question"] for one in read(tmp_path, "vqa/v2_OpenEnded_mscoco_train2014_questions.json")["questions"]),
        *(sentence["raw"] for ref in read(tmp_path, "refer/refcocog/refs(umd).json") for sentence in ref["sentences"]),
    ]  # fmt: skip
    assert len(texts) > 500
    for text in texts:
        pieces = tokenizer.tokenize(text)
        assert "[UNK]" not in pieces
        assert not any(piece.startswith("##") for piece in pieces), text


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / "shapes" / name).read_text())
