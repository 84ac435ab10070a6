"""The paper's single-stream baseline: one BERT over the words followed by the regions (`basebert.py` of vilbert_beta).

Interface and outputs are those of the two-stream model, so that both use the same training and evaluation. Differences:

- one stream: `text_output` is its first T positions, `image_output` its last R, both `hidden_size` wide;
- one pooled vector, tanh of a dense layer on [CLS]: `pooled_text` holds it, `pooled_image` is None, nothing is fused;
- one attention map per layer, returned as four blocks: words to words, regions to regions and, as `co_attentions`,
  words to regions and regions to words. The rows of a text block and its co-attention block together sum to 1.

Parameter names are the published ones. The published pre-training code, which could not run, is corrected; position 0
and token type 0, which received no gradient there, are trained.

Shapes: B batch, T words, R regions with the global one at 0, L = T + R, H width.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForPreTraining
from transformers.utils.generic import can_return_tuple

from vilbert.model.attention import scores_mask, seen_by_all
from vilbert.model.config import ViLBertConfig
from vilbert.model.embeddings import ImageEmbeddings, TextEmbeddings
from vilbert.model.heads import BetaClassifier, RegionHead, WordHead
from vilbert.model.inputs import check_inputs, check_labels
from vilbert.model.layers import StreamLayer, text_sizes
from vilbert.model.operators import Dropout, Linear
from vilbert.model.outputs import ViLBertForPreTrainingOutput, ViLBertForTasksOutput, ViLBertModelOutput, kept_of
from vilbert.model.pairs import Pairing, Streams, pair
from vilbert.model.pretraining import Labels, RegionTarget, losses_and_scores
from vilbert.model.single_stream_config import SingleStreamConfig
from vilbert.model.tasks import PRETRAINING_SCORES, TASK_HEADS, lower_masked_regions, require_heads
from vilbert.model.vilbert import ViLBertPreTrainedModel, WithWordHead

HEADS = TASK_HEADS["beta"]  # the heads of the repository that the baseline comes from


class TypedImageEmbeddings(ImageEmbeddings):
    """Embed regions with a token type that distinguishes them from words."""

    def __init__(self, config: ViLBertConfig) -> None:
        super().__init__(config)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.v_hidden_size)

    def forward(self, image_feat_BRF: Tensor, image_loc_BR5: Tensor) -> Tensor:
        """Return [B, R, H] of features and (x1, y1, x2, y2, area), all fractions of the image."""
        embeddings = self.image_embeddings(image_feat_BRF) + self.image_location_embeddings(image_loc_BR5)
        return self.dropout(self.LayerNorm(embeddings + self.token_type_embeddings.weight[1]))


class Encoder(nn.Module):
    """The layers, under their published name."""

    def __init__(self, config: ViLBertConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(StreamLayer(text_sizes(config)) for _ in range(config.num_hidden_layers))


class TanhPooler(nn.Module):
    """BERT's own pooler."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = Linear(width, width)

    def forward(self, states_BLH: Tensor) -> Tensor:
        return torch.tanh(self.dense(states_BLH[:, 0]))


class SingleStreamHeads(nn.Module):
    """Masked words, masked regions, and alignment (without dropout, as published)."""

    def __init__(self, config: ViLBertConfig) -> None:
        super().__init__()
        self.predictions = WordHead(config)
        self.seq_relationship = Linear(config.hidden_size, 2)
        self.imagePredictions = RegionHead(config)

    def alignment(self, fused_BA: Tensor) -> Tensor:
        """Return scores [B, 2]: class 0 says that text and image match."""
        return self.seq_relationship(fused_BA)


def joint_mask(streams: Streams) -> Tensor | None:
    """Return the joint mask [B, L] or [B, L, L] of words followed by regions, or None if nothing is masked.

    If the mask differs between words (or regions), the other side attends to the positions that all of them attend to,
    as between two streams: no information flows from a later word to an earlier one through the regions.
    """
    text, image = streams.text_mask, streams.image_mask
    if text is None and image is None:
        return None
    words, regions = streams.text.shape[:2], streams.image.shape[:2]
    text = torch.ones(words, device=streams.text.device) if text is None else text
    image = torch.ones(regions, device=streams.image.device) if image is None else image
    if text.dim() == image.dim() == 2:
        return torch.cat([text, image.to(text.dtype)], dim=1)
    return torch.cat([_rows(text, image, words[1]), _rows(image, text, regions[1]).roll(words[1], -1)], dim=1)


