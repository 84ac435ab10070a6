"""That pre-training learns what it is for, on pictures that are simple enough for a minute of two cores.

A picture shows three of ten things, each found by two boxes; its caption names them. So a masked word can be told from
the regions and not from the other words, a masked region from the other box on the same thing, and a swapped caption
from either stream alone not at all. The margins are thus: alignment well over the half that guessing gives, words over
the same model on other images' regions, regions over naming the commonest class.

The same run with something broken falls short of the margins: a test of the test. Each breakage misses the margins of
what it takes away, and no more is asked of it:

- Without features, alignment, words and regions: where boxes lie says nothing of what is in them, so text and image
  have nothing in common, and a region is at best one of the three things that its caption names.
- With labels one place off while it trains, words and regions: it learns to tell what another place hides, and is asked
  what this one does. Alignment has labels of its own, and is learnt.
- Without co-attention, words: the text stream sees no image. Regions are told all the same, from the other box on the
  same thing, which is in their own stream. Alignment is left open: its head multiplies what the streams make of
  themselves, and can learn from that, though slower (0.74 where the whole model has over 0.9).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from vilbert.extractors.regions import Regions
from vilbert.pipeline.cli import main
from vilbert.pipeline.train.pretraining import objective as pretrain_objective

THINGS = ("sky", "tree", "dog", "boat", "lamp", "chair", "road", "horse", "cup", "train")
CLASSES = ("background", *THINGS)
SHOWN, CHANNELS = 3, 16
MODEL = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
    "max_position_embeddings": 12, "v_hidden_size": 32, "v_num_hidden_layers": 2, "v_num_attention_heads": 2,
    "v_intermediate_size": 64, "bi_hidden_size": 32, "bi_num_attention_heads": 2, "v_biattention_id": [0, 1],
    "t_biattention_id": [0, 1], "initializer_range": 0.15, "location_initializer_range": 1.0,
    "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "v_hidden_dropout_prob": 0.0,
    "v_attention_probs_dropout_prob": 0.0, "pooled_dropout_prob": 0.0,
}  # fmt: skip
SAMPLES, STEPS = 1200, 600


def shown(row: int) -> list[int]:
    """Return which things a picture shows, in the order in which its caption names them."""
    return np.random.default_rng((7, row)).permutation(len(THINGS))[:SHOWN].tolist()


def caption(row: int) -> tuple[str, ...]:
    first, second, third = (THINGS[thing] for thing in shown(row))
    return (f"a {first} a {second} and a {third}",)


def regions(row: int) -> Regions:
    """Return two boxes on each thing, whose features tell which it is."""
    draw = np.random.default_rng((8, row))
    look = np.random.default_rng(9).standard_normal((len(CLASSES), CHANNELS)) * 2
    things = np.repeat(np.array(shown(row)) + 1, 2)
    corner = np.repeat(draw.permutation(4)[:SHOWN], 2)[:, None] * np.array([[55.0, 0.0]]) + draw.uniform(0, 4, (6, 2))
    count = len(things)
    others = np.array([[(thing % 10) + 1] for thing in things])
    order = draw.permutation(count)
    return Regions(
        boxes=np.concatenate([corner, corner + 45], axis=1)[order].astype(np.float32),
        features=(look[things] + draw.standard_normal((count, CHANNELS)) * 0.3)[order].astype(np.float16),
        object_ids=things[order].astype(np.uint16),
        object_scores=np.full(count, 0.9, np.float32),
        class_ids=np.concatenate([things[:, None], others], axis=1)[order].astype(np.uint16),
        class_probs=np.tile([0.9, 0.05], (count, 1)).astype(np.float16),
        width=224,
        height=64,
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, make_dataset: Callable[..., Path]) -> Path:
    folder = tmp_path_factory.mktemp("learning")
    make_dataset(
        folder / "features", samples=SAMPLES, shard_size=400, feature_dim=CHANNELS, top_classes=2, class_names=CLASSES,
        splits=lambda row: "val" if row % 6 == 0 else "train", captions=caption, draw=regions,
    )  # fmt: skip
    (folder / "model.json").write_text(json.dumps(MODEL))
    return folder


def train(data: Path, output: Path, *more: str) -> dict[str, Any]:
    """Return evaluation.json of a run."""
    torch.set_num_threads(1)
    options = [
        "pretrain", str(data / "features"), "--output", str(output), "--model", str(data / "model.json"),
        "--tokenizer", "new", "--init-from", "none", "--batch-size", "32", "--max-tokens", "12",
        "--max-steps", str(STEPS),
        "--eval-every", "10000", "--checkpoint-every", "10000", "--log-every", "50", "--num-workers", "0",
        "--device", "cpu", "--tracker", "none", "--learning-rate", "0.003", "--objective", "1", "--seed", "1",
    ]  # fmt: skip
    assert main([*options, *more]) == 0
    found: dict[str, Any] = json.loads((output / "evaluation.json").read_text())
    return found


def things_told(found: dict[str, Any]) -> float:
    """Return the share of masked words that name a thing and were predicted."""
    right, count = np.sum([counts for word, counts in found["words"].items() if word in THINGS], axis=0)
    return float(right / count)


def shortcomings(found: dict[str, Any], blind: dict[str, Any]) -> set[str]:
    """Return which of the three tasks were not learnt."""
    figures = found["figures"]
    learnt = {
        "alignment": figures["alignment_accuracy"] >= 0.9,
        "words": things_told(found) >= things_told(blind) + 0.25,
        "regions": figures["masked_image_accuracy"] >= figures["masked_image_majority"] + 0.3,
    }
    return {task for task, was in learnt.items() if not was}


@pytest.fixture(scope="module")
def blind(data: Path) -> dict[str, Any]:
    """Return what the same model makes of the words alone: every caption gets another image's regions."""
    return train(data, data / "blind", "--blind")


@pytest.mark.slow
def test_all_three_tasks_are_learnt(data: Path, blind: dict[str, Any]) -> None:
    found = train(data, data / "seeing")
    assert not shortcomings(found, blind), (found["figures"], things_told(found), things_told(blind))


def zero_features(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**inputs, "image_feat": torch.zeros_like(inputs["image_feat"])}


def shift_labels(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    if not torch.is_grad_enabled():  # an evaluation, which asks for the true ones
        return inputs
    return {
        name: value.roll(1, 1) if name in ("masked_lm_labels", "image_label") else value
        for name, value in inputs.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("breaking", "missed"),
    [
        (zero_features, {"alignment", "words", "regions"}),
        (shift_labels, {"words", "regions"}),
        ("no co-attention", {"words"}),
    ],
)
def test_what_is_broken_falls_short(
    data: Path,
    blind: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    breaking: Callable[..., Any] | str,
    missed: set[str],
) -> None:
    more = []
    if callable(breaking):
        original = pretrain_objective.to_model_inputs
        broken = lambda *arguments, **options: breaking(original(*arguments, **options))  # noqa: E731
        monkeypatch.setattr(pretrain_objective, "to_model_inputs", broken)
    else:
        path = tmp_path / "model.json"
        path.write_text(json.dumps({**MODEL, "with_coattention": False}))
        more = ["--model", str(path)]
    assert shortcomings(train(data, tmp_path / "run", *more), blind) >= missed
