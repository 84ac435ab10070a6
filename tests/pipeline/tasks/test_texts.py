"""Texts as ids: BERT's own pairs, cut fairly; three sentences as the published code reads VCR's."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from vilbert.pipeline.tasks.texts import encode
from vilbert.pipeline.train.examples.words import new_tokenizer

WORDS = ["red", "circle", "left", "of", "the", "blue", "square"]
TOKENIZER: PreTrainedTokenizerFast = new_tokenizer([" ".join(WORDS)])
sentences = st.lists(st.sampled_from(WORDS), min_size=1, max_size=9).map(" ".join)


@given(st.lists(st.one_of(st.tuples(sentences), st.tuples(sentences, sentences)), min_size=1, max_size=5))
def test_what_fits_is_encoded_as_the_tokenizer_does_it(texts: list[tuple[str, ...]]) -> None:
    found = encode(TOKENIZER, texts, max_words=40)
    for row, text in enumerate(texts):
        expected = TOKENIZER(*text)
        length = len(expected["input_ids"])
        assert found.lengths[row] == length
        assert found.ids[row, :length].tolist() == expected["input_ids"]
        assert found.segments[row, :length].tolist() == expected["token_type_ids"]
        assert (found.ids[row, length:] == TOKENIZER.pad_token_id).all()
        assert (found.segments[row, length:] == 0).all()


nothing = st.sampled_from(["", " ", "\n\t"])


@given(st.one_of(sentences, nothing), nothing, st.integers(4, 24))
def test_an_empty_second_sentence_has_its_separator_in_the_second_segment(first: str, second: str, most: int) -> None:
    pair = encode(TOKENIZER, [(first, second)], max_words=most)
    alone = encode(TOKENIZER, [(first,)], max_words=most - 1)
    assert pair.ids[0].tolist() == [*alone.ids[0].tolist(), TOKENIZER.sep_token_id]
    assert pair.segments[0].tolist() == [0] * int(alone.lengths[0]) + [1]
    assert pair.lengths[0] == alone.lengths[0] + 1


@given(sentences)
def test_an_empty_first_sentence_has_its_separator_too(second: str) -> None:
    found = encode(TOKENIZER, [("", second)], max_words=40)
    expected = TOKENIZER(" ", second)
    assert found.ids[0].tolist() == expected["input_ids"]
    assert found.segments[0].tolist() == expected["token_type_ids"]


@given(sentences, st.one_of(sentences, nothing), st.one_of(sentences, nothing), st.integers(4, 40))
def test_a_question_with_its_answer_is_one_side_as_published(question: str, answer: str, why: str, most: int) -> None:
    """`_load_annotationsQA_R`, `tokenize` and `_truncate_seq_pair` of vilbert_beta's _vcr_dataset.py."""
    tokens_a = [*TOKENIZER.tokenize(question), "[SEP]", *TOKENIZER.tokenize(answer)]
    tokens_b = TOKENIZER.tokenize(why)
    while len(tokens_a) + len(tokens_b) > most - 3:
        (tokens_a if len(tokens_a) > len(tokens_b) else tokens_b).pop()
    found = encode(TOKENIZER, [(question, answer, why)], max_words=most)
    expected = ["[CLS]", *tokens_a, "[SEP]", *tokens_b, "[SEP]"]
    assert TOKENIZER.convert_ids_to_tokens(found.ids[0].tolist()) == expected
    assert found.segments[0].tolist() == [0] * (len(tokens_a) + 2) + [1] * (len(tokens_b) + 1)


@given(sentences, sentences, st.integers(4, 24))
def test_the_longer_sentence_loses_its_end_and_no_separator_is_lost(first: str, second: str, most: int) -> None:
    found = encode(TOKENIZER, [(first, second)], max_words=most)
    ids = found.ids[0, : found.lengths[0]].tolist()
    assert len(ids) <= most
    assert ids.count(TOKENIZER.sep_token_id) == 2
    assert ids[-1] == TOKENIZER.sep_token_id
    middle = ids.index(TOKENIZER.sep_token_id)
    kept = ids[1:middle], ids[middle + 1 : -1]
    whole = [TOKENIZER(text, add_special_tokens=False)["input_ids"] for text in (first, second)]
    for part, sentence in zip(kept, whole, strict=True):
        assert part == sentence[: len(part)]
    if len(whole[0]) + len(whole[1]) > most - 3:
        assert len(kept[0]) + len(kept[1]) == most - 3
        longer, shorter = sorted(map(len, kept), reverse=True)
        # Words were taken from the longer one until both were alike.
        assert longer - shorter <= 1 or shorter == min(len(whole[0]), len(whole[1]))
