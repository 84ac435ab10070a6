"""What a run begins with: whose parameters, in a model of which sizes, and how features are embedded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vilbert.model.config import ViLBertConfig
from vilbert.model.vilbert import ViLBertForPreTraining
from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.train.data.corpus import Corpus
from vilbert.pipeline.train.data.order import Order
from vilbert.pipeline.train.examples.words import new_tokenizer
from vilbert.pipeline.train.pretraining.settings import PretrainSettings
from vilbert.pipeline.train.pretraining.start import (
    begins_from_text,
    choose_visual_target,
    model_config,
    whiten_features,
)

from ..tiny_runs import MODEL


def small_model() -> ViLBertForPreTraining:
    torch.manual_seed(0)
    return ViLBertForPreTraining(
        ViLBertConfig(
            vocab_size=20, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8,
            v_feature_size=8, v_target_size=7, v_hidden_size=8, v_num_hidden_layers=1, v_num_attention_heads=2,
            v_intermediate_size=8, bi_hidden_size=8, bi_num_attention_heads=2, v_biattention_id=[0],
            t_biattention_id=[1],
        )
    )  # fmt: skip


def test_it_embeds_whitened_features_as_the_plain_embedding_would(
    make_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_dataset(tmp_path / "a", samples=30, shard_size=10)
    corpus = Corpus.open([str(folder)], split=None)
    order = Order(corpus.shard_sizes, seed=0, shuffle=False)
    features = np.concatenate([example.features for example in corpus.read(order.at(np.arange(30))) if example])
    plain, ours = small_model(), small_model()
    whiten_features(ours, corpus)
    values = torch.from_numpy(features.astype(np.float64))
    centred = values - values.mean(0)
    left, spread, right = torch.linalg.svd(centred, full_matrices=False)
    white = left @ right * len(values) ** 0.5  # the nearest matrix to it with covariance 1
    torch.testing.assert_close(white.T @ white / len(values), torch.eye(8).double())
    assert spread.min() > 0.1 * spread.max()
    expected = plain.bert.v_embeddings.image_embeddings(white.float())
    found = ours.bert.v_embeddings.image_embeddings(values.float())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_data_set_without_regions_is_refused(make_dataset: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_dataset(tmp_path / "a", samples=3, shard_size=3, regions=0)
    with pytest.raises(RefusedError, match="from the first samples"):
        whiten_features(small_model(), Corpus.open([str(folder)], split=None))


@pytest.mark.parametrize(
    ("name", "on_hub"),
    [
        ("bert-base-uncased", True), ("someone/bert-v1.0", True), ("bert.v2", True), ("none", False),
        ("vilbert.bin", False), ("runs/model.safetensors", False), ("runs/base/final", False), ("/a/bert", False),
        ("./bert", False), ("../bert", False),
    ],
)  # fmt: skip
def test_what_is_no_file_is_a_hub_name_unless_it_looks_like_one(
    name: str, on_hub: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert begins_from_text(name) == on_hub


def config_of(changes: dict[str, Any], folder: Path) -> ViLBertConfig:
    """Return the config of a model for features of 8 channels and 7 classes."""
    path = folder / "model.json"
    path.write_text(json.dumps({**MODEL, **changes}))
    settings = PretrainSettings(data=("a",), output=folder, model=str(path), tokenizer="new", init_from="none")
    return model_config(settings, new_tokenizer(["a dog"]), feature_dim=8, num_classes=7)


@pytest.mark.parametrize("kind", [{}, {"model_type": "vilbert"}])
@pytest.mark.parametrize("sizes", [{}, {"v_target_size": 1601}, {"v_feature_size": 5, "v_target_size": 6}])
@pytest.mark.parametrize(("target", "size"), [(0, 7), (1, 8), (2, 8)])
def test_the_data_decide_the_sizes_whatever_the_config_says(
    kind: dict[str, Any], sizes: dict[str, int], target: int, size: int, tmp_path: Path
) -> None:
    config = config_of({**kind, **sizes, "visual_target": target}, tmp_path)
    assert (config.v_feature_size, config.v_target_size) == (8, size)


@pytest.mark.parametrize(
    ("wanted", "configured", "soft_labels", "target"),
    [
        ("auto", 0, True, 0), ("auto", 1, True, 1), ("auto", 2, True, 2),
        ("auto", 0, False, 1), ("auto", 1, False, 1), ("auto", 2, False, 2),
        ("regression", 0, True, 1), ("nce", 1, False, 2), ("classes", 2, True, 0),
    ],
)  # fmt: skip
def test_masked_regions_predict_features_where_there_are_no_soft_labels(
    wanted: str, configured: int, soft_labels: bool, target: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert choose_visual_target(wanted, configured, soft_labels=soft_labels) == target
    assert ("--visual-target regression" in caplog.text) == (target == 1 and configured == 0 and wanted == "auto")


def test_soft_labels_that_the_data_do_not_have_are_refused() -> None:
    with pytest.raises(RefusedError, match=r"no class probabilities.* give --visual-target regression or nce"):
        choose_visual_target("classes", 0, soft_labels=False)


@pytest.mark.parametrize("kind", [{}, {"model_type": "vilbert"}])
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"visual_target": 3}, r"visual_target.* expected one of \(0, 1, 2\), got 3"),
        ({"visual_target": 2, "num_negative": 1}, "num_negative 1: NCE"),
        ({"hidden_size": 15}, "hidden_size 15 is not a multiple"),
        ({"hidden_size": "wide"}, "hidden_size.* expected int"),
    ],
)
def test_settings_that_make_no_model_are_refused(
    kind: dict[str, Any], changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(RefusedError, match=f"^--model .*model.json: .*{said}"):
        config_of({**kind, **changes}, tmp_path)
