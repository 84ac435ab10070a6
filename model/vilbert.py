"""ViLBERT (Lu et al., NeurIPS 2019): the two-stream model, with its pre-training heads and with its task heads.

Parameter names and numbers are those of the published code: jiasenlu/vilbert_beta, facebookresearch/vilbert-multi-task.

Shapes: B batch, T words, R regions with the global one at 0, F features of a region.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForPreTraining, PreTrainedModel
from transformers import initialization as init
from transformers.utils.generic import can_return_tuple

from model.attention import MASKED_SCORE, seen_by_all
from model.config import ViLBertConfig
from model.embeddings import ImageEmbeddings, TextEmbeddings
from model.encoder import Encoder, Kept, Trace
from model.heads import POOLED_DROPOUT, BetaClassifier, Classifier, Pooler, PreTrainingHeads, WeightNormLinear, fuse
from model.inputs import check_inputs
from model.outputs import ViLBertForPreTrainingOutput, ViLBertForTasksOutput, ViLBertModelOutput
from model.packing import computed_positions, wanted_positions
from model.pairs import Pairing, Streams
from model.pretraining import Heads, Labels, RegionTarget, losses_and_scores

PRETRAINING_SCORES = ("vision_prediction", "linguisic_prediction")
TASK_HEADS = {
    "beta": ("vil_prediction", "vil_logit", "vil_binary_prediction", "vision_logit", "linguisic_logit"),
    "multitask": (
        "vil_prediction",
        "vil_prediction_gqa",
        "vil_logit",
        "vil_binary_prediction",
        "vil_tri_prediction",
        "vision_logit",
        "linguisic_logit",
    ),
}


class ViLBertPreTrainedModel(PreTrainedModel):
    """What all ViLBERT models share: how weights start, what may be tied, and what transformers may do with them."""

    config: ViLBertConfig
    config_class = ViLBertConfig
    base_model_prefix = "bert"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["StreamLayer", "ConnectionLayer", "TextEmbeddings", "ImageEmbeddings"]  # noqa: RUF012 (inherited name)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Draw the weights the reference starts from; the padding word's row is drawn too, as there."""
        if isinstance(module, nn.Embedding):
            init.normal_(module.weight, mean=0.0, std=self.config.initializer_range)
        elif isinstance(module, WeightNormLinear):
            init.kaiming_uniform_(module.weight_v, a=5**0.5)
            init.copy_(module.weight_g, module.weight_v.norm())
            init.zeros_(module.bias)
        else:
            super()._init_weights(module)
            bias = getattr(module, "bias", None)
            if isinstance(bias, nn.Parameter):
                init.zeros_(bias)


def _kept(trace: Trace, *, states: bool, maps: bool) -> dict[str, Any]:
    """Return the fields of an output that hold states and maps."""
    return {
        "text_hidden_states": tuple(trace.text_states) if states else None,
        "image_hidden_states": tuple(trace.image_states) if states else None,
        "text_attentions": tuple(trace.text_maps) if maps else None,
        "image_attentions": tuple(trace.image_maps) if maps else None,
        "co_attentions": tuple(trace.co_maps) if maps else None,
    }


def kept_of(encoded: ViLBertModelOutput) -> dict[str, Any]:
    """Hand on the states and maps that the two streams kept."""
    return {name: getattr(encoded, name) for name in _kept(Trace(), states=False, maps=False)}


def _with_task_token(mask: Tensor | None) -> Tensor | None:
    """Make room behind [CLS] in a mask [B, T] or [B, T, T] for a task token that all words see."""
    if mask is None:
        return None
    mask = torch.cat([torch.ones_like(mask[..., :1]), mask], dim=-1)
    return mask if mask.dim() == 2 else torch.cat([mask[:, :1], mask], dim=1)


def _with_task_label(labels_BT: Tensor) -> Tensor:
    """Make room behind [CLS] in masked words' labels: the task token has none."""
    return torch.cat([labels_BT[:, :1], torch.full_like(labels_BT[:, :1], -1), labels_BT[:, 1:]], dim=1)


