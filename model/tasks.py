"""ViLBERT with the heads of downstream tasks of either published repository.

Shapes: B batch, T words, R regions with the global one at 0, A the width of the fused vector.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import Tensor, nn
from transformers.utils.generic import can_return_tuple

from vilbert.model.attention import MASKED_SCORE, seen_by_all
from vilbert.model.config import ViLBertConfig
from vilbert.model.heads import BetaClassifier, Classifier, PreTrainingHeads, fuse
from vilbert.model.operators import Dropout, Linear
from vilbert.model.outputs import ViLBertForTasksOutput, ViLBertModelOutput, kept_of
from vilbert.model.vilbert import ViLBertModel, WithWordHead

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


def lower_masked_regions(logits_BR1: Tensor, image_mask: Tensor | None) -> Tensor:
    """Lower the logits of masked regions by 10000. The mask, [C, R] or [C, R, R], is repeated to B rows."""
    seen = seen_by_all(image_mask)
    if seen is None:
        return logits_BR1
    rows = seen.expand(len(logits_BR1), -1) if len(seen) == 1 else seen.repeat(len(logits_BR1) // len(seen), 1)
    return logits_BR1 + ((1.0 - rows.to(logits_BR1.dtype)) * MASKED_SCORE)[..., None]


def require_heads(names: Collection[str], there: Collection[str]) -> None:
    """Raise ValueError if any of the heads do not exist."""
    unknown = sorted(set(names) - set(there))
    if unknown:
        raise ValueError(f"no head {', '.join(unknown)}; the heads are {', '.join(there)}")


class ViLBertForTasks(WithWordHead):
    """ViLBERT with the task heads of either repository (`task_heads`), and the pre-training heads of their files."""

    def __init__(self, config: ViLBertConfig) -> None:
        super().__init__(config)
        pooled = config.bi_hidden_size
        self.bert = ViLBertModel(config)
        self.dropout = Dropout(config.pooled_dropout_prob)
        self.cls = PreTrainingHeads(config)
        if config.task_heads == "beta":
            self.vil_prediction: nn.Module = BetaClassifier(pooled, 2 * pooled, config.num_answers)
        else:
            eps = config.layer_norm_eps
            self.vil_prediction = Classifier(pooled, 2 * pooled, config.num_answers, eps)
            self.vil_prediction_gqa = Classifier(pooled, 2 * pooled, config.num_gqa_answers, eps)
            self.vil_binary_prediction = Classifier(2 * pooled, 2 * pooled, 2, eps)
            self.vil_tri_prediction = Linear(pooled, 3)
        self.vil_logit = Linear(pooled, 1)
        self.vision_logit = Linear(config.v_hidden_size, 1)
        self.linguisic_logit = Linear(config.hidden_size, 1)
        self.post_init()

    def _chosen(self, heads: Collection[str] | None, batch: int) -> Collection[str]:
        """Return the heads to run: by default all task heads that the batch allows."""
        there = TASK_HEADS[self.config.task_heads]
        paired = self.config.task_heads == "multitask" and batch % 2 == 1
        if heads is None:
            return [name for name in there if not (paired and name == "vil_binary_prediction")]
        require_heads(heads, (*there, *PRETRAINING_SCORES))
        if paired and "vil_binary_prediction" in heads:
            raise ValueError(f"vil_binary_prediction takes pairs of rows: expected an even batch size, got {batch}")
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
        """Return the outputs of the requested heads. The other arguments are those of `ViLBertModel`.

        Args:
            heads: Names of the heads to run. The default is all task heads, without the expensive pre-training scores
                `vision_prediction` and `linguisic_prediction`.

        Returns:
            vil_prediction [B, num_answers], vil_prediction_gqa [B, num_gqa_answers], vil_logit [B, 1],
            vil_tri_prediction [B, 3], vil_binary_prediction [B, 2] of the alignment head (beta) or [B / 2, 2] of rows
            2i and 2i + 1 (multitask; not with an odd batch size), vision_logit [B, R, 1] with 10000 subtracted for
            masked regions, linguisic_logit [B, T, 1].

        Raises:
            ValueError: A head does not exist.
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
                return self.cls.alignment(both_BA)  # applies its own dropout, as in pre-training
            return self.vil_binary_prediction(fused_BA.view(-1, 2 * fused_BA.shape[-1]))
        head: nn.Module = getattr(self, name)
        return head(fused_BA)
