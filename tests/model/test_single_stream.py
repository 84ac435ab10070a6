"""The single-stream baseline: names and size, transformers' BERT with the same weights, masks, losses and heads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel, BertConfig, BertModel

from vilbert.model.pairs import Streams
from vilbert.model.single_stream import (
    HEADS,
    SingleStreamForPreTraining,
    SingleStreamForTasks,
    SingleStreamModel,
    joint_mask,
)
from vilbert.model.single_stream_config import PRESETS, SingleStreamConfig, single_stream_preset
from vilbert.model.tasks import PRETRAINING_SCORES

from .tiny_model import TINY, batch, fill, labels, largest_difference

SIZES: dict[str, Any] = {name: TINY[name] for name in TINY if name in SingleStreamConfig.__dataclass_fields__}
LAYER = (
    "attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
    "attention.output.LayerNorm", "intermediate.dense", "output.dense", "output.LayerNorm",
)  # fmt: skip


def names(layers: int) -> set[str]:
    """The published names of the task model."""
    modules = [
        "bert.embeddings.LayerNorm", "bert.image_embeddings.image_embeddings",
        "bert.image_embeddings.image_location_embeddings", "bert.image_embeddings.LayerNorm", "bert.pooler.dense",
        "cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.seq_relationship",
        "cls.imagePredictions.transform.dense", "cls.imagePredictions.transform.LayerNorm",
        "cls.imagePredictions.decoder", "vil_logit", "vision_logit", "linguisic_logit",
        *(f"bert.encoder.layer.{layer}.{part}" for layer in range(layers) for part in LAYER),
    ]  # fmt: skip
    tables = [f"bert.embeddings.{kind}_embeddings.weight" for kind in ("word", "position", "token_type")]
    normed = [f"vil_prediction.main.{at}.{part}" for at in (0, 3) for part in ("bias", "weight_g", "weight_v")]
    affine = [f"{module}.{part}" for module in modules for part in ("weight", "bias")]
    alone = ["bert.image_embeddings.token_type_embeddings.weight", "cls.predictions.bias"]
    return {*tables, *normed, *affine, *alone, "cls.predictions.decoder.weight"}


def make(kind: Any, **changes: Any) -> Any:
    return fill(kind(SingleStreamConfig(**{**SIZES, **changes})))


def parameters(width: int, layers: int, inner: int, words: int = 30522) -> int:
    """Count the pre-training model by hand."""
    text = (words + 512 + 2) * width + 2 * width
    image = (2048 + 1) * width + (5 + 1) * width + 2 * width + 2 * width
    layer = 4 * (width + 1) * width + 2 * width + (width + 1) * inner + (inner + 1) * width + 2 * width
    pooler = transform = (width + 1) * width
    head = 2 * (transform + 2 * width) + words + (width + 1) * 2 + (width + 1) * 1601
    return text + image + layers * layer + pooler + head


@pytest.mark.parametrize(
    ("name", "sizes"), [("bert_base_baseline", (768, 12, 3072)), ("bert_large_baseline", (1024, 24, 4096))]
)
def test_published_configurations_have_the_size_their_sizes_make(name: str, sizes: tuple[int, int, int]) -> None:
    with torch.device("meta"):
        pretraining = SingleStreamForPreTraining(single_stream_preset(name))
        tasks = SingleStreamForTasks(single_stream_preset(name))
    width, layers, _ = sizes
    assert sum(parameter.numel() for parameter in pretraining.parameters()) == parameters(*sizes)
    classifier = (width + 1) * 2 * width + 1 + (2 * width + 1) * 3129 + 1
    assert sum(parameter.numel() for parameter in tasks.parameters()) == parameters(*sizes) + classifier + 3 * (
        width + 1
    )
    assert set(tasks.state_dict()) == names(layers)
    heads = ("vil_", "vision_", "linguisic_")
    assert set(pretraining.state_dict()) == {key for key in names(layers) if not key.startswith(heads)}
    assert tasks.cls.predictions.decoder.weight is tasks.bert.embeddings.word_embeddings.weight


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_stream_is_transformers_bert(attention: str) -> None:
    """Words and regions are summed by hand and go in as `inputs_embeds`."""
    config = SingleStreamConfig(**SIZES)
    ours = fill(SingleStreamModel._from_config(config, attn_implementation=attention))
    norm = ours.embeddings.LayerNorm.state_dict()
    ours.image_embeddings.LayerNorm.load_state_dict(norm)  # theirs has one for all
    shared = {name: SIZES[name] for name in SIZES if name in BertConfig.__dataclass_fields__}
    theirs = BertModel(BertConfig(**shared, layer_norm_eps=1e-12)).eval()
    state = {name: tensor for name, tensor in ours.state_dict().items() if name in theirs.state_dict()}
    for table in ("position", "token_type"):
        name = f"embeddings.{table}_embeddings.weight"
        state[name] = torch.zeros_like(state[name])
    assert set(theirs.load_state_dict(state, strict=False).missing_keys) <= {"embeddings.position_ids"}

    inputs, types = batch(words=5, regions=4), torch.tensor([[0, 0, 1, 1, 1]] * 2)
    words, text, image = inputs["input_ids"], ours.embeddings, ours.image_embeddings
    summed = text.word_embeddings(words) + text.position_embeddings.weight[:5] + text.token_type_embeddings(types)
    regions = image.image_embeddings(inputs["image_feat"]) + image.image_location_embeddings(inputs["image_loc"])
    regions = regions + image.token_type_embeddings.weight[1]
    masks = {
        "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]),
        "image_attention_mask": torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]]),
    }
    expected = theirs(
        inputs_embeds=torch.cat([summed, regions], dim=1), attention_mask=torch.cat(list(masks.values()), dim=1)
    )
    output = ours(**inputs, **masks, token_type_ids=types)
    assert largest_difference(output.text_output, expected.last_hidden_state[:, :5]) < 1e-5
    assert largest_difference(output.image_output, expected.last_hidden_state[:, 5:]) < 1e-5
    assert largest_difference(output.pooled_text, expected.pooler_output) < 1e-5
    assert output.pooled_image is None


def test_no_row_feels_its_padding_or_its_neighbour() -> None:
    model, short, other = make(SingleStreamModel), batch(words=4, regions=3), batch(words=2, regions=2, seed=9)
    longer = {name: torch.cat([value, other[name]], dim=1) for name, value in short.items()}
    masks = {
        "attention_mask": torch.tensor([[1] * 4 + [0] * 2] * 2),
        "image_attention_mask": torch.tensor([[1] * 3 + [0] * 2] * 2),
    }
    alone, padded = model(**{name: value[:1] for name, value in short.items()}), model(**longer, **masks)
    assert largest_difference(alone.text_output, padded.text_output[:1, :4]) < 1e-5
    assert largest_difference(alone.image_output, padded.image_output[:1, :3]) < 1e-5
    assert largest_difference(alone.pooled_text, padded.pooled_text[:1]) < 1e-5


def test_joint_mask_literally() -> None:
    streams = {"text": torch.zeros(1, 2, 1), "image": torch.zeros(1, 2, 1)}
    causal, columns = torch.tensor([[[1, 0], [1, 1]]]), torch.tensor([[1, 0]])
    both = joint_mask(Streams(**streams, text_mask=causal, image_mask=columns))
    assert both is not None
    assert both.tolist() == [[[1, 0, 1, 0], [1, 1, 1, 0], [1, 0, 1, 0], [1, 0, 1, 0]]]
    text_only = joint_mask(Streams(**streams, text_mask=columns, image_mask=None))
    assert text_only is not None
    assert text_only.tolist() == [[1, 0, 1, 1]]
    assert joint_mask(Streams(**streams, text_mask=None, image_mask=None)) is None


def test_with_a_causal_mask_no_word_reaches_what_comes_before_it() -> None:
    model, inputs = make(SingleStreamModel), batch(words=5)
    causal = torch.ones(5, 5).tril().expand(2, -1, -1)
    ids = inputs["input_ids"].clone()
    ids[:, 3] = ids[:, 3] % 30 + 1
    first = model(**inputs, attention_mask=causal)
    second = model(**{**inputs, "input_ids": ids}, attention_mask=causal)
    assert largest_difference(first.text_output[:, :3], second.text_output[:, :3]) < 1e-6
    assert largest_difference(first.image_output, second.image_output) < 1e-6
    assert largest_difference(first.text_output[:, 3:], second.text_output[:, 3:]) > 1e-3


@pytest.mark.parametrize(("pairing", "texts", "images"), [("one_text", 1, 3), ("all", 2, 3)])
def test_pairing_equals_rows_written_out(pairing: str, texts: int, images: int) -> None:
    model, inputs = make(SingleStreamModel), batch(texts=texts, images=images)
    paired = model(**inputs, pairing=pairing)
    for row in range(texts * images):
        text, image = divmod(row, images)
        chosen = {name: value[[image if name.startswith("image") else text]] for name, value in inputs.items()}
        assert largest_difference(paired.pooled_text[row][None], model(**chosen).pooled_text) < 1e-5


def test_states_and_the_blocks_of_maps() -> None:
    output = make(SingleStreamModel)(**batch(words=5, regions=4), output_hidden_states=True, output_attentions=True)
    assert [tuple(state.shape) for state in output.text_hidden_states] == [(2, 5, 8)] * 4
    assert [tuple(state.shape) for state in output.image_hidden_states] == [(2, 4, 8)] * 4
    assert torch.equal(output.text_hidden_states[-1], output.text_output)
    assert torch.equal(output.image_hidden_states[-1], output.image_output)
    assert len(output.text_attentions) == len(output.image_attentions) == len(output.co_attentions) == 3
    for text, image, (words_at_regions, regions_at_words) in zip(
        output.text_attentions, output.image_attentions, output.co_attentions, strict=True
    ):
        assert largest_difference(text.sum(-1) + words_at_regions.sum(-1), torch.ones(2, 2, 5)) < 1e-6
        assert largest_difference(image.sum(-1) + regions_at_words.sum(-1), torch.ones(2, 2, 4)) < 1e-6


@pytest.mark.parametrize("visual_target", [0, 1, 2])
def test_losses_are_those_of_the_scores(visual_target: int) -> None:
    target_size = 4 if visual_target == 0 else 5
    model = make(SingleStreamForPreTraining, visual_target=visual_target, v_target_size=target_size)
    inputs, given = batch(), labels(2, 5, 4)
    if visual_target:
        given["image_target"] = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(2))
    output, scores = model(**inputs, **given, generator=torch.Generator().manual_seed(0)), model(**inputs)
    assert scores.loss is None
    words = torch.nn.functional.cross_entropy(scores.text_scores[:, 1], given["masked_lm_labels"][:, 1])
    pairs = torch.nn.functional.cross_entropy(scores.alignment_scores, given["next_sentence_label"])
    assert output.masked_lm.mean.item() == pytest.approx(words.item(), rel=1e-5)
    assert output.alignment.mean.item() == pytest.approx(pairs.item(), rel=1e-5)
    predicted, target = scores.image_scores[:, 1], given["image_target"][:, 0]  # region 0 is the global one
    if visual_target == 0:
        kl = (target * (target.log() - predicted.log_softmax(-1))).sum(-1).mean()
        assert output.masked_image.mean.item() == pytest.approx(kl.item(), rel=1e-5)
    if visual_target == 1:
        assert output.masked_image.mean.item() == pytest.approx((predicted - target).square().mean().item(), rel=1e-5)
    assert torch.isfinite(output.loss)
    output.loss.backward()
    lacking = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert lacking == set()


def test_losses_without_a_label_are_zero() -> None:
    given = labels(2, 5, 4)
    given["masked_lm_labels"].fill_(-1)
    given["image_label"].fill_(-1)
    given["next_sentence_label"].fill_(-1)
    assert make(SingleStreamForPreTraining)(**batch(), **given).loss.item() == 0


def test_every_head_gives_what_its_weights_say() -> None:
    model, inputs = make(SingleStreamForTasks), batch()
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    output = model(**inputs, image_attention_mask=mask, heads=(*HEADS, *PRETRAINING_SCORES))
    states = model.bert(**inputs, image_attention_mask=mask)
    expected = {
        "vil_prediction": (model.vil_prediction(states.pooled_text), (2, 6)),
        "vil_logit": (model.vil_logit(states.pooled_text), (2, 1)),
        "vil_binary_prediction": (model.cls.seq_relationship(states.pooled_text), (2, 2)),
        "vision_logit": (model.vision_logit(states.image_output) - 10000.0 * (1 - mask[..., None]), (2, 4, 1)),
        "linguisic_logit": (model.linguisic_logit(states.text_output), (2, 5, 1)),
        "vision_prediction": (model.cls.imagePredictions(states.image_output), (2, 4, 4)),
        "linguisic_prediction": (model.cls.predictions(states.text_output), (2, 5, 31)),
    }
    assert set(output.keys()) == set(expected)
    for name, (numbers, shape) in expected.items():
        assert output[name].shape == shape
        assert largest_difference(output[name], numbers) < 1e-5
    assert set(model(**inputs).keys()) == set(HEADS)
    with pytest.raises(ValueError, match="no head vil_tri_prediction; the heads are vil_prediction"):
        model(**inputs, heads=["vil_tri_prediction"])


def test_inputs_that_do_not_fit_are_refused() -> None:
    model, inputs = make(SingleStreamModel), batch()
    with pytest.raises(ValueError, match="no task tokens"):
        model(**inputs, task_ids=torch.tensor([[1], [1]]))
    with pytest.raises(ValueError, match="25 word pieces: the model has 24 positions"):
        model(**batch(words=25))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"type_vocab_size": 1}, "type_vocab_size 1"),
        ({"hidden_size": 9}, "hidden_size 9 .* num_attention_heads 2"),
        ({"visual_target": 1}, "visual_target 1 .*v_target_size"),
        ({"visual_target": 3}, "visual_target.*3"),
        ({"hidden_size": "8"}, "hidden_size.*int"),
    ],
)
def test_a_bad_value_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception, match=f"(?s){message}"):  # the strict config's own types of error
        SingleStreamConfig(**{**SIZES, **changes})


def test_an_unknown_preset_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=f"no single-stream configuration 'bert'; choose one of {', '.join(PRESETS)}"):
        single_stream_preset("bert")


def test_the_auto_classes_read_what_was_saved(tmp_path: Path) -> None:
    model = make(SingleStreamModel)
    model.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is SingleStreamConfig
    read = AutoModel.from_pretrained(tmp_path).eval()
    assert type(read) is SingleStreamModel
    assert torch.equal(read(**batch()).pooled_text, model(**batch()).pooled_text)


def test_gradients_do_not_depend_on_checkpointing() -> None:
    gradients = []
    for checkpointing in (False, True):
        model = make(SingleStreamForPreTraining, hidden_dropout_prob=0, attention_probs_dropout_prob=0).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(**batch(), **labels(2, 5, 4)).loss.backward()
        gradients.append(model.bert.encoder.layer[0].attention.self.query.weight.grad)
    assert largest_difference(gradients[0], gradients[1]) < 1e-6
    assert gradients[0].abs().max() > 0