class ViLBertModel(ViLBertPreTrainedModel):
    """The two streams without heads."""

    def __init__(self, config: ViLBertConfig) -> None:
        super().__init__(config)
        self.embeddings = TextEmbeddings(config)
        self.v_embeddings = ImageEmbeddings(config)
        self.encoder = Encoder(config)
        self.t_pooler = Pooler(config.hidden_size, config.bi_hidden_size)
        self.v_pooler = Pooler(config.v_hidden_size, config.bi_hidden_size)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the embedding of word pieces."""
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Put another embedding of word pieces in place."""
        self.embeddings.word_embeddings = value  # type: ignore[assignment] # the base class allows any module

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
        wanted_words: Tensor | None = None,
        wanted_regions: Tensor | None = None,
    ) -> ViLBertModelOutput:
        """Encode texts and images.

        input_ids: [B, T] int64, or inputs_embeds [B, T, H] in their place. image_feat: [B, R, F], region 0 the global
        one. image_loc: [B, R, 5] (x1, y1, x2, y2, area), fractions of the image. Masks are 1 where seen, 0 where not:
        [B, T] and [B, R], or one row for each position, [B, T, T] and [B, R, R]; then the other stream sees what every
        position sees. task_ids: [B, 1] where the model has task tokens. pairing: "rows", "one_text" (B = 1 for many
        images) or "all" (row text x images + image; every output then has that many rows). Attention maps are computed
        by the eager path whichever is set. wanted_words, wanted_regions: [B, T] and [B, R] bool, the positions whose
        last states are read, by default all; others but the first come out zero, and what only they need is not
        computed (`model.packing`). Raises ValueError where the inputs do not fit the model or one another.
        """
        states = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        maps = self.config.output_attentions if output_attentions is None else output_attentions
        partial = wanted_words is not None or wanted_regions is not None
        if partial and (states or maps or pairing != "rows"):
            raise ValueError("wanted_words and wanted_regions go with no hidden states, attention maps or pairing")
        check_inputs(
            input_ids,
            inputs_embeds,
            image_feat,
            image_loc,
            task_ids,
            features=self.config.v_feature_size,
            longest=self.longest_text,
            task_tokens=self.config.task_specific_tokens,
        )
        text = self.embeddings(input_ids, token_type_ids, task_ids, inputs_embeds)
        text_mask = attention_mask if task_ids is None else _with_task_token(attention_mask)
        packing = None
        if wanted_words is not None and text_mask is not None and text_mask.dim() == 2:
            packing = computed_positions(wanted_words, text_mask)
        kept = Kept(
            text=None if wanted_words is None else wanted_positions(wanted_words),
            image=None if wanted_regions is None else wanted_positions(wanted_regions),
        )
        streams = Streams(
            text=text if packing is None else packing.pack(text),
            image=self.v_embeddings(image_feat, image_loc),
            text_mask=text_mask,
            image_mask=image_attention_mask,
            packing=packing,
        )
        eager = bool(maps) or self.config._attn_implementation == "eager"
        streams, trace = self.encoder(streams, pairing=pairing, eager=eager, keep_states=bool(states), kept=kept)
        text = streams.text if kept.text is None else kept.text.unpack(streams.text)
        image = streams.image if kept.image is None else kept.image.unpack(streams.image)
        return ViLBertModelOutput(
            text_output=text,
            image_output=image,
            pooled_text=self.t_pooler(text),
            pooled_image=self.v_pooler(image),
            **_kept(trace, states=bool(states), maps=bool(maps)),
        )

    @property
    def longest_text(self) -> int:
        """Word pieces that there are positions for: RoBERTa's begin behind those of padding."""
        positions = self.config.max_position_embeddings
        return positions - self.embeddings.pad_token_id - 1 if self.embeddings.roberta_positions else positions


