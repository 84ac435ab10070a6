"""Captions word by word: each way of searching against a literal one, and nothing known of words to come."""

from __future__ import annotations

from collections import Counter
from copy import deepcopy
from functools import cache
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vilbert.model.config import ViLBertConfig
from vilbert.model.tasks import ViLBertForTasks
from vilbert.pipeline.errors import NonFiniteError
from vilbert.pipeline.tasks.captioning.generation import (
    Candidate,
    _is_decided,
    draw_from_nucleus,
    generate,
    would_repeat,
)
from vilbert.pipeline.tasks.captioning.generation_settings import GenerationSettings

PAD, CLS, SEP, MASK = 0, 1, 2, 3
WORDS = 9  # 4 to 8 are words of captions
SIZES: dict[str, Any] = {
    "vocab_size": WORDS, "hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 12,
    "max_position_embeddings": 12, "v_feature_size": 5, "v_target_size": 4, "v_hidden_size": 12,
    "v_num_hidden_layers": 3, "v_num_attention_heads": 3, "v_intermediate_size": 10, "bi_hidden_size": 8,
    "bi_num_attention_heads": 4, "v_biattention_id": [1, 2], "t_biattention_id": [1, 2], "num_answers": 6,
    "num_gqa_answers": 7,
}  # fmt: skip


@cache
def tiny(seed: int = 0, *, ending: float = 0.0, sharp: float = 1.0, **changes: Any) -> ViLBertForTasks:
    """Return a model that finds all words equally likely on the whole, so that captions differ.

    ending: added to the scores of [SEP]. sharp: what all scores are multiplied by.
    """
    model = ViLBertForTasks(ViLBertConfig(**{**SIZES, **changes}))
    generator = torch.Generator().manual_seed(seed)
    texts = torch.randint(4, WORDS, (64, 5), generator=generator)
    texts[:, 0] = CLS
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(drawn * 0.4 + ("LayerNorm" in name and name.endswith("weight")))
        model.cls.predictions.transform.LayerNorm.weight *= sharp
        model.cls.predictions.transform.LayerNorm.bias *= sharp
        task = torch.full((64, 1), 7) if model.config.task_specific_tokens else None
        scores = model.eval()(texts, task_ids=task, heads=["linguisic_prediction"], **pictures(64, seed))
        model.cls.predictions.bias -= scores.linguisic_prediction.mean((0, 1))
        model.cls.predictions.bias[SEP] += ending
    return model


