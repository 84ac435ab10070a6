"""The order of the layers, and what the encoder keeps and freezes on its way."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vilbert.model.config import ViLBertConfig, preset
from vilbert.model.encoder import layer_order
from vilbert.model.vilbert import ViLBertForPreTraining, ViLBertModel

from .tiny_model import TINY, batch, fill, labels, largest_difference

SIX_LAYERS = "t0 t1 t2 t3 t4 t5 c0 t6 i0 c1 t7 i1 c2 t8 i2 c3 t9 i3 c4 t10 i4 c5 i5 t11"


def spelled(config: ViLBertConfig) -> list[str]:
    return [f"{step.kind[0]}{step.number}" for step in layer_order(config)]


def test_the_six_layer_model_runs_in_the_published_order() -> None:
    assert " ".join(spelled(preset("bert_base_6layer_6conect"))) == SIX_LAYERS


@given(st.data())
def test_any_order_has_every_layer_once_and_connections_in_place(data: st.DataObject) -> None:
    text, image = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
    connections = data.draw(st.integers(1, 6))
    places = [
        sorted(data.draw(st.lists(st.integers(0, last - 1), min_size=connections, max_size=connections)))
        for last in (text, image)
    ]
    config = ViLBertConfig(
        num_hidden_layers=text, v_num_hidden_layers=image, t_biattention_id=places[0], v_biattention_id=places[1]
    )
    order = layer_order(config)
    for kind, number in (("text", text), ("image", image), ("connection", connections)):
        assert [step.number for step in order if step.kind == kind] == list(range(number))
    for at, step in enumerate(order):
        if step.kind == "connection":
            before = [earlier.kind for earlier in order[:at]]
            assert before.count("text") == places[0][step.number]
            assert before.count("image") == places[1][step.number]


def test_states_and_maps_have_their_numbers_and_shapes() -> None:
    model = fill(ViLBertModel(ViLBertConfig(**TINY)))
    inputs = batch(texts=2, words=5, regions=4)
    output = model(**inputs, output_hidden_states=True, output_attentions=True)
    assert [tuple(state.shape) for state in output.text_hidden_states] == [(2, 5, 8)] * (1 + 3 + 2)
    assert [tuple(state.shape) for state in output.image_hidden_states] == [(2, 4, 12)] * (1 + 3 + 2)
    assert torch.equal(output.text_hidden_states[-1], output.text_output)
    assert torch.equal(output.image_hidden_states[-1], output.image_output)
    assert [tuple(maps.shape) for maps in output.text_attentions] == [(2, 2, 5, 5)] * 3
    assert [tuple(maps.shape) for maps in output.image_attentions] == [(2, 3, 4, 4)] * 3
    pairs = [(tuple(text.shape), tuple(image.shape)) for text, image in output.co_attentions]
    assert pairs == [((2, 4, 5, 4), (2, 4, 4, 5))] * 2
    every_map = [*output.text_attentions, *output.image_attentions, *(m for pair in output.co_attentions for m in pair)]
    for maps in every_map:
        assert largest_difference(maps.sum(-1), torch.ones(maps.shape[:-1])) < 1e-6
        assert maps.min() >= 0
    plain = model(**inputs)
    assert plain.text_hidden_states is None
    assert plain.co_attentions is None
    assert largest_difference(plain.text_output, output.text_output) < 1e-5


def test_without_coattention_the_streams_do_not_meet() -> None:
    model = fill(ViLBertModel(ViLBertConfig(**TINY, with_coattention=False)))
    inputs = batch()
    output = model(**inputs, output_hidden_states=True, output_attentions=True)
    assert output.co_attentions == ()
    assert (len(output.text_hidden_states), len(output.image_hidden_states)) == (4, 4)
    other = model(**{**inputs, "image_feat": inputs["image_feat"] + 1})
    assert torch.equal(other.text_output, model(**inputs).text_output)
    assert largest_difference(other.image_output, output.image_output) > 1e-3


def test_frozen_layers_get_no_gradient_and_change_no_number() -> None:
    places = {"v_biattention_id": [1, 2], "t_biattention_id": [2, 2]}
    free = fill(ViLBertForPreTraining(ViLBertConfig(**{**TINY, **places})))
    frozen = fill(ViLBertForPreTraining(ViLBertConfig(**{**TINY, **places}, fixed_t_layer=1, fixed_v_layer=1)))
    given_labels = labels(2, 5, 4)
    outputs = [model(**batch(), **given_labels) for model in (free, frozen)]
    assert outputs[0].loss.item() == pytest.approx(outputs[1].loss.item(), rel=1e-6)
    outputs[1].loss.backward()
    got = {name for name, parameter in frozen.named_parameters() if parameter.grad is not None}
    for name in ("layer.0", "v_layer.0"):
        assert not any(key.startswith(f"bert.encoder.{name}.") for key in got)
    assert not any(key.startswith("bert.v_embeddings.") for key in got)
    for name in ("layer.1", "v_layer.1", "c_layer.0"):
        assert any(key.startswith(f"bert.encoder.{name}.") for key in got)


def dynamic_model() -> ViLBertModel:
    # Visual layers 0 and 1 run before the first connection, so that gates alone carry the words to them.
    places = {"v_biattention_id": [2], "t_biattention_id": [2]}
    return fill(ViLBertModel(ViLBertConfig(**{**TINY, **places}, dynamic_attention=True)))


def test_dynamic_attention_gates_by_the_words_seen_alone() -> None:
    model, inputs = dynamic_model(), batch()
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 0, 0]])
    ids = inputs["input_ids"]
    masked_changed, seen_changed = ids.clone(), ids.clone()
    masked_changed[:, 4] = ids[:, 4] % 30 + 1
    seen_changed[:, 1] = ids[:, 1] % 30 + 1
    states = [
        model(**{**inputs, "input_ids": words}, attention_mask=mask, output_hidden_states=True).image_hidden_states
        for words in (ids, masked_changed, seen_changed)
    ]
    for kept, same in zip(states[0], states[1], strict=True):
        assert largest_difference(kept, same) < 1e-5
    assert torch.equal(states[0][0], states[2][0])
    assert largest_difference(states[0][1], states[2][1]) > 1e-4  # after visual layer 0, before any connection


def test_without_dynamic_attention_early_visual_layers_see_no_words() -> None:
    places = {"v_biattention_id": [2], "t_biattention_id": [2]}
    model, inputs = fill(ViLBertModel(ViLBertConfig(**{**TINY, **places}))), batch()
    first = model(**inputs, output_hidden_states=True).image_hidden_states
    ids = inputs["input_ids"] % 30 + 1
    second = model(**{**inputs, "input_ids": ids}, output_hidden_states=True).image_hidden_states
    assert torch.equal(first[2], second[2])
    assert largest_difference(first[3], second[3]) > 1e-4


def test_a_task_token_comes_in_at_index_one() -> None:
    model, inputs = fill(ViLBertModel(ViLBertConfig(**TINY, task_specific_tokens=True))), batch(words=5)
    first, second = (
        model(**inputs, task_ids=torch.full((2, 1), task), output_hidden_states=True).text_hidden_states[0]
        for task in (3, 4)
    )
    assert first.shape == (2, 6, 8)
    assert [index for index in range(6) if not torch.equal(first[:, index], second[:, index])] == [1]
    task = model.embeddings.task_embeddings.weight[3]
    assert largest_difference(first[:, 1], model.embeddings.LayerNorm(task).expand(2, -1)) < 1e-6
    words = model.embeddings(inputs["input_ids"], None, None, None)
    assert torch.equal(torch.cat([first[:, :1], first[:, 2:]], dim=1), words)


def test_a_task_token_is_seen_and_has_no_label() -> None:
    config = ViLBertConfig(**TINY, task_specific_tokens=True)
    model, inputs, tasks = fill(ViLBertForPreTraining(config)), batch(), torch.tensor([[3], [4]])
    mask = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]])
    scores = model(**inputs, task_ids=tasks, attention_mask=mask).text_scores
    word_labels = labels(2, 5, 4)["masked_lm_labels"]
    loss = model(**inputs, task_ids=tasks, attention_mask=mask, masked_lm_labels=word_labels).loss
    expected = torch.nn.functional.cross_entropy(scores[:, 2], word_labels[:, 1])  # word 1 stands at 2 now
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    other = model(**inputs, task_ids=tasks + 1, attention_mask=mask).text_scores
    unmasked = model(**inputs, task_ids=tasks).text_scores
    for all_seen in (torch.ones(2, 5), torch.ones(2, 5, 5)):
        assert largest_difference(model(**inputs, task_ids=tasks, attention_mask=all_seen).text_scores, unmasked) < 1e-5
    assert largest_difference(other[:, 0], scores[:, 0]) > 1e-4
    with pytest.raises(ValueError, match="give task_ids"):
        model(**inputs)
    with pytest.raises(ValueError, match="no task tokens"):
        fill(ViLBertModel(ViLBertConfig(**TINY)))(**inputs, task_ids=tasks)


def test_an_unknown_argument_is_refused() -> None:
    with pytest.raises(TypeError, match="image_features"):
        fill(ViLBertForPreTraining(ViLBertConfig(**TINY)))(**batch(), image_features=1)