def lower_masked_regions(logits_BR1: Tensor, image_mask: Tensor | None) -> Tensor:
    """Lower the logits of masked regions by 10000; the mask, [C, R] or [C, R, R], is one image's or repeats in B."""
    seen = seen_by_all(image_mask)
    if seen is None:
        return logits_BR1
    rows = seen.expand(len(logits_BR1), -1) if len(seen) == 1 else seen.repeat(len(logits_BR1) // len(seen), 1)
    return logits_BR1 + ((1.0 - rows.to(logits_BR1.dtype)) * MASKED_SCORE)[..., None]


def require_heads(names: Collection[str], there: Collection[str]) -> None:
    """Raise ValueError naming the heads that are not there."""
    unknown = sorted(set(names) - set(there))
    if unknown:
        raise ValueError(f"no head {', '.join(unknown)}; there are {', '.join(there)}")


class WithWordHead(ViLBertPreTrainedModel):
    """A model with the pre-training heads, whose word decoder is tied to the embeddings."""

    _tied_weights_keys = {"cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight"}  # noqa: RUF012 (inherited name)
    bert: PreTrainedModel
    cls: Heads

    def get_output_embeddings(self) -> nn.Module:
        """Return the decoder of masked words."""
        return self.cls.predictions.decoder

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Put another decoder in place; the bias, which is none of its own, grows with zeros or is cut."""
        self.cls.predictions.decoder = new_embeddings
        old, size = self.cls.predictions.bias, new_embeddings.weight.shape[0]
        if len(old) != size:
            bias = old.new_zeros(size)
            bias[: len(old)] = old.detach()[:size]
            self.cls.predictions.bias = nn.Parameter(bias)


class ViLBertForPreTraining(WithWordHead):
    """ViLBERT with the heads of its three pre-training tasks."""

    def __init__(self, config: ViLBertConfig) -> None:
        super().__init__(config)
        self.bert = ViLBertModel(config)
        self.cls = PreTrainingHeads(config)
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
        """Return the losses of what has labels and the scores of what has none.

        The first six arguments, and pairing, output_hidden_states and output_attentions, are those of `ViLBertModel`.
        masked_lm_labels: [B, T] the word piece behind each mask, -1 elsewhere. image_label: [B, R - 1] 1 where a region
        is masked, of all but the global one; image_target: [B, R - 1, v_target_size] the detector's class
        probabilities, or the unmasked features where `visual_target` is not 0. next_sentence_label: [B] 0 where text
        and image match, 1 where not. generator: draws the negatives where `visual_target` is 2.
        """
        if masked_lm_labels is not None and self.config.task_specific_tokens:
            masked_lm_labels = _with_task_label(masked_lm_labels)
        if kwargs.keys() <= {"inputs_embeds"}:
            kwargs |= self._wanted(masked_lm_labels, image_label, image_target)
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
        fields = losses_and_scores(
            self.cls,
            encoded.text_output,
            encoded.image_output,
            fuse(encoded.pooled_text, encoded.pooled_image, self.config.fusion_method),
            Labels(
                masked_lm=masked_lm_labels,
                image=image_label,
                image_target=image_target,
                alignment=next_sentence_label,
            ),
            RegionTarget(kind=self.config.visual_target, num_negative=self.config.num_negative, generator=generator),
        )
        return ViLBertForPreTrainingOutput(**fields, **kept_of(encoded))

    def _wanted(
        self, labels_BT: Tensor | None, image_label_BR: Tensor | None, image_target: Tensor | None
    ) -> dict[str, Tensor | None]:
        """Return which last states the losses read, where that is all that is asked for."""
        if self.config.output_hidden_states or self.config.output_attentions or torch.compiler.is_compiling():
            return {}  # how many positions there are is data, for which a compiled graph would have to break
        regions = None
        if image_label_BR is not None and image_target is not None:
            regions = F.pad(image_label_BR == 1, (1, 0))  # the global region has no label
        return {"wanted_words": None if labels_BT is None else labels_BT >= 0, "wanted_regions": regions}


class ViLBertForTasks(WithWordHead):
    """ViLBERT with the task heads of either repository (`task_heads`), and the pre-training heads their files carry."""

    def __init__(self, config: ViLBertConfig) -> None:
        super().__init__(config)
        pooled = config.bi_hidden_size
        self.bert = ViLBertModel(config)
        self.dropout = nn.Dropout(POOLED_DROPOUT)
        self.cls = PreTrainingHeads(config)
        if config.task_heads == "beta":
            self.vil_prediction: nn.Module = BetaClassifier(pooled, 2 * pooled, config.num_answers)
        else:
            eps = config.layer_norm_eps
            self.vil_prediction = Classifier(pooled, 2 * pooled, config.num_answers, eps)
            self.vil_prediction_gqa = Classifier(pooled, 2 * pooled, config.num_gqa_answers, eps)
            self.vil_binary_prediction = Classifier(2 * pooled, 2 * pooled, 2, eps)
            self.vil_tri_prediction = nn.Linear(pooled, 3)
        self.vil_logit = nn.Linear(pooled, 1)
        self.vision_logit = nn.Linear(config.v_hidden_size, 1)
        self.linguisic_logit = nn.Linear(config.hidden_size, 1)
        self.post_init()

    def _chosen(self, heads: Collection[str] | None, batch: int) -> Collection[str]:
        """Return the heads to run: by default all task heads that the batch allows."""
        there = TASK_HEADS[self.config.task_heads]
        paired = self.config.task_heads == "multitask" and batch % 2 == 1
        if heads is None:
            return [name for name in there if not (paired and name == "vil_binary_prediction")]
        require_heads(heads, (*there, *PRETRAINING_SCORES))
        if paired and "vil_binary_prediction" in heads:
            raise ValueError(f"vil_binary_prediction takes rows two by two: an even batch, not {batch}")
        return heads

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
        """Return the outputs of the heads that were asked for; the other arguments are those of `ViLBertModel`.

        heads: by default all task heads, without `vision_prediction` and `linguisic_prediction`, the costly
        pre-training scores. vil_prediction [B, num_answers], vil_prediction_gqa [B, num_gqa_answers], vil_logit [B, 1],
        vil_tri_prediction [B, 3], vil_binary_prediction [B, 2] of the alignment head (beta) or [B / 2, 2] of rows
        2i and 2i + 1 (multitask; not with an odd batch), vision_logit [B, R, 1] with masked regions at -10000 more,
        linguisic_logit [B, T, 1]. Raises ValueError naming a head there is not.
        """
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
        text, image = encoded.text_output, encoded.image_output
        both = fuse(encoded.pooled_text, encoded.pooled_image, self.config.fusion_method)
        chosen = self._chosen(heads, len(both))
        fused = self.dropout(both)
        outputs: dict[str, Any] = {
            name: self._head(name, fused, both, text, image, image_attention_mask) for name in chosen
        }
        return ViLBertForTasksOutput(**outputs, **kept_of(encoded))

    def _head(
        self, name: str, fused_BA: Tensor, both_BA: Tensor, text: Tensor, image: Tensor, image_mask: Tensor | None
    ) -> Tensor:
        if name == "linguisic_prediction":
            return self.cls.predictions(text)
        if name == "vision_prediction":
            return self.cls.imagePredictions(image)
        if name == "linguisic_logit":
            return self.linguisic_logit(self.dropout(text))
        if name == "vision_logit":
            return lower_masked_regions(self.vision_logit(self.dropout(image)), image_mask)
        if name == "vil_binary_prediction":
            if self.config.task_heads == "beta":
                return self.cls.alignment(both_BA)  # with a dropout of its own, as in pre-training
            return self.vil_binary_prediction(fused_BA.view(-1, 2 * fused_BA.shape[-1]))
        head: nn.Module = getattr(self, name)
        return head(fused_BA)


AutoConfig.register(ViLBertConfig.model_type, ViLBertConfig, exist_ok=True)
AutoModel.register(ViLBertConfig, ViLBertModel, exist_ok=True)
AutoModelForPreTraining.register(ViLBertConfig, ViLBertForPreTraining, exist_ok=True)
