"""What the model gets, against the published code written afresh."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from vilbert.extractors.soft_labels import dense_labels as stored_labels
from vilbert.model.config import ViLBertConfig
from vilbert.model.vilbert import ViLBertForPreTraining
from vilbert.pipeline.train.examples.batch import Batch
from vilbert.pipeline.train.examples.inputs import dense_labels, to_model_inputs

ROWS, REGIONS, CHANNELS, KEPT, CLASSES, WORDS = 3, 4, 6, 3, 9, 5

REGION_FIELDS = ("features", "zeroed", "locations", "region_mask", "image_label", "class_ids", "class_probs")


def make_batch(seed: int = 0, *, kept: int = KEPT, classes: int = CLASSES) -> Batch:
    draw = np.random.default_rng(seed)
    counts = np.array([4, 2, 1])
    present = np.arange(REGIONS) < counts[:, None]
    probs = -np.sort(-draw.dirichlet(np.ones(classes), (ROWS, REGIONS)), axis=-1)[..., :kept]
    label = np.where(present & (draw.random((ROWS, REGIONS)) < 0.6), 1, -1)
    label[0, 0] = 1
    return Batch(
        input_ids=torch.from_numpy(draw.integers(5, 20, (ROWS, WORDS))),
        attention_mask=torch.ones((ROWS, WORDS), dtype=torch.int64),
        masked_lm_labels=torch.from_numpy(np.where(draw.random((ROWS, WORDS)) < 0.5, 7, -1)),
        features=torch.from_numpy(np.where(present[..., None], draw.random((ROWS, REGIONS, CHANNELS)), 0)).half(),
        zeroed=torch.from_numpy(label == 1),
        divisor=torch.from_numpy(counts.astype(np.float32)),
        locations=torch.from_numpy(np.where(present[..., None], draw.random((ROWS, REGIONS, 5)), 0)).float(),
        region_mask=torch.from_numpy(present.astype(np.int64)),
        image_label=torch.from_numpy(label),
        class_ids=torch.from_numpy(
            np.where(present[..., None], np.argsort(draw.random((ROWS, REGIONS, classes)))[..., :kept], 0)
        ).int(),
        class_probs=torch.from_numpy(np.where(present[..., None], probs, 0)).half(),
        next_sentence_label=torch.tensor([0, 1, -1]),
        image_ids=("a", "b", "c"),
        unread=0,
    )


def test_the_global_region_comes_first_and_is_the_published_one() -> None:
    batch = make_batch()
    inputs = to_model_inputs(batch, "cpu", num_classes=CLASSES, visual_target=0)
    features = batch.features.float().numpy()
    features[batch.zeroed.numpy()] = 0
    mask = batch.region_mask.numpy()
    mean = np.sum(features, axis=1) / np.sum(mask, axis=1, keepdims=True)
    expected = np.concatenate([mean[:, None], features], axis=1)
    np.testing.assert_allclose(inputs["image_feat"].numpy(), expected, rtol=1e-6)
    assert inputs["image_loc"][:, 0].tolist() == [[0, 0, 1, 1, 1]] * ROWS
    assert (inputs["image_loc"][:, 1:] == batch.locations).all()
    assert inputs["image_attention_mask"].tolist() == [[1, *row] for row in mask.tolist()]
    assert inputs["image_attention_mask"].dtype == torch.int64


def test_the_global_region_is_divided_by_the_divisor_given() -> None:
    batch = make_batch()
    once = to_model_inputs(batch, "cpu", num_classes=CLASSES, visual_target=0)["image_feat"]
    twice = to_model_inputs(replace(batch, divisor=2 * batch.divisor), "cpu", num_classes=CLASSES, visual_target=0)[
        "image_feat"
    ]
    assert (once[:, 0] == 2 * twice[:, 0]).all()
    assert once[:, 0].any()


@pytest.mark.parametrize("visual_target", [1, 2])
def test_features_to_predict_are_the_unmasked_ones(visual_target: int) -> None:
    batch = make_batch()
    inputs = to_model_inputs(batch, "cpu", num_classes=CLASSES, visual_target=visual_target)
    assert batch.zeroed.any()
    assert (inputs["image_target"] == batch.features.float()).all()
    assert not inputs["image_feat"][:, 1:][batch.zeroed].any()


@pytest.mark.parametrize(("kept", "classes"), [(3, 9), (20, 1601), (5, 5)])
def test_distributions_are_bit_for_bit_those_of_the_extractor(kept: int, classes: int) -> None:
    batch = make_batch(kept=kept, classes=classes)
    present = batch.region_mask.bool()
    found = dense_labels(batch, "cpu", classes)
    expected = stored_labels(
        batch.class_ids[present].numpy().astype(np.uint16), batch.class_probs[present].numpy(), classes
    )
    assert (found[present].numpy() == expected).all()
    assert not found[~present].any()
    assert found.dtype == torch.float32


def test_rounded_probabilities_above_one_are_scaled_as_the_extractor_does() -> None:
    batch = make_batch()
    batch = replace(batch, class_probs=batch.class_probs + 0.5)
    present = batch.region_mask.bool()
    expected = stored_labels(
        batch.class_ids[present].numpy().astype(np.uint16), batch.class_probs[present].numpy(), CLASSES
    )
    assert (dense_labels(batch, "cpu", CLASSES)[present].numpy() == expected).all()


def test_a_class_beyond_the_distribution_is_named() -> None:
    batch = make_batch()
    largest = int(batch.class_ids.max())
    with pytest.raises(ValueError, match=f"class id {largest} in a distribution over {largest} classes"):
        to_model_inputs(batch, "cpu", num_classes=largest, visual_target=0)


def test_the_batch_is_left_as_it_was() -> None:
    batch = make_batch()
    before = batch.features.clone()
    to_model_inputs(batch, "cpu", num_classes=CLASSES, visual_target=1)["image_feat"].zero_()
    assert (batch.features == before).all()


def first_region(batch: Batch) -> Batch:
    """Return what is left of a batch where it is one image of one region, which is masked."""
    cut = {
        field.name: value[:1, :1] if field.name in REGION_FIELDS else value[:1]
        for field in fields(batch)
        if isinstance(value := getattr(batch, field.name), torch.Tensor)
    }
    return replace(batch, **cut, image_ids=("a",))


@pytest.mark.parametrize("visual_target", [0, 1, 2])
@pytest.mark.parametrize("batch", [make_batch(), first_region(make_batch())], ids=["three images", "one region"])
def test_the_model_takes_them_and_counts_what_the_batch_counts(visual_target: int, batch: Batch) -> None:
    config = ViLBertConfig(
        vocab_size=24,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        v_feature_size=CHANNELS,
        v_hidden_size=8,
        v_num_hidden_layers=1,
        v_num_attention_heads=2,
        v_intermediate_size=8,
        bi_hidden_size=8,
        bi_num_attention_heads=2,
        v_biattention_id=[0],
        t_biattention_id=[0],
        v_target_size=CLASSES if visual_target == 0 else CHANNELS,
        visual_target=visual_target,
        num_negative=4,
    )
    inputs = to_model_inputs(batch, "cpu", num_classes=CLASSES, visual_target=visual_target)
    output = ViLBertForPreTraining(config)(**inputs, generator=torch.Generator())
    counted = [int(part.count) for part in (output.masked_lm, output.masked_image, output.alignment)]
    assert counted == batch.counts(visual_target, CHANNELS).tolist()
    assert torch.isfinite(output.loss)