def _rows(own: Tensor, other: Tensor, length: int) -> Tensor:
    """Return the mask rows [B, length, L] of one side: its own positions first, then those of the other side."""
    own = own if own.dim() == 3 else own[:, None].expand(-1, length, -1)
    seen = seen_by_all(other)
    assert seen is not None
    return torch.cat([own, seen[:, None].expand(-1, length, -1).to(own.dtype)], dim=2)


class SingleStreamModel(ViLBertPreTrainedModel):
    """The one stream without heads."""

    config: SingleStreamConfig  # type: ignore[assignment] # the base class needs of it only what both have
    config_class = SingleStreamConfig  # type: ignore[assignment] # likewise

    def __init__(self, config: SingleStreamConfig) -> None:
        super().__init__(config)
        sizes = config.as_two_streams()
        self.image_embeddings = TypedImageEmbeddings(sizes)
        self.embeddings = TextEmbeddings(sizes)
        self.encoder = Encoder(sizes)
        self.pooler = TanhPooler(config.hidden_size)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        image_feat: Tensor | None = None,
        image_loc: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_attention_mask: Tensor | None = None,
        task_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        pairing: Pairing = "rows",
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> ViLBertModelOutput:
        """Encode texts and images; the arguments are those of `ViLBertModel`, without task tokens.

        Rows are paired before the first layer, so that pairs share no computation.

        Raises:
            ValueError: The inputs do not match the model or each other, or task_ids are given.
        """
        states = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        maps = self.config.output_attentions if output_attentions is None else output_attentions
        check_inputs(
            input_ids,
            inputs_embeds,
            image_feat,
            image_loc,
            task_ids,
            features=self.config.v_feature_size,
            longest=self.config.max_position_embeddings,
            task_tokens=False,
        )
        streams = Streams(
            text=self.embeddings(input_ids, token_type_ids, None, inputs_embeds),
            image=self.image_embeddings(image_feat, image_loc),
            text_mask=attention_mask,
            image_mask=image_attention_mask,
        )
        streams = pair(streams, pairing)
        eager = bool(maps) or self.config._attn_implementation == "eager"
        after, seen = self._encode(streams, eager=eager)
        words = streams.text.shape[1]
        return ViLBertModelOutput(
            text_output=after[-1][:, :words],
            image_output=after[-1][:, words:],
            pooled_text=self.pooler(after[-1]),
            text_hidden_states=tuple(layer[:, :words] for layer in after) if states else None,
            image_hidden_states=tuple(layer[:, words:] for layer in after) if states else None,
            text_attentions=tuple(layer[:, :, :words, :words] for layer in seen) if maps else None,
            image_attentions=tuple(layer[:, :, words:, words:] for layer in seen) if maps else None,
            co_attentions=tuple((layer[:, :, :words, words:], layer[:, :, words:, :words]) for layer in seen)
            if maps
            else None,
        )

    def _encode(self, streams: Streams, *, eager: bool) -> tuple[list[Tensor], list[Tensor]]:
        """Return the embeddings, the states [B, L, H] after each layer and, if eager, the maps [B, N, L, L]."""
        states = [torch.cat([streams.text, streams.image], dim=1)]
        maps: list[Tensor] = []
        mask = scores_mask(joint_mask(streams), states[0].dtype)
        for layer in self.encoder.layer:
            after, seen = layer(states[-1], mask, eager=eager)
            states.append(after)
            maps += [seen] if eager else []
        return states, maps


