"""Scores of all pairs against every pair run through the whole model by itself; plans, and evaluations that go on."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from vilbert.model.config import ViLBertConfig
from vilbert.model.tasks import ViLBertForTasks
from vilbert.model.vilbert import ViLBertForPreTraining
from vilbert.pipeline.errors import FingerprintError, RefusedError
from vilbert.pipeline.tasks.retrieval.score_file import open_scores
from vilbert.pipeline.tasks.retrieval.score_plan import Plan, ScoreSettings, plan
from vilbert.pipeline.tasks.retrieval.scores import ImagePool, ImageTensors, Scorer, score_pairs

TINY: dict[str, Any] = {
    "vocab_size": 31, "hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 12,
    "max_position_embeddings": 24, "v_feature_size": 5, "v_target_size": 4, "v_hidden_size": 12,
    "v_num_hidden_layers": 3, "v_num_attention_heads": 3, "v_intermediate_size": 10, "bi_hidden_size": 8,
    "bi_num_attention_heads": 4, "v_biattention_id": [0, 2], "t_biattention_id": [1, 2], "num_answers": 6,
    "num_gqa_answers": 7, "num_negative": 4,
}  # fmt: skip
VARIANTS: list[dict[str, Any]] = [
    {},
    {"task_specific_tokens": True},
    {"v_biattention_id": [1, 2], "t_biattention_id": [2, 2]},
    {"v_biattention_id": [1, 2], "t_biattention_id": [2, 2], "dynamic_attention": True},
    {"with_coattention": False, "fusion_method": "sum"},
    {"text_model": "roberta", "pad_token_id": 1},
]


def tiny(kind: type[Any] = ViLBertForPreTraining, **changes: Any) -> Any:
    """Return a model with weights large enough that a slip shows."""
    model: nn.Module = kind(ViLBertConfig(**{**TINY, **changes}))
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            norm = "LayerNorm" in name and name.endswith("weight")
            large = any(last in name for last in ("pooler", "vil_logit", "bi_seq_relationship"))
            parameter.copy_(torch.randn(parameter.shape, generator=draw) * (1 if large else 0.4) + norm)
    return model.eval()


class Pool:
    """Images of random regions, and what was asked of them."""

    def __init__(self, regions: Sequence[int], seed: int = 1) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.features = [torch.randn(count, 5, generator=draw) for count in regions]
        self.boxes = [torch.rand(count, 5, generator=draw) for count in regions]
        self.read_numbers: list[int] = []
        self.images = ImagePool(
            regions=np.array(regions, dtype=np.int64), read=self.read, fingerprint=f"pool {list(regions)} {seed}"
        )

    def read(self, numbers: NDArray[np.int64]) -> ImageTensors:
        self.read_numbers += numbers.tolist()
        pad: Callable[[list[Tensor]], Tensor] = lambda rows: nn.utils.rnn.pad_sequence(rows, batch_first=True)  # noqa: E731
        return ImageTensors(
            pad([self.features[number] for number in numbers]),
            pad([self.boxes[number] for number in numbers]),
            pad([torch.ones(len(self.boxes[number]), dtype=torch.long) for number in numbers]),
        )


def captions_of(lengths: Sequence[int]) -> list[list[int]]:
    draw = np.random.default_rng(2)
    return [draw.integers(2, TINY["vocab_size"], length).tolist() for length in lengths]


@torch.no_grad()
def one_by_one(model: Scorer, captions: list[list[int]], pool: Pool, task_id: int | None) -> NDArray[np.float32]:
    """Return the scores of each pair alone, through the whole model, without padding or masks."""
    found = np.empty((len(captions), len(pool.features)), dtype=np.float32)
    task = None if task_id is None else torch.tensor([[task_id]])
    for row, caption in enumerate(captions):
        for column, (features, boxes) in enumerate(zip(pool.features, pool.boxes, strict=True)):
            output = model(torch.tensor([caption]), features[None], boxes[None], task_ids=task)
            if isinstance(model, ViLBertForTasks):
                found[row, column] = output.vil_logit.item()
            else:
                found[row, column] = output.alignment_scores[0, 0] - output.alignment_scores[0, 1]
    return found


@pytest.mark.slow
@given(
    variant=st.sampled_from(VARIANTS),
    kind=st.sampled_from([ViLBertForPreTraining, ViLBertForTasks]),
    words=st.lists(st.integers(2, 7), min_size=1, max_size=5),
    regions=st.lists(st.integers(1, 6), min_size=1, max_size=5),
    pairs=st.integers(1, 9),
    tight=st.booleans(),
)
def test_scores_are_those_of_each_pair_alone(
    variant: dict[str, Any], kind: type[Any], words: list[int], regions: list[int], pairs: int, tight: bool
) -> None:
    model, captions, pool = tiny(kind, **variant), captions_of(words), Pool(regions)
    task_id = 3 if model.config.task_specific_tokens else None
    # Tight: room for a chunk of images and one caption, so that there are several panels and small blocks.
    room = max(regions) * min(pairs, len(regions)) * 12 * 4 + 8 * 8 * 4 if tight else 10**6
    chosen = ScoreSettings(pairs_per_batch=pairs, hold_bytes=room)
    found = score_pairs(model, captions, pool.images, settings=chosen, task_id=task_id)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, one_by_one(model, captions, pool, task_id), rtol=1e-5, atol=5e-5)


def test_eager_attention_gives_the_same_scores() -> None:
    model, captions, pool = tiny(), captions_of([3, 5]), Pool([2, 4])
    fused = score_pairs(model, captions, pool.images, settings=ScoreSettings())
    model.config._attn_implementation = "eager"
    np.testing.assert_allclose(
        score_pairs(model, captions, pool.images, settings=ScoreSettings()), fused, rtol=1e-5, atol=1e-5
    )


def test_bfloat16_scores_are_near() -> None:
    model, captions, pool = tiny(), captions_of([3, 5, 4]), Pool([2, 4])
    exact = score_pairs(model, captions, pool.images, settings=ScoreSettings())
    found = score_pairs(model, captions, pool.images, settings=ScoreSettings(precision="bfloat16"))
    assert 0 < np.abs(found - exact).max() < 0.1 * np.abs(exact).max()


def test_each_image_and_caption_goes_through_the_first_part_once_where_all_fit() -> None:
    model, pool = tiny(), Pool([2, 4, 3, 3, 5])
    runs = {"text": 0, "image": 0, "joint": 0}
    watched = {
        "text": model.bert.encoder.layer[0],
        "image": model.bert.v_embeddings,
        "joint": model.bert.encoder.c_layer[0],
    }
    for name, module in watched.items():
        module.register_forward_pre_hook(lambda _, args, name=name: runs.update({name: runs[name] + len(args[0])}))
    score_pairs(model, captions_of([4, 2, 3]), pool.images, settings=ScoreSettings(pairs_per_batch=2))
    assert runs == {"text": 3, "image": 5, "joint": 15}
    assert sorted(pool.read_numbers) == [0, 1, 2, 3, 4]


class KilledError(Exception):
    """Stands for a kill."""


def killed_after(batches: int) -> Callable[[int, int], None]:
    told: list[int] = []

    def progress(done: int, _: int) -> None:
        told.append(done)
        if len(told) == batches:
            raise KilledError

    return progress


@pytest.mark.parametrize("batches", [1, 3, 5])
def test_a_killed_evaluation_goes_on(tmp_path: Path, batches: int) -> None:
    model, captions, pool, chosen = tiny(), captions_of([4, 2, 3]), Pool([2, 4]), ScoreSettings(pairs_per_batch=1)
    whole = score_pairs(model, captions, pool.images, settings=chosen)
    with pytest.raises(KilledError):
        score_pairs(
            model, captions, pool.images, settings=chosen, folder=tmp_path / "s", progress=killed_after(batches)
        )
    told: list[tuple[int, int]] = []
    found = score_pairs(
        model,
        captions,
        pool.images,
        settings=chosen,
        folder=tmp_path / "s",
        progress=lambda done, total: told.append((done, total)),
    )
    assert np.array_equal(found, whole)
    assert told == [(done, 6) for done in range(batches + 1, 7)]
    assert np.array_equal(np.load(tmp_path / "s" / "scores.npy"), whole)
    pool.read_numbers.clear()
    assert np.array_equal(score_pairs(model, captions, pool.images, settings=chosen, folder=tmp_path / "s"), whole)
    assert pool.read_numbers == []


def test_what_a_killed_process_had_written_is_there(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        open_scores(tmp_path, (3, 4), {"of": "test"})[1, 2] = 7
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    scores = open_scores(tmp_path, (3, 4), {"of": "test"})
    assert scores[1, 2] == 7
    assert np.isnan(scores).sum() == 11


def test_it_goes_on_with_batches_of_another_size(tmp_path: Path) -> None:
    model, captions, pool = tiny(), captions_of([4, 2, 3]), Pool([2, 4, 5])
    with pytest.raises(KilledError):
        score_pairs(
            model,
            captions,
            pool.images,
            settings=ScoreSettings(pairs_per_batch=2),
            folder=tmp_path,
            progress=killed_after(2),
        )
    found = score_pairs(model, captions, pool.images, settings=ScoreSettings(pairs_per_batch=4), folder=tmp_path)
    np.testing.assert_allclose(found, one_by_one(model, captions, pool, None), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("what", ["model", "captions", "images", "precision", "head", "shape"])
def test_scores_of_something_else_are_refused(tmp_path: Path, what: str) -> None:
    model, captions, pool = tiny(ViLBertForTasks), captions_of([4, 2]), Pool([2, 4])
    score_pairs(model, captions, pool.images, settings=ScoreSettings(), folder=tmp_path)
    before = hashlib.sha256((tmp_path / "scores.npy").read_bytes()).digest()
    chosen = ScoreSettings(precision="bfloat16" if what == "precision" else "float32")
    if what == "model":
        with torch.no_grad():
            model.vil_logit.bias += 1
    elif what == "head":
        model = tiny(ViLBertForPreTraining)
    elif what == "captions":
        captions[0][1] += 1 if captions[0][1] < 30 else -1
    elif what == "images":
        pool = Pool([2, 4], seed=5)
    elif what == "shape":
        pool = Pool([2, 4, 3])
    with pytest.raises(FingerprintError, match=what):
        score_pairs(model, captions, pool.images, settings=chosen, folder=tmp_path)
    assert hashlib.sha256((tmp_path / "scores.npy").read_bytes()).digest() == before


@pytest.mark.parametrize("damage", ["no identity", "not JSON", "cut", "another array"])
def test_damaged_scores_are_refused_by_name(tmp_path: Path, damage: str) -> None:
    model, captions, pool = tiny(), captions_of([4, 2]), Pool([2, 4])
    score_pairs(model, captions, pool.images, settings=ScoreSettings(), folder=tmp_path)
    if damage == "no identity":
        (tmp_path / "scores.json").unlink()
    elif damage == "not JSON":
        (tmp_path / "scores.json").write_text("{")
    elif damage == "cut":
        (tmp_path / "scores.npy").write_bytes((tmp_path / "scores.npy").read_bytes()[:-4])
    else:
        np.save(tmp_path / "scores.npy", np.zeros((2, 2)))
    with pytest.raises(RefusedError, match=rf"{tmp_path.name}.*delete the folder"):
        score_pairs(model, captions, pool.images, settings=ScoreSettings(), folder=tmp_path)


def test_a_model_that_gives_nan_is_refused() -> None:
    model, pool = tiny(), Pool([2, 4])
    pool.features[1][0, 0] = torch.nan
    with pytest.raises(RefusedError, match="NaN for caption 0 with image 1"):
        score_pairs(model, captions_of([4]), pool.images, settings=ScoreSettings())


def test_what_the_model_does_not_take_is_refused() -> None:
    model, captions, pool = tiny(), captions_of([4, 2]), Pool([2, 4])
    with pytest.raises(ValueError, match="no task tokens"):
        score_pairs(model, captions, pool.images, settings=ScoreSettings(), task_id=3)
    with pytest.raises(ValueError, match="caption 1 has no word pieces"):
        score_pairs(model, [captions[0], []], pool.images, settings=ScoreSettings())
    with pytest.raises(ValueError, match="training mode"):
        score_pairs(model.train(), captions, pool.images, settings=ScoreSettings())


def published(regions: int, images: int, captions: int, **chosen: Any) -> Plan:
    """Plan for the 6-layer model."""
    draw = np.random.default_rng(0)
    return plan(
        draw.integers(6, 31, captions),
        draw.integers(10, regions + 1, images),
        text_width=768,
        image_width=1024,
        settings=ScoreSettings(**chosen),
    )


@pytest.mark.parametrize("regions", [37, 101])
def test_a_thousand_images_and_their_captions_fit_and_are_encoded_once(regions: int) -> None:
    planned = published(regions, 1000, 5000)
    assert planned.pairs == 5_000_000
    assert len(planned.panels) == 1
    assert planned.held_bytes < 1000 * regions * 1024 * 4 + 256 * 30 * 768 * 4 < 450_000_000
    assert planned.batches <= 1.1 * 5_000_000 / 250


def test_five_thousand_images_in_a_small_budget_come_in_panels() -> None:
    planned = published(101, 5000, 25_000, hold_bytes=300_000_000)
    assert len(planned.panels) > 3
    assert planned.held_bytes <= 300_000_000
    assert published(101, 5000, 25_000, hold_bytes=300_000_000, precision="bfloat16").held_bytes <= 300_000_000


@given(
    words=st.lists(st.integers(1, 30), min_size=1, max_size=40),
    regions=st.lists(st.integers(1, 40), min_size=1, max_size=40),
    pairs=st.integers(1, 64),
    hold=st.integers(1, 40_000),
)
def test_a_plan_has_every_pair_once_within_its_bounds(
    words: list[int], regions: list[int], pairs: int, hold: int
) -> None:
    all_words, all_regions = np.array(words), np.array(regions)
    chosen = ScoreSettings(pairs_per_batch=pairs, hold_bytes=hold)
    try:
        planned = plan(all_words, all_regions, text_width=2, image_width=3, settings=chosen)
    except RefusedError as error:
        assert f"--hold-bytes {hold}" in str(error)  # noqa: PT017
        wide = min(pairs, len(regions)) * max(regions) * 3 * 4 + max(words) * 2 * 4
        assert hold < wide
        return
    chunks = [chunk for panel in planned.panels for chunk in panel]
    assert sorted(np.concatenate(chunks).tolist()) == list(range(len(regions)))
    assert sorted(np.concatenate(planned.blocks).tolist()) == list(range(len(words)))
    text = max(len(block) * all_words[block].max() for block in planned.blocks) * 2 * 4
    panels = [sum(len(chunk) * all_regions[chunk].max() for chunk in panel) * 3 * 4 for panel in planned.panels]
    assert planned.held_bytes == text + max(panels) <= hold
    assert planned.captions_per_batch * max(len(chunk) for chunk in chunks) <= pairs
    batches = [
        (caption, len(chunk))
        for block in planned.blocks
        for caption in range(0, len(block), planned.captions_per_batch)
        for chunk in chunks
    ]
    assert planned.batches == len(batches)


def test_nothing_to_score_is_refused() -> None:
    with pytest.raises(RefusedError, match="0 captions and 2 images"):
        plan(np.array([], int), np.array([1, 2]), text_width=2, image_width=3, settings=ScoreSettings())
    with pytest.raises(RefusedError, match="--pairs-per-batch 0"):
        ScoreSettings(pairs_per_batch=0)
