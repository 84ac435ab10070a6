"""ViLBERT (Lu et al., NeurIPS 2019): the two-stream model, without heads and with its pre-training heads (tasks:
`vilbert.model.tasks`).

Parameter names and results are those of the published code: jiasenlu/vilbert_beta, facebookresearch/vilbert-multi-task.

Shapes: B batch, T words, R regions with the global one at 0, F features of a region.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForPreTraining, PreTrainedModel
from transformers import initialization as init
from transformers.utils.generic import can_return_tuple

from vilbert.model.config import ViLBertConfig
from vilbert.model.embeddings import ImageEmbeddings, LocationEmbeddings, TextEmbeddings
from vilbert.model.encoder import Encoder, Kept, Trace
from vilbert.model.heads import Pooler, PreTrainingHeads, WeightNormLinear, fuse
from vilbert.model.inputs import check_inputs, check_labels, require_positions
from vilbert.model.layers import BiOutput
from vilbert.model.outputs import ViLBertForPreTrainingOutput, ViLBertModelOutput, kept_of
from vilbert.model.packing import Positions, packed, stream_packing, stream_packing_at, unpacked
from vilbert.model.pairs import Pairing, Streams
from vilbert.model.pretraining import Heads, Labels, RegionTarget, losses_and_scores


class ViLBertPreTrainedModel(PreTrainedModel):
    """Base class of all ViLBERT models: weight initialisation, tied weights, and support for transformers' features."""

    config: ViLBertConfig
    config_class = ViLBertConfig
    base_model_prefix = "bert"
    main_input_name = "input_ids"
    _input_embed_layer = "word_embeddings"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["StreamLayer", "ConnectionLayer", "TextEmbeddings", "ImageEmbeddings"]  # noqa: RUF012 (inherited name)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load as transformers does, from safetensors, and freeze the frozen parameters again.

        Loading replaces all parameters. Use `load_checkpoint` for a `pytorch_model.bin`.
        """
        kwargs.setdefault("use_safetensors", True)
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded  # with output_loading_info
        for module in model.modules():
            if isinstance(module, BiOutput):
                module.freeze_unused()
            elif isinstance(module, ViLBertModel):
                module.freeze_layers()
        return loaded

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise weights as the reference does, which also initialises the row of the padding token."""
        if isinstance(module, nn.Embedding):
            init.normal_(module.weight, mean=0.0, std=self.config.initializer_range)
        elif isinstance(module, WeightNormLinear):
            init.kaiming_uniform_(module.weight_v, a=5**0.5)
            init.copy_(module.weight_g, module.weight_v.norm())
            init.zeros_(module.bias)
        elif isinstance(module, LocationEmbeddings):
            init.normal_(module.weight, std=module.initializer_range)
            init.zeros_(module.bias)
        else:
            super()._init_weights(module)
            bias = getattr(module, "bias", None)
            if isinstance(bias, nn.Parameter):
                init.zeros_(bias)


def with_task_token(mask: Tensor | None) -> Tensor | None:
    """Insert a task token, to which all words attend, after [CLS] into a mask [B, T] or [B, T, T]."""
    if mask is None:
        return None
    mask = torch.cat([torch.ones_like(mask[..., :1]), mask], dim=-1)
    return mask if mask.dim() == 2 else torch.cat([mask[:, :1], mask], dim=1)


