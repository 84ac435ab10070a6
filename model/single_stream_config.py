"""The settings of the single-stream baseline, under BERT's names, and the published configurations."""

# No `from __future__ import annotations`: the strict config uses the annotations to validate values.

from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from vilbert.model.config import ViLBertConfig


@strict
class SingleStreamConfig(PreTrainedConfig):
    """Configuration of a single-stream baseline. The defaults are the published `bert_base_baseline.json`."""

    model_type = "vilbert_single_stream"

    vocab_size: int = 30522
    """Vocabulary size of the tokenizer."""
    hidden_size: int = 768
    """Width of the stream and of the pooled vector, H."""
    num_hidden_layers: int = 12
    """Number of layers."""
    num_attention_heads: int = 12
    """Number of attention heads of a layer."""
    intermediate_size: int = 3072
    """Inner width of the feed-forward blocks."""
    hidden_act: str = "gelu"
    """Activation of the feed-forward blocks and of both pre-training heads; "gelu" is the exact one."""
    hidden_dropout_prob: float | int = 0.1
    """Dropout everywhere except on attention."""
    attention_probs_dropout_prob: float | int = 0.1
    """Dropout on attention."""
    pooled_dropout_prob: float = 0.1
    """Dropout of the pooled vector before the task heads."""
    max_position_embeddings: int = 512
    """Maximum text length in word pieces; regions have no positions."""
    type_vocab_size: int = 2
    """Number of token types (segments); regions have type 1, in a separate table."""
    initializer_range: float = 0.02
    """Standard deviation of the normal distribution for initialising weights."""
    layer_norm_eps: float = 1e-12
    """Epsilon of every LayerNorm."""
    pad_token_id: int | None = 0
    """The padding word piece."""
    tie_word_embeddings: bool = True
    """Whether the decoder of the masked-word head shares the word embeddings."""
    v_feature_size: int = 2048
    """Length of a region's feature vector."""
    v_target_size: int = 1601
    """Outputs of the masked-region head: the detector's classes with background, or `v_feature_size`."""
    visual_target: Literal[0, 1, 2] = 0
    """Target of masked regions: 0 the detector's classes (KL), 1 features (squared error), 2 features (NCE)."""
    num_negative: int = 128
    """Number of negatives per masked region if `visual_target` is 2."""
    num_answers: int = 3129
    """Outputs of `vil_prediction`: VQA v2's answers."""

    def validate_architecture(self) -> None:
        """Raise ValueError for invalid sizes. The message names the setting, its value and what to do."""
        if self.type_vocab_size < 2:
            raise ValueError(f"type_vocab_size {self.type_vocab_size}: regions are of type 1, so 2 or more")
        self.as_two_streams()

    def as_two_streams(self) -> ViLBertConfig:
        """Return the configuration for shared modules, with a visual stream as wide as the text stream."""
        shared: dict[str, Any] = {name: getattr(self, name) for name in SingleStreamConfig.__annotations__}
        visual = {"v_hidden_size": self.hidden_size, "v_num_attention_heads": self.num_attention_heads}
        connections = {"v_biattention_id": [0], "t_biattention_id": [0]}
        return ViLBertConfig(**{**shared, **visual, **connections})


PRESETS: dict[str, dict[str, Any]] = {
    "bert_base_baseline": {},
    "bert_large_baseline": {
        "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096,
    },
}  # fmt: skip


def single_stream_preset(name: str, **changes: Any) -> SingleStreamConfig:
    """Return a published configuration, overridden by `changes`. Raise ValueError if the name is unknown."""
    if name not in PRESETS:
        raise ValueError(f"no single-stream configuration {name!r}; choose one of {', '.join(PRESETS)}")
    return SingleStreamConfig(**{**PRESETS[name], **changes})
