"""The configuration of a ViLBERT, with the field names of the published JSON files, and the published configurations.

Field names are the keys of the reference JSON, so that a published `config.json` can be read
(`ViLBertConfig.from_reference`). The text stream has BERT's names, the visual stream the same names with the prefix
`v_`, and the co-attention layers have the prefix `bi_`.
"""

# No `from __future__ import annotations`: the strict config uses the annotations to validate values.

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, Self

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.activations import ACT2FN

# Keys of published files that the reference does not use, or that are call arguments here.
IGNORED_KEYS = frozenset(
    {
        "bi_attention_type", "bi_intermediate_size", "fast_mode", "finetuning_task", "in_batch_pairs", "intra_gate",
        "layer_norm", "num_labels", "objective", "output_attentions", "output_hidden_states", "pooling_method",
        "torchscript", "v_initializer_range", "visualization",
    }
)  # fmt: skip

MAX_LAYERS = 1000
"""Maximum number of layers of a stream: far above published models, and few enough to build in seconds."""
MAX_DEVIATION = 1000
"""Maximum standard deviation of initial weights."""


@strict
class ViLBertConfig(PreTrainedConfig):
    """Configuration of a ViLBERT. The defaults are the published 6-layer model (Lu et al., NeurIPS 2019)."""

    model_type = "vilbert"

    vocab_size: int = 30522
    """Vocabulary size of the tokenizer."""
    hidden_size: int = 768
    """Width of the text stream, H."""
    num_hidden_layers: int = 12
    """Number of text layers."""
    num_attention_heads: int = 12
    """Number of attention heads of a text layer."""
    intermediate_size: int = 3072
    """Inner width of the text stream's feed-forward blocks."""
    hidden_act: str = "gelu"
    """Activation of the text stream and of both pre-training heads; "gelu" is the exact one."""
    hidden_dropout_prob: float | int = 0.1
    """Dropout of the text stream and of the image embeddings, as in the reference."""
    attention_probs_dropout_prob: float | int = 0.1
    """Dropout on the attention over words."""
    max_position_embeddings: int = 512
    """Maximum text length in word pieces, without the task token."""
    type_vocab_size: int = 2
    """Number of token types (segments)."""
    initializer_range: float | int = 0.02
    """Standard deviation of the normal distribution for initialising weights."""
    location_initializer_range: float | int | None = None
    """Standard deviation for the weights of the five box coordinates; None for `initializer_range`, as published. Five
    inputs contribute little next to hundreds of feature channels, so short training benefits from a larger value."""
    layer_norm_eps: float = 1e-12
    """Epsilon of every LayerNorm."""
    pad_token_id: int | None = 0
    """The padding word piece; its word embedding gets no gradient from the text. RoBERTa's is 1."""
    tie_word_embeddings: bool = True
    """Whether the decoder of the masked-word head shares the word embeddings."""
    v_feature_size: int = 2048
    """Size of a region's feature vector."""
    v_target_size: int = 1601
    """Outputs of the masked-region head: the detector's classes with background, or `v_feature_size`."""
    v_hidden_size: int = 1024
    """Width of the visual stream."""
    v_num_hidden_layers: int = 6
    """Number of visual layers."""
    v_num_attention_heads: int = 8
    """Number of attention heads of a visual layer."""
    v_intermediate_size: int = 1024
    """Inner width of the visual stream's feed-forward blocks."""
    v_hidden_act: str = "gelu"
    """Activation of the visual stream's feed-forward blocks."""
    v_hidden_dropout_prob: float | int = 0.1
    """Dropout of the visual stream after its embeddings."""
    v_attention_probs_dropout_prob: float | int = 0.1
    """Dropout on the attention over regions."""
    pooled_dropout_prob: float = 0.1
    """Dropout of the fused and pooled vectors before the heads; a constant in the published code."""
    bi_hidden_size: int = 1024
    """Width of co-attention, and of both pooled vectors."""
    bi_num_attention_heads: int = 8
    """Number of attention heads of co-attention."""
    v_biattention_id: list[int] | tuple[int, ...] = (0, 1, 2, 3, 4, 5)
    """Index of the visual layer that follows each co-attention layer."""
    t_biattention_id: list[int] | tuple[int, ...] = (6, 7, 8, 9, 10, 11)
    """Index of the text layer that follows each co-attention layer."""
    with_coattention: bool = True
    """False skips the co-attention layers but keeps their parameters: the ablation without exchange between streams."""
    dynamic_attention: bool = False
    """Gate the queries and keys of visual layers with the mean of the word states (12-in-1 code)."""
    fixed_t_layer: int = 0
    """Text layers below this index, and the layers and embeddings before them, are frozen and run without gradients."""
    fixed_v_layer: int = 0
    """The same for visual layers."""
    fusion_method: Literal["mul", "sum"] = "mul"
    """Fusion of the two pooled vectors: element-wise product or sum."""
    text_model: Literal["bert", "roberta"] = "bert"
    """Position ids of the text: those of RoBERTa begin after `pad_token_id` and skip padding."""
    reference_positions: bool = False
    """Count positions from 0 with RoBERTa too, which the published RoBERTa code did by mistake."""
    task_specific_tokens: bool = False
    """Insert a task embedding after [CLS] (12-in-1); text outputs are one position longer."""
    num_task_tokens: int = 20
    """Number of rows of the task embedding."""
    visual_target: Literal[0, 1, 2] = 0
    """Target of masked regions: 0 the detector's classes (KL), 1 features (squared error), 2 features (NCE)."""
    num_negative: int = 128
    """Number of negatives per masked region if `visual_target` is 2."""
    task_heads: Literal["beta", "multitask"] = "multitask"
    """Task heads of `ViLBertForTasks`: those of vilbert_beta or of vilbert-multi-task."""
    num_answers: int = 3129
    """Outputs of `vil_prediction`: VQA v2's answers."""
    num_gqa_answers: int = 1533
    """Outputs of `vil_prediction_gqa`: GQA's answers."""

    def __post_init__(self, **kwargs: Any) -> None:
        """Keep lists as lists, so that a config read from JSON equals the saved one."""
        self.v_biattention_id = list(self.v_biattention_id)
        self.t_biattention_id = list(self.t_biattention_id)
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        """Raise ValueError for invalid sizes. The message names the setting, its value and what to do."""
        for field in dataclasses.fields(self):
            name, value = field.name, getattr(self, field.name)
            if name.endswith(("_size", "_heads", "_layers", "_embeddings")) and type(value) is int and value < 1:
                raise ValueError(f"{name} {value}: expected 1 or more")
            if name.endswith("dropout_prob") and not 0 <= value <= 1:
                raise ValueError(f"{name} {value}: expected a probability, 0 to 1")
            if name.endswith("_layers") and value > MAX_LAYERS:
                raise ValueError(f"{name} {value}: expected at most {MAX_LAYERS}")
            if name.endswith("initializer_range") and value is not None and not 0 <= value <= MAX_DEVIATION:
                raise ValueError(f"{name} {value}: expected a standard deviation, 0 to {MAX_DEVIATION}")
        if not 0 < self.layer_norm_eps < 1:
            raise ValueError(f"layer_norm_eps {self.layer_norm_eps}: expected a small number above 0")
        for name in ("hidden_act", "v_hidden_act"):
            if getattr(self, name) not in ACT2FN:
                raise ValueError(f"{name} {getattr(self, name)!r}: expected one of {', '.join(sorted(ACT2FN))}")
        if self.pad_token_id is not None and not 0 <= self.pad_token_id < self.vocab_size:
            raise ValueError(f"pad_token_id {self.pad_token_id}: expected a word below vocab_size {self.vocab_size}")
        for width, heads in (
            ("hidden_size", "num_attention_heads"),
            ("v_hidden_size", "v_num_attention_heads"),
            ("bi_hidden_size", "bi_num_attention_heads"),
        ):
            if getattr(self, width) % getattr(self, heads):
                raise ValueError(
                    f"{width} {getattr(self, width)} is not a multiple of {heads} {getattr(self, heads)}: change one "
                    "of them"
                )
        if self.visual_target != 0 and self.v_target_size != self.v_feature_size:
            raise ValueError(
                f"visual_target {self.visual_target} predicts features: set v_target_size to v_feature_size "
                f"({self.v_feature_size}), not {self.v_target_size}"
            )
        if self.visual_target == 2 and self.num_negative < 2:
            raise ValueError(f"num_negative {self.num_negative}: NCE (visual_target 2) requires 2 or more")
        if not self.v_biattention_id or len(self.v_biattention_id) != len(self.t_biattention_id):
            raise ValueError(
                f"v_biattention_id {self.v_biattention_id} and t_biattention_id {self.t_biattention_id} place the "
                "co-attention layers: give at least one, and the same number in both"
            )
        for ids, layers, fixed in (
            ("v_biattention_id", "v_num_hidden_layers", "fixed_v_layer"),
            ("t_biattention_id", "num_hidden_layers", "fixed_t_layer"),
        ):
            places, last, frozen = getattr(self, ids), getattr(self, layers), getattr(self, fixed)
            if list(places) != sorted(places) or places[0] < 0 or places[-1] >= last:
                raise ValueError(f"{ids} {places}: expected ascending numbers of layers below {layers} {last}")
            if not 0 <= frozen <= places[0]:
                raise ValueError(
                    f"{fixed} {frozen}: only layers below the first co-attention ({places[0]}) can be frozen"
                )

    @classmethod
    def from_reference(cls, settings: Mapping[str, Any], **changes: Any) -> Self:
        """Create a configuration from the settings of a published `config.json` of either repository.

        Args:
            settings: Content of the file. Keys without effect are ignored (`IGNORED_KEYS`).
            changes: Fields that override the settings, such as `task_heads`.

        Raises:
            ValueError: A key is not a known setting.
        """
        fields = {name: value for name, value in settings.items() if name not in IGNORED_KEYS}
        if "model" in fields:
            fields["text_model"] = fields.pop("model")
        if fields.get("text_model") == "roberta":
            fields.setdefault("pad_token_id", 1)
        if fields.pop("predict_feature", False):
            fields["visual_target"] = 1
        unknown = sorted(fields.keys() - {field.name for field in dataclasses.fields(cls)})
        if unknown:
            raise ValueError(f"unknown settings of ViLBERT: {', '.join(unknown)}")
        return cls(**{**fields, **changes})


