"""What a run begins with: features of any mean and covariance are embedded as ones of mean 0 and covariance 1."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from model.config import ViLBertConfig
from model.vilbert import ViLBertForPreTraining
from pipeline.shards.errors import RefusedError
from pipeline.train.corpus import Corpus
from pipeline.train.order import Order
from pipeline.train.start import whiten_features


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
    with pytest.raises(RefusedError, match="none of the first samples"):
        whiten_features(small_model(), Corpus.open([str(folder)], split=None))
