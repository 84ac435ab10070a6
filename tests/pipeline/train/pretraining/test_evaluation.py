"""What an evaluation counts: a brute-force reckoning gives the same, and the tables of evaluation.json add up."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from vilbert.model.config import ViLBertConfig
from vilbert.model.vilbert import ViLBertForPreTraining
from vilbert.pipeline.train.data.corpus import Corpus
from vilbert.pipeline.train.data.order import Order
from vilbert.pipeline.train.engine.distributed import Group
from vilbert.pipeline.train.engine.share import Share
from vilbert.pipeline.train.examples.batch import Batch, make_batches
from vilbert.pipeline.train.examples.inputs import to_model_inputs
from vilbert.pipeline.train.examples.item_settings import ItemSettings
from vilbert.pipeline.train.examples.words import load_tokenizer
from vilbert.pipeline.train.pretraining.evaluation import PretrainEvaluation, encode_evaluation
from vilbert.pipeline.train.pretraining.objective import PretrainObjective, evaluate

SAMPLES = 11
ALONE = Group(rank=0, world=1, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def parts(make_dataset: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return a model and all held-out samples in batches of four, the last with one filler."""
    folder = make_dataset(tmp_path_factory.mktemp("data") / "a", samples=SAMPLES, shard_size=4, regions=6)
    corpus = Corpus.open([str(folder)], split=None)
    tokenizer = load_tokenizer("new", [f"a photograph of scene {row} seen again" for row in range(SAMPLES)])
    order = Order(corpus.shard_sizes, seed=1, shuffle=False)
    share = Share(rank=0, world=1, accumulation=1, batch_size=4)
    items = ItemSettings(word_mask=0.4, region_mask=0.4)
    batches = [make_batches(corpus, order, tokenizer, items, share, step, seed=1, limit=SAMPLES) for step in range(3)]
    config = ViLBertConfig(
        vocab_size=len(tokenizer), hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8,
        v_feature_size=8, v_target_size=7, v_hidden_size=8, v_num_hidden_layers=1, v_num_attention_heads=2,
        v_intermediate_size=8, bi_hidden_size=8, bi_num_attention_heads=2, v_biattention_id=[0], t_biattention_id=[1],
        initializer_range=0.5,
    )  # fmt: skip
    torch.manual_seed(0)
    task = PretrainObjective(num_classes=7, visual_target=0, feature_dim=8, bfloat16=False, seed=1)
    return {"model": ViLBertForPreTraining(config), "batches": batches, "task": task, "tokenizer": tokenizer}


@pytest.fixture(scope="module")
def found(parts: dict[str, Any]) -> PretrainEvaluation:
    return evaluate(parts["model"], parts["batches"], parts["task"], ALONE)


def test_it_equals_a_reckoning_from_whole_score_tables(parts: dict[str, Any], found: PretrainEvaluation) -> None:
    """Score every word and region, as a model without labels does, and count at the labels."""
    model = parts["model"].eval()
    right, total, aligned = [0, 0], [0, 0], 0
    for batch in (part for step in parts["batches"] for part in step):
        inputs = to_model_inputs(batch, "cpu", num_classes=7, visual_target=0)
        words, regions, target = (inputs.pop(name) for name in ("masked_lm_labels", "image_label", "image_target"))
        pairs = inputs.pop("next_sentence_label")
        with torch.no_grad():
            scores = model(**inputs)
        for kind, (guess, truth, where) in enumerate(
            [
                (scores.text_scores.argmax(-1), words, words >= 0),
                (scores.image_scores[:, 1:].argmax(-1), target.argmax(-1), regions == 1),
            ]
        ):
            right[kind] += int((guess == truth)[where].sum())
            total[kind] += int(where.sum())
        aligned += int((scores.alignment_scores.argmax(-1) == pairs).sum())
    assert total[0] > 10
    assert total[1] > 10
    assert [int(found.word_right.sum()), int(found.class_right.sum())] == right
    assert [int(found.word_count.sum()), int(found.class_count.sum())] == total
    assert found.counts.tolist() == [*total, SAMPLES]
    assert found.aligned.tolist() == [aligned, SAMPLES]


def test_it_leaves_the_model_in_training_and_its_gradients_alone(parts: dict[str, Any]) -> None:
    model = parts["model"].train()
    evaluate(model, parts["batches"], parts["task"], ALONE)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_batches_of_another_size_change_nothing(parts: dict[str, Any], found: PretrainEvaluation) -> None:
    halves: list[list[Batch]] = [[part] for step in parts["batches"] for part in step]
    again = evaluate(parts["model"], list(reversed(halves)), parts["task"], ALONE)
    assert again.figures() == pytest.approx(found.figures(), rel=1e-6)


def test_samples_that_could_not_be_read_are_counted(parts: dict[str, Any], found: PretrainEvaluation) -> None:
    assert found.figures()["unread"] == 0
    steps = [[replace(part, unread=2) for part in step] for step in parts["batches"]]
    again = evaluate(parts["model"], steps, parts["task"], ALONE)
    assert again.figures() == {**found.figures(), "unread": 2 * len(steps)}
    assert json.loads(encode_evaluation(again, [], []))["figures"]["unread"] == 2 * len(steps)


def test_the_tables_add_up_to_the_figures(parts: dict[str, Any], found: PretrainEvaluation) -> None:
    tokenizer = parts["tokenizer"]
    words = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    written = json.loads(encode_evaluation(found, words, [f"class {number}" for number in range(7)]))
    for table, figure in (("words", "masked_lm_accuracy"), ("classes", "masked_image_accuracy")):
        rights, counts = zip(*written[table].values(), strict=True)
        assert sum(rights) / sum(counts) == pytest.approx(written["figures"][figure])
    assert max(count for _, count in written["classes"].values()) / sum(
        count for _, count in written["classes"].values()
    ) == pytest.approx(written["figures"]["masked_image_majority"])
