"""Lists of positions that are filled up occur in few lengths and change neither losses nor gradients."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from vilbert.model.config import ViLBertConfig
from vilbert.model.packing import Positions
from vilbert.model.vilbert import ViLBertForPreTraining
from vilbert.pipeline.train.examples.batch import Batch
from vilbert.pipeline.train.examples.buckets import filled_up
from vilbert.pipeline.train.examples.inputs import to_model_inputs

from .batches import CLASSES, FEATURES, VOCABULARY, made_batch

CONFIG = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 32,
    "v_hidden_size": 32, "v_num_attention_heads": 2, "v_intermediate_size": 32, "bi_hidden_size": 32,
    "bi_num_attention_heads": 2, "num_hidden_layers": 2, "v_num_hidden_layers": 2, "v_biattention_id": [0, 1],
    "t_biattention_id": [0, 1], "v_feature_size": FEATURES,
}  # fmt: skip
OUTPUTS = {0: CLASSES, 1: FEATURES}
"""Numbers that a masked region predicts, by `visual_target`."""


def passed(batch: Batch, visual_target: int) -> tuple[dict[str, Any], list[torch.Tensor]]:
    """Return the three losses with their counts, and all gradients, of a model without dropout."""
    torch.manual_seed(0)
    config = ViLBertConfig(**CONFIG, visual_target=visual_target, v_target_size=OUTPUTS[visual_target])
    model: Any = ViLBertForPreTraining(config).double().eval()
    inputs: dict[str, Any] = to_model_inputs(batch, "cpu", num_classes=CLASSES, visual_target=visual_target)
    inputs = {name: it.double() if it.is_floating_point() else it for name, it in inputs.items()}
    output = model(**inputs, positions=Positions(**batch.positions))
    losses = {name: getattr(output, name) for name in ("masked_lm", "masked_image", "alignment")}
    torch.stack([loss.sum for loss in losses.values()]).sum().backward()
    return losses, [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("visual_target", [0, 1])
def test_losses_and_gradients_are_those_of_the_batch(visual_target: int) -> None:
    filled, plain = (made_batch(rows=12, words=16, regions=8, in_buckets=it) for it in (True, False))
    longer = [name for name, places in filled.positions.items() if len(places) > len(plain.positions[name])]
    assert len(longer) >= 5
    losses, gradients = passed(filled, visual_target)
    expected, usual = passed(plain, visual_target)
    for name, loss in losses.items():
        torch.testing.assert_close(loss.sum, expected[name].sum)
        assert int(loss.count) == int(expected[name].count)
    for mine, theirs in zip(gradients, usual, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_few_lengths_occur() -> None:
    """Of 200 batches of 64 captions."""
    met = {
        tuple(len(places) for places in made_batch(rows=64, words=24, regions=36, seed=seed).positions.values())
        for seed in range(200)
    }
    assert len(met) < 40


def test_a_list_that_has_every_position_is_that_of_every_position() -> None:
    every = {name: torch.arange(6) for name in ("words", "last_words", "labelled_words")}
    regions = {name: torch.arange(9) for name in ("regions", "last_regions")}
    positions = Positions(**every, **regions, masked_regions=torch.arange(6))
    assert vars(filled_up(positions, rows=3, words=2, regions=3)).keys() == vars(positions).keys()
    for name, places in vars(filled_up(positions, rows=3, words=2, regions=3)).items():
        assert torch.equal(places, getattr(positions, name))


def test_nothing_labelled_is_filled_up_with_what_has_no_label() -> None:
    batch = made_batch(rows=12, words=16, regions=8)
    nothing = Positions(**{**batch.positions, "labelled_words": torch.empty(0, dtype=torch.int64)})
    unlabelled = replace(batch, masked_lm_labels=torch.full_like(batch.masked_lm_labels, -1))
    positions = vars(filled_up(nothing, rows=12, words=16, regions=9))
    losses, _ = passed(replace(unlabelled, positions=positions), 0)
    assert float(losses["masked_lm"].sum.detach()) == 0
    assert int(losses["masked_lm"].count) == 0


@pytest.mark.slow
def test_the_model_compiles_as_one_graph_with_positions_given() -> None:
    """`--compile` on a GPU keeps packing: no graph break, and other sizes need few graphs."""
    compiled = 0

    def backend(graph: Any, inputs: Any) -> Any:
        nonlocal compiled
        compiled += 1
        return graph.forward

    torch.manual_seed(0)
    model: Any = ViLBertForPreTraining(ViLBertConfig(**CONFIG, v_target_size=CLASSES)).eval()
    whole = torch.compile(model, backend=backend, fullgraph=True, dynamic=True)
    for rows, words, regions in ((12, 16, 8), (12, 8, 4), (10, 16, 8), (7, 24, 12)):
        batch = made_batch(rows=rows, words=words, regions=regions, in_buckets=False)
        inputs: dict[str, Any] = to_model_inputs(batch, "cpu", num_classes=CLASSES, visual_target=0)
        positions = Positions(**batch.positions)
        output, expected = (it(**inputs, positions=positions) for it in (whole, model))
        torch.testing.assert_close(output.loss, expected.loss)
    assert compiled <= 3