def _connected(layers: int, connections: int, **sizes: Any) -> dict[str, Any]:
    """Return a published configuration in which the last text layers and as many visual layers are connected."""
    return {
        "num_hidden_layers": layers,
        "v_num_hidden_layers": connections,
        "v_biattention_id": list(range(connections)),
        "t_biattention_id": list(range(layers - connections, layers)),
        **sizes,
    }


_LARGE = {"hidden_size": 1024, "num_attention_heads": 16, "intermediate_size": 4096}
_ROBERTA = {"text_model": "roberta", "vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1}

# The published configurations under the names of their files, and the ablation of the paper's design.
PRESETS: dict[str, dict[str, Any]] = {
    "bert_base_2layer_2conect": _connected(12, 2),
    "bert_base_4layer_4conect": _connected(12, 4),
    "bert_base_6layer_6conect": _connected(12, 6),
    "bert_base_8layer_8conect": _connected(12, 8),
    "bert_large_2layer_2conect": _connected(24, 2, **_LARGE),
    "bert_large_4layer_4conect": _connected(24, 4, **_LARGE),
    "bert_large_6layer_6conect": _connected(24, 6, **_LARGE),
    "roberta_base_6layer_6connect": _connected(12, 6, **_ROBERTA, pad_token_id=1),
    "bert_base_6layer_without_coattention": _connected(12, 6, with_coattention=False),
}


def preset(name: str, **changes: Any) -> ViLBertConfig:
    """Return a published configuration, overridden by `changes`. Raise ValueError if the name is unknown."""
    if name not in PRESETS:
        raise ValueError(f"no configuration {name!r}; choose one of {', '.join(PRESETS)}")
    return ViLBertConfig(**{**PRESETS[name], **changes})


AutoConfig.register(ViLBertConfig.model_type, ViLBertConfig, exist_ok=True)
