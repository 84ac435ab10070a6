"""Ranks of retrieval against sorting by hand, ties against the model, and the published figures' formulas."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.tasks.retrieval.ranks import NO_CAPTION, ranks, recall_figures, retrieval_figures, top_list


def test_a_small_table_by_hand() -> None:
    scores = np.array([[0.9, 0.1, 0.2], [0.8, 0.7, 0.1], [0.3, 0.6, 0.5], [0.1, 0.2, 0.3]], dtype=np.float32)
    of_captions, of_images = ranks(scores, np.array([0, 1, 2, 2]))
    assert of_captions.tolist() == [0, 1, 1, 0]
    assert of_images.tolist() == [0, 0, 0]


@given(st.data())
def test_ranks_are_places_in_sorted_lists_where_no_scores_tie(data: st.DataObject) -> None:
    images, captions = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 8))
    owner = np.array(data.draw(st.lists(st.integers(0, images - 1), min_size=captions, max_size=captions)))
    order = data.draw(st.permutations(range(images * captions)))
    scores = np.array(order, dtype=np.float32).reshape(captions, images)
    of_captions, of_images = ranks(scores, owner)
    for caption in range(captions):
        assert np.argsort(-scores[caption]).tolist().index(owner[caption]) == of_captions[caption]
    for image in range(images):
        own = [place for place, caption in enumerate(np.argsort(-scores[:, image])) if owner[caption] == image]
        assert of_images[image] == (own[0] if own else NO_CAPTION)


@given(images=st.integers(2, 9), each=st.integers(1, 3))
def test_a_constant_score_finds_nothing(images: int, each: int) -> None:
    owner = np.repeat(np.arange(images), each)
    scores = np.zeros((len(owner), images), dtype=np.float32)
    of_captions, of_images = ranks(scores, owner)
    assert set(of_captions.tolist()) == {images - 1}
    assert set(of_images.tolist()) == {(images - 1) * each}
    figures = retrieval_figures(scores, owner)
    assert figures["image_retrieval_r1"] == figures["text_retrieval_r1"] == 0


@given(st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=12, max_size=12))
def test_ties_never_make_a_rank_better_than_any_order_of_them(values: list[float]) -> None:
    scores, owner = np.array(values, dtype=np.float32).reshape(4, 3), np.array([0, 1, 2, 2])
    of_captions, of_images = ranks(scores, owner)
    for shift in (np.array([1e-3, 0, -1e-3]), np.array([-1e-3, 0, 1e-3])):
        broken = (scores + shift).astype(np.float32)
        assert (ranks(broken, owner)[0] <= of_captions).all()
    for shift in (np.array([1e-3, 0, -1e-3, -2e-3]), np.array([-1e-3, 0, 1e-3, 2e-3])):
        assert (ranks((scores + shift[:, None]).astype(np.float32), owner)[1] <= of_images).all()


def test_figures_by_the_published_formulas() -> None:
    figures = recall_figures(np.array([0, 0, 3, 4, 9, 10]))
    assert figures == {
        "r1": pytest.approx(2 / 6),
        "r5": pytest.approx(4 / 6),
        "r10": pytest.approx(5 / 6),
        "median_rank": 4,  # the median of 0-based ranks is 3.5: its floor, counted from 1
        "mean_rank": pytest.approx(26 / 6 + 1),
    }


def test_images_without_a_caption_do_not_count() -> None:
    scores = np.array([[1, 2, 3]], dtype=np.float32)
    assert ranks(scores, np.array([2]))[1].tolist() == [NO_CAPTION, NO_CAPTION, 0]
    figures = retrieval_figures(scores, np.array([2]))
    assert figures["text_retrieval_r1"] == 1
    assert len(figures) == 10


def test_scores_that_cannot_be_ranked_are_refused() -> None:
    scores = np.zeros((2, 3), dtype=np.float32)
    scores[1, 2] = np.nan
    with pytest.raises(RefusedError, match="caption 1 with image 2"):
        ranks(scores, np.array([0, 1]))
    with pytest.raises(RefusedError, match="no caption"):
        recall_figures(np.array([NO_CAPTION]))
    with pytest.raises(ValueError, match="not among the 3"):
        ranks(scores, np.array([0, 3]))
    with pytest.raises(ValueError, match="not among the 3"):
        ranks(scores, np.array([0, -1]))
    with pytest.raises(ValueError, match="each of 2 captions"):
        ranks(scores, np.array([0]))


def test_the_list_of_the_best() -> None:
    scores = np.array([[0.1, 0.9, 0.5], [0.5, 0.5, 0.7]], dtype=np.float32)
    assert top_list(scores, 2).tolist() == [[1, 2], [2, 0]]
    assert top_list(scores).tolist() == [[1, 2, 0], [2, 0, 1]]
    assert top_list(scores.T, 1).tolist() == [[1], [0], [1]]


def test_recall_is_that_of_the_published_evaluation() -> None:
    golden = json.loads((Path(__file__).parents[1] / "golden/retrieval_recall.json").read_text(encoding="utf-8"))
    for case in golden["cases"]:
        found = retrieval_figures(np.array(case["scores"]), np.array(case["image_of"]))
        expected = {name: case[name] / 100 for name in ("r1", "r5", "r10")}
        expected |= {"median_rank": case["medr"], "mean_rank": case["meanr"]}
        assert {name: found[f"image_retrieval_{name}"] for name in expected} == pytest.approx(expected)