def pictures(count: int, seed: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(count, 5, dtype=torch.long)
    mask[0, 4] = 0
    return {
        "image_feat": torch.randn(count, 5, 5, generator=generator),
        "image_loc": torch.rand(count, 5, 5, generator=generator),
        "image_attention_mask": mask,
    }


MODEL = tiny(1)


def write(images: dict[str, Tensor], model: ViLBertForTasks = MODEL, **changes: Any) -> list[Candidate]:
    said = {name: changes.pop(name) for name in ("keys", "task_token") if name in changes}
    chosen = GenerationSettings(**{"max_tokens": 4, **changes})
    return generate(model, images, cls_id=CLS, sep_id=SEP, pad_id=PAD, never=(MASK, SEP), settings=chosen, **said)


def read(
    model: ViLBertForTasks, image: dict[str, Tensor], texts: Tensor, *, task_token: int | None = None, **more: Any
) -> Any:
    """Run the model as it is trained: whole texts [B, T] that begin with [CLS], with a causal mask."""
    rows, length = texts.shape
    causal = torch.ones(rows, length, length, dtype=torch.long).tril()
    task = None if task_token is None else torch.full((rows, 1), task_token)
    repeated = {name: value.expand(rows, *value.shape[1:]) for name, value in image.items()}
    with torch.no_grad():
        return model(texts, attention_mask=causal, task_ids=task, heads=["linguisic_prediction"], **repeated, **more)


def one(images: dict[str, Tensor], row: int) -> dict[str, Tensor]:
    return {name: value[row : row + 1] for name, value in images.items()}


def next_words(image: dict[str, Tensor], words: tuple[int, ...], model: ViLBertForTasks = MODEL) -> Tensor:
    """Return log-probabilities [V] of the word after `words`."""
    scores: Tensor = read(model, image, torch.tensor([[CLS, *words]])).linguisic_prediction[0, -1]
    return scores.log_softmax(-1)


def log_probs(image: dict[str, Tensor], captions: Tensor, model: ViLBertForTasks = MODEL) -> Tensor:
    """Return log-probabilities [B] of captions [B, L] and [SEP] behind them."""
    begun = torch.cat([torch.full((len(captions), 1), CLS), captions], dim=1)
    following = torch.cat([captions, torch.full((len(captions), 1), SEP)], dim=1)
    scores: Tensor = read(model, image, begun).linguisic_prediction.log_softmax(-1)
    return scores.gather(-1, following[..., None]).sum((1, 2))


def log_prob(image: dict[str, Tensor], words: tuple[int, ...]) -> float:
    return float(log_probs(image, torch.tensor([words], dtype=torch.long)))


def step_by_step(image: dict[str, Tensor], longest: int, model: ViLBertForTasks = MODEL) -> tuple[int, ...]:
    words: tuple[int, ...] = ()
    while len(words) < longest:
        scores = next_words(image, words, model)
        scores[[PAD, CLS, MASK]] = float("-inf")
        best = int(scores.argmax())
        if best == SEP:
            break
        words = (*words, best)
    return words


@pytest.mark.parametrize("seed", [1, 3])
def test_greedy_is_the_most_probable_word_each_time(seed: int) -> None:
    model, images = tiny(seed), pictures(4, seed)
    expected = [step_by_step(one(images, row), 6, model) for row in range(4)]
    assert [it.ids for it in write(images, model, method="greedy", max_tokens=6)] == expected
    assert len(set(expected)) > 1, "captions of several images must differ for this to say anything"


@given(seed=st.integers(0, 50), penalty=st.sampled_from((0.0, 0.7, 2.0)))
@settings(max_examples=6)
def test_a_beam_of_one_is_greedy(seed: int, penalty: float) -> None:
    images = pictures(3, seed)
    beam = write(images, method="beam", beams=1, length_penalty=penalty, max_tokens=6)
    greedy = write(images, method="greedy", max_tokens=6)
    assert [it.ids for it in beam] == [it.ids for it in greedy]


def brute_force(image: dict[str, Tensor], model: ViLBertForTasks, penalty: float) -> tuple[int, ...]:
    of_caption: dict[tuple[int, ...], float] = {}
    for length in range(4):
        captions = list(product(range(4, WORDS), repeat=length))
        found = log_probs(image, torch.tensor(captions, dtype=torch.long).reshape(len(captions), length), model)
        of_caption |= dict(zip(captions, (found / (length + 1) ** penalty).tolist(), strict=True))
    return max(of_caption, key=lambda words: of_caption[words])


@pytest.mark.parametrize(("seed", "sharp", "penalty"), [(2, 5.0, 0.0), (2, 1.0, 0.5), (1, 1.0, 1.0), (3, 1.0, 3.0)])
def test_a_beam_wide_enough_finds_the_best_of_all_captions(seed: int, sharp: float, penalty: float) -> None:
    model, images = tiny(seed, sharp=sharp), pictures(4, seed)
    found = [it.ids for it in write(images, model, method="beam", beams=160, length_penalty=penalty, max_tokens=3)]
    assert found == [brute_force(one(images, row), model, penalty) for row in range(4)]
    assert any(found), "some captions must have words for this to say anything"


def literal_beam(image: dict[str, Tensor], model: ViLBertForTasks, beams: int, penalty: float) -> tuple[int, ...]:
    """Search without any shortcut: all continuations ranked, and no early end but when there are enough captions."""
    live: list[Candidate] = [Candidate((), 0.0)]
    finished: dict[tuple[int, ...], float] = {}
    for length in range(5):
        allowed = (SEP,) if length == 4 else (SEP, *range(4, WORDS))
        longer = [
            (it.log_prob + float(scores[word]), word, it.ids)
            for it in live
            for scores in [next_words(image, it.ids, model)]
            for word in allowed
        ]
        longer.sort(reverse=True)
        for total, word, ids in longer[:beams]:
            if word == SEP:
                finished[ids] = total / (len(ids) + 1) ** penalty
        live = [Candidate((*ids, word), total) for total, word, ids in longer if word != SEP][:beams]
        if len(finished) >= beams:
            break
    return max(finished, key=lambda ids: finished[ids])


@pytest.mark.parametrize(("seed", "sharp", "penalty"), [(1, 1.0, 1.0), (3, 2.0, 3.0), (2, 5.0, 0.0)])
@pytest.mark.parametrize("beams", [2, 3])
def test_a_beam_is_the_literal_search(seed: int, sharp: float, penalty: float, beams: int) -> None:
    model, images = tiny(seed, sharp=sharp), pictures(3, seed)
    found = [it.ids for it in write(images, model, method="beam", beams=beams, length_penalty=penalty)]
    assert found == [literal_beam(one(images, row), model, beams, penalty) for row in range(3)]


@pytest.mark.parametrize(("log_prob", "decided"), [(-4.0, False), (-9.9, False), (-10.1, True)])
def test_a_search_ends_when_nothing_that_goes_on_can_become_better(log_prob: float, decided: bool) -> None:
    chosen = GenerationSettings(length_penalty=1.0, max_tokens=9)
    finished, live = [Candidate((5,), -2.0)], [Candidate((5, 6), log_prob)]  # -1 a word; ten words share what is lost
    assert _is_decided(finished, live, chosen) is decided


def test_wider_beams_find_captions_more_likely_on_the_whole() -> None:
    images = pictures(30)
    totals = [sum(it.log_prob for it in write(images, tiny(1, sharp=3.0), beams=beams)) for beams in (1, 3, 30)]
    assert totals == sorted(totals)
    assert totals[0] < totals[2]


def test_the_length_penalty_decides_between_short_and_long() -> None:
    short, long = (write(pictures(6), beams=40, length_penalty=penalty, max_tokens=3) for penalty in (0.0, 4.0))
    assert sum(len(it.ids) for it in short) < sum(len(it.ids) for it in long)


@pytest.mark.parametrize("method", ["greedy", "beam", "nucleus"])
def test_the_log_probability_is_that_of_one_reading_as_in_training(method: str) -> None:
    images = pictures(3)
    for row, found in enumerate(write(images, method=method, keys=list("abc"))):
        assert found.log_prob == pytest.approx(log_prob(one(images, row), found.ids), abs=1e-4)


def test_with_task_tokens_words_are_learnt_and_written_at_the_same_places() -> None:
    model, images = tiny(task_specific_tokens=True, num_task_tokens=20), pictures(3)
    for row, found in enumerate(write(images, model, method="greedy", task_token=7)):
        texts = torch.tensor([[CLS, *found.ids]])
        scores = read(model, one(images, row), texts, task_token=7).linguisic_prediction[0].log_softmax(-1)
        scores = torch.cat([scores[:1], scores[2:]])  # without the task's token behind [CLS]
        total = sum(scores[place, word] for place, word in enumerate((*found.ids, SEP)))
        assert found.log_prob == pytest.approx(float(total), abs=1e-4)


@pytest.mark.parametrize("method", ["greedy", "beam", "nucleus"])
def test_the_batch_makes_no_difference(method: str) -> None:
    images, keys = pictures(5), list("abcde")
    together = write(images, method=method, keys=keys)
    alone = [write(one(images, row), method=method, keys=keys[row : row + 1])[0] for row in range(5)]
    assert [it.ids for it in together] == [it.ids for it in alone]


def test_the_seed_and_the_key_decide_what_is_drawn() -> None:
    images, keys = pictures(8), list("abcdefgh")
    first = write(images, method="nucleus", top_p=1.0, keys=keys)
    assert write(images, method="nucleus", top_p=1.0, keys=keys) == first
    assert write(images, method="nucleus", top_p=1.0, keys=keys, seed=1) != first
    assert write(images, method="nucleus", top_p=1.0, keys=keys[::-1]) != first


@pytest.mark.parametrize("method", ["greedy", "beam", "nucleus"])
def test_special_tokens_are_never_written(method: str) -> None:
    model = deepcopy(MODEL)
    with torch.no_grad():
        model.cls.predictions.bias[[PAD, CLS, MASK]] += 3
    found = write(pictures(20), model, method=method, length_penalty=1.0, keys=[f"image {row}" for row in range(20)])
    written = {word for it in found for word in it.ids}
    assert written
    assert written <= set(range(4, WORDS))


@pytest.mark.parametrize("method", ["greedy", "beam", "nucleus"])
@pytest.mark.parametrize("size", [1, 2])
def test_no_run_of_words_comes_twice(method: str, size: int) -> None:
    model = tiny(ending=-20.0)  # every caption as long as may be
    images, keys = pictures(4), list("abcd")
    longest = {"max_tokens": 8, "beams": 3, "length_penalty": 2.0}
    for it in write(images, model, method=method, keys=keys, no_repeat=size, **longest):
        runs = [it.ids[start : start + size] for start in range(len(it.ids) - size + 1)]
        assert len(it.ids) == (5 if size == 1 else 8)
        assert len(set(runs)) == len(runs)


@given(words=st.lists(st.integers(0, 3), max_size=9), size=st.integers(1, 4))
def test_what_would_repeat_is_what_makes_a_run_come_twice(words: list[int], size: int) -> None:
    def runs(text: list[int]) -> list[tuple[int, ...]]:
        return [tuple(text[start : start + size]) for start in range(len(text) - size + 1)]

    expected = {word for word in range(4) if len(words) >= size - 1 and runs([*words, word])[-1] in runs(words)}
    assert would_repeat(tuple(words), size) == expected


def test_words_are_drawn_from_the_nucleus_in_proportion() -> None:
    draws = 20_000
    scores = torch.tensor([0.05, 0.4, 0.1, 0.25, 0.2]).log()
    numbers = torch.rand(draws, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    drawn = Counter(draw_from_nucleus(scores.expand(draws, -1), numbers, top_p=0.8, temperature=1.0).tolist())
    expected = {1: 0.4 / 0.85, 3: 0.25 / 0.85, 4: 0.2 / 0.85}
    assert set(drawn) == set(expected)
    chi_square = sum((drawn[word] - draws * share) ** 2 / (draws * share) for word, share in expected.items())
    assert chi_square < 13.8  # 2 degrees of freedom, p = 0.001


def test_temperature_divides_before_the_nucleus_is_cut() -> None:
    scores = torch.tensor([0.5, 0.3, 0.2]).log()
    numbers = torch.linspace(0, 1, 1001, dtype=torch.float64)[:-1]
    cold = draw_from_nucleus(scores.expand(1000, -1), numbers, top_p=1.0, temperature=0.5)
    shares = torch.bincount(cold, minlength=3) / 1000
    assert torch.allclose(shares, torch.tensor([0.25, 0.09, 0.04]) / 0.38, atol=0.002)


def nucleus(image: dict[str, Tensor], words: tuple[int, ...], top_p: float) -> dict[int, float]:
    """Return the probability of each word that may follow, literally."""
    scores = next_words(image, words)
    scores[[PAD, CLS, MASK]] = float("-inf")
    inside: dict[int, float] = {}
    for word in scores.argsort(descending=True).tolist():
        if sum(inside.values()) < top_p:
            inside[word] = float(scores.softmax(-1)[word])
    return {word: share / sum(inside.values()) for word, share in inside.items()}


def test_captions_are_drawn_as_probable_as_the_model_has_them() -> None:
    image, count = one(pictures(2), 1), 3000
    many = {name: value.expand(count, *value.shape[1:]) for name, value in image.items()}
    found = write(many, method="nucleus", top_p=0.8, max_tokens=2, keys=[f"image {row}" for row in range(count)])
    literal: dict[tuple[int, ...], float] = {}
    for first, share in nucleus(image, (), 0.8).items():
        if first == SEP:
            literal[()] = share
        else:
            for second, then in nucleus(image, (first,), 0.8).items():
                literal[(first,) if second == SEP else (first, second)] = share * then
    drawn = Counter(it.ids for it in found)
    assert set(drawn) <= set(literal)
    assert len(literal) > 5
    chi_square = sum((drawn[it] - count * share) ** 2 / (count * share) for it, share in literal.items())
    freedom = len(literal) - 1
    assert chi_square < freedom + 4 * (2 * freedom) ** 0.5


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("changed", range(1, 6))
def test_words_to_come_change_nothing_before_them_and_nothing_of_the_image(
    attention: str, dynamic: bool, changed: int
) -> None:
    model = tiny(dynamic_attention=dynamic, attn_implementation=attention)
    texts = torch.tensor([[CLS, 4, 5, 6, 7, 8]])
    others = texts.clone()
    others[0, changed:] = torch.tensor([8, 4, 7, 5, 6])[changed - 1 :]
    image = one(pictures(1), 0)
    first, second = (read(model, image, it, output_hidden_states=True) for it in (texts, others))
    assert torch.equal(first.linguisic_prediction[:, :changed], second.linguisic_prediction[:, :changed])
    for ours, theirs in zip(first.text_hidden_states, second.text_hidden_states, strict=True):
        assert torch.equal(ours[:, :changed], theirs[:, :changed])
    for ours, theirs in zip(first.image_hidden_states, second.image_hidden_states, strict=True):
        assert torch.equal(ours, theirs)
    assert not torch.equal(first.linguisic_prediction[:, changed:], second.linguisic_prediction[:, changed:])


def test_the_image_has_a_say_in_every_word() -> None:
    texts = torch.tensor([[CLS, 4, 5]])
    scores = [read(MODEL, one(pictures(2), row), texts).linguisic_prediction for row in (0, 1)]
    assert ((scores[0] - scores[1]).abs().amax(-1) > 1e-3).all()


def test_dropout_is_off_while_captions_are_written_and_on_again_after() -> None:
    images, model = pictures(3), deepcopy(MODEL).train()
    assert write(images, model, method="greedy") == write(images, method="greedy")
    assert model.training


def test_scores_that_are_no_numbers_are_refused() -> None:
    model = deepcopy(MODEL)
    with torch.no_grad():
        model.cls.predictions.bias[5] = float("nan")
    with pytest.raises(NonFiniteError, match="checkpoint"):
        write(pictures(2), model)


def test_captions_longer_than_the_models_texts_are_refused() -> None:
    with pytest.raises(ValueError, match="the maximum for this model is 11"):
        write(pictures(2), max_tokens=12)


def test_a_nucleus_without_keys_is_refused() -> None:
    with pytest.raises(ValueError, match="0 keys for 2 images"):
        write(pictures(2), method="nucleus")


@pytest.mark.parametrize(
    ("name", "value"),
    [("beams", 0), ("max_tokens", 0), ("no_repeat", -1), ("top_p", 0.0), ("top_p", 1.1), ("temperature", 0.0),
     ("temperature", float("nan")), ("length_penalty", -1.0)],
)  # fmt: skip
def test_settings_without_a_meaning_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"--{name.replace('_', '-')} "):
        GenerationSettings(**{name: value})  # type: ignore[arg-type]