class SingleStreamForPreTraining(WithWordHead):
    """The baseline with the heads of the three pre-training tasks."""

    config: SingleStreamConfig  # type: ignore[assignment] # the base class needs of it only what both have
    config_class = SingleStreamConfig  # type: ignore[assignment] # likewise

    def __init__(self, config: SingleStreamConfig) -> None:
        super().__init__(config)
        self.bert = SingleStreamModel(config)
        self.cls = SingleStreamHeads(config.as_two_streams())
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        image_feat: Tensor | None = None,
        image_loc: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_attention_mask: Tensor | None = None,
        masked_lm_labels: Tensor | None = None,
        image_label: Tensor | None = None,
        image_target: Tensor | None = None,
        next_sentence_label: Tensor | None = None,
        task_ids: Tensor | None = None,
        generator: torch.Generator | None = None,
        **kwargs: Any,
    ) -> ViLBertForPreTrainingOutput:
        """Return the losses of heads with labels and the scores of the others, as `ViLBertForPreTraining` does."""
        check_labels(
            input_ids if input_ids is not None else kwargs.get("inputs_embeds"),
            image_feat,
            masked_lm_labels,
            image_label,
            image_target,
            targets=self.config.v_target_size,
            pairing=kwargs.get("pairing", "rows"),
        )
        encoded: ViLBertModelOutput = self.bert(
            input_ids,
            image_feat,
            image_loc,
            token_type_ids,
            attention_mask,
            image_attention_mask,
            task_ids,
            **{**kwargs, "return_dict": True},
        )
        labels = Labels(
            masked_lm=masked_lm_labels, image=image_label, image_target=image_target, alignment=next_sentence_label
        )
        target = RegionTarget(
            kind=self.config.visual_target, num_negative=self.config.num_negative, generator=generator
        )
        fields = losses_and_scores(
            self.cls, encoded.text_output, encoded.image_output, encoded.pooled_text, labels, target
        )
        return ViLBertForPreTrainingOutput(**fields, **kept_of(encoded))


class SingleStreamForTasks(WithWordHead):
    """The baseline with its task heads, and the pre-training heads that its files contain."""

    config: SingleStreamConfig  # type: ignore[assignment] # the base class needs of it only what both have
    config_class = SingleStreamConfig  # type: ignore[assignment] # likewise

    def __init__(self, config: SingleStreamConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.bert = SingleStreamModel(config)
        self.dropout = Dropout(config.pooled_dropout_prob)
        self.cls = SingleStreamHeads(config.as_two_streams())
        self.vil_prediction = BetaClassifier(width, 2 * width, config.num_answers)
        self.vil_logit = Linear(width, 1)
        self.vision_logit = Linear(width, 1)
        self.linguisic_logit = Linear(width, 1)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        image_feat: Tensor | None = None,
        image_loc: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_attention_mask: Tensor | None = None,
        task_ids: Tensor | None = None,
        heads: Collection[str] | None = None,
        **kwargs: Any,
    ) -> ViLBertForTasksOutput:
        """Return the outputs of the requested heads, as `ViLBertForTasks` does with the heads of "beta"."""
        chosen = HEADS if heads is None else heads
        require_heads(chosen, (*HEADS, *PRETRAINING_SCORES))
        encoded: ViLBertModelOutput = self.bert(
            input_ids,
            image_feat,
            image_loc,
            token_type_ids,
            attention_mask,
            image_attention_mask,
            task_ids,
            **{**kwargs, "return_dict": True},
        )
        outputs: dict[str, Any] = {name: self._head(name, encoded, image_attention_mask) for name in chosen}
        return ViLBertForTasksOutput(**outputs, **kept_of(encoded))

    def _head(self, name: str, encoded: ViLBertModelOutput, image_mask: Tensor | None) -> Tensor:
        if name == "linguisic_prediction":
            return self.cls.predictions(encoded.text_output)
        if name == "vision_prediction":
            return self.cls.imagePredictions(encoded.image_output)
        if name == "linguisic_logit":
            return self.linguisic_logit(self.dropout(encoded.text_output))
        if name == "vision_logit":
            return lower_masked_regions(self.vision_logit(self.dropout(encoded.image_output)), image_mask)
        if name == "vil_binary_prediction":
            return self.cls.alignment(encoded.pooled_text)
        head: nn.Module = getattr(self, name)
        return head(encoded.pooled_text)  # no dropout on the pooled vector, as published


AutoConfig.register(SingleStreamConfig.model_type, SingleStreamConfig, exist_ok=True)
AutoModel.register(SingleStreamConfig, SingleStreamModel, exist_ok=True)
AutoModelForPreTraining.register(SingleStreamConfig, SingleStreamForPreTraining, exist_ok=True)