def _with_task_label(labels_BT: Tensor) -> Tensor:
    """Insert the label of a task token, -1, after [CLS] into the labels of masked words."""
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
        self.freeze_layers()
        self.post_init()

    def freeze_layers(self) -> None:
        """Freeze the first `fixed_t_layer` text and `fixed_v_layer` visual layers, and the embeddings below them.

        They run without gradients and are excluded from the optimizer and DDP. The word embeddings stay trainable
        because the decoder of masked words is tied to them.
        """
        embeddings: list[tuple[int, nn.Module]] = [
            (self.config.fixed_t_layer, self.embeddings),
            (self.config.fixed_v_layer, self.v_embeddings),
        ]
        frozen = [module for fixed, module in embeddings if fixed]
        frozen += [*self.encoder.layer[: self.config.fixed_t_layer], *self.encoder.v_layer[: self.config.fixed_v_layer]]
        for parameter in (parameter for module in frozen for parameter in module.parameters()):
            if parameter is not self.embeddings.word_embeddings.weight:
                parameter.requires_grad_(False)

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
        positions: Positions | None = None,
    ) -> ViLBertModelOutput:
        """Encode texts and images.

        Args:
            input_ids: int64 [B, T]; or `inputs_embeds` [B, T, H] instead.
            image_feat: [B, R, F]; region 0 is the whole image.
            image_loc: [B, R, 5] (x1, y1, x2, y2, area) as fractions of the image.
            token_type_ids: int64 [B, T]; 0 by default.
            attention_mask: 1 for a position to attend to, 0 for a masked one: [B, T], or [B, T, T] with a row per
                query. The image stream then attends to the words that every query attends to.
            image_attention_mask: The same for regions, [B, R] or [B, R, R].
            task_ids: int64 [B, 1], required by a model with task tokens.
            inputs_embeds: [B, T, H].
            pairing: `rows`; `one_text` (B = 1 for many images); or `all`: each text with each image, in row
                text * images + image of the output.
            output_hidden_states: Whether to return the states of each layer.
            output_attentions: Whether to return attention maps. They are computed by the eager implementation.
            wanted_words: bool [B, T] (T + 1 with a task token), the positions whose last states are used; all by
                default. The first is always computed, the others are zero in the output, and what only they depend on
                is not computed (`vilbert.model.packing`).
            wanted_regions: The same for regions, bool [B, R].
            positions: The same for both streams, computed on the CPU in advance so that a GPU is not synchronised.

        Raises:
            ValueError: The inputs do not match the model or each other.
        """
        states = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        maps = self.config.output_attentions if output_attentions is None else output_attentions
        partial = wanted_words is not None or wanted_regions is not None or positions is not None
        if partial and (states or maps or pairing != "rows"):
            raise ValueError("wanted_words and wanted_regions cannot be combined with hidden states, maps or pairing")
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
        assert image_feat is not None  # check_inputs
        assert image_loc is not None
        text = self.embeddings(input_ids, token_type_ids, task_ids, inputs_embeds)
        text_mask = attention_mask if task_ids is None else with_task_token(attention_mask)
        require_positions(wanted_words, text, "wanted_words")
        require_positions(wanted_regions, image_feat, "wanted_regions")
        if positions is None:
            words = stream_packing(wanted_words, text_mask)
            regions = stream_packing(wanted_regions, image_attention_mask)
        else:
            words = stream_packing_at(positions.words, positions.last_words, text)
            regions = stream_packing_at(positions.regions, positions.last_regions, image_feat)
        streams = Streams(
            text=packed(text, words.computed),
            image=self.v_embeddings(packed(image_feat, regions.computed), packed(image_loc, regions.computed)),
            text_mask=text_mask,
            image_mask=image_attention_mask,
            text_packing=words.computed,
            image_packing=regions.computed,
        )
        eager = bool(maps) or self.config._attn_implementation == "eager"
        kept = Kept(text=words.last, image=regions.last)
        streams, trace = self.encoder(streams, pairing=pairing, eager=eager, keep_states=bool(states), kept=kept)
        return self._output(streams, trace, kept, states=bool(states), maps=bool(maps))

    def _output(self, streams: Streams, trace: Trace, kept: Kept, *, states: bool, maps: bool) -> ViLBertModelOutput:
        """Return the unpacked last states, the pooled vectors, and the states and maps of each layer if requested."""
        text = unpacked(streams.text, kept.text)
        image = unpacked(streams.image, kept.image)
        return ViLBertModelOutput(
            text_output=text,
            image_output=image,
            pooled_text=self.t_pooler(text),
            pooled_image=self.v_pooler(image),
            text_hidden_states=tuple(trace.text_states) if states else None,
            image_hidden_states=tuple(trace.image_states) if states else None,
            text_attentions=tuple(trace.text_maps) if maps else None,
            image_attentions=tuple(trace.image_maps) if maps else None,
            co_attentions=tuple(trace.co_maps) if maps else None,
        )

    @property
    def longest_text(self) -> int:
        """Maximum number of word pieces. RoBERTa's positions start after that of the padding token."""
        positions = self.config.max_position_embeddings
        return positions - self.embeddings.pad_token_id - 1 if self.embeddings.roberta_positions else positions


class WithWordHead(ViLBertPreTrainedModel):
    """A model with the pre-training heads, whose word decoder is tied to the embeddings."""

    _tied_weights_keys = {"cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight"}  # noqa: RUF012 (inherited name)
    bert: PreTrainedModel
    cls: Heads

    def get_output_embeddings(self) -> nn.Module:
        """Return the decoder of masked words."""
        return self.cls.predictions.decoder

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replace the decoder; the shared bias is padded with zeros or truncated."""
        self.cls.predictions.decoder = new_embeddings
        old, size = self.cls.predictions.bias, new_embeddings.weight.shape[0]
        if len(old) != size:
            bias = old.new_zeros(size)
            bias[: len(old)] = old.detach()[:size]
            self.cls.predictions.bias = nn.Parameter(bias, requires_grad=old.requires_grad)


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
        positions: Positions | None = None,
        **kwargs: Any,
    ) -> ViLBertForPreTrainingOutput:
        """Return the losses of the heads that have labels and the scores of the others.

        Args:
            input_ids: The first six arguments, and pairing, output_hidden_states and output_attentions, are those of
                `ViLBertModel.forward`.
            masked_lm_labels: int64 [B, T], the word piece at each masked position, -1 elsewhere.
            image_label: [B, R - 1], 1 for a masked region; without the global region.
            image_target: [B, R - 1, v_target_size], the detector's class probabilities, or the unmasked features if
                `visual_target` is not 0.
            next_sentence_label: int64 [B], 0 if text and image match, 1 if not.
            task_ids: int64 [B, 1], required by a model with task tokens.
            generator: Draws the negatives if `visual_target` is 2.
            positions: Positions of the masks and labels (`vilbert.model.packing.positions_of`), so that no GPU is
                synchronised. Requires masked_lm_labels and image_label, and a model without task tokens.

        Raises:
            ValueError: The inputs do not match the model or each other.
        """
        check_labels(
            input_ids if input_ids is not None else kwargs.get("inputs_embeds"),
            image_feat,
            masked_lm_labels,
            image_label,
            image_target,
            targets=self.config.v_target_size,
            pairing=kwargs.get("pairing", "rows"),
        )
        if masked_lm_labels is not None and self.config.task_specific_tokens:
            masked_lm_labels = _with_task_label(masked_lm_labels)
        labels = Labels(
            masked_lm=masked_lm_labels, image=image_label, image_target=image_target, alignment=next_sentence_label
        )
        if positions is None:
            kwargs |= self._wanted(labels, kwargs)
        elif self.config.task_specific_tokens or masked_lm_labels is None or image_label is None:
            raise ValueError("positions require masked_lm_labels and image_label, and a model without task tokens")
        else:
            kwargs["positions"] = positions
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
            labels,
            RegionTarget(kind=self.config.visual_target, num_negative=self.config.num_negative, generator=generator),
            positions,
        )
        return ViLBertForPreTrainingOutput(**fields, **kept_of(encoded))

    def _wanted(self, labels: Labels, others: dict[str, Any]) -> dict[str, Tensor | None]:
        """Return which last states the losses use; {} if others are requested too."""
        config = self.config
        everything = (
            *(config.output_hidden_states, config.output_attentions),
            *(others.get("output_hidden_states"), others.get("output_attentions")),
            others.get("pairing", "rows") != "rows",
            torch.compiler.is_compiling(),  # the number of positions depends on the data: a graph break in every layer
        )
        if any(everything):
            return {}
        regions = None
        if labels.image is not None and labels.image_target is not None:
            regions = F.pad(labels.image == 1, (1, 0))  # the global region has no label
        return {"wanted_words": None if labels.masked_lm is None else labels.masked_lm >= 0, "wanted_regions": regions}


AutoModel.register(ViLBertConfig, ViLBertModel, exist_ok=True)
AutoModelForPreTraining.register(ViLBertConfig, ViLBertForPreTraining, exist_ok=True)
