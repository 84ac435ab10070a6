"""The pre-training losses, each as a sum and the count to divide it by.

Means cannot be averaged: if two shards of a batch have different numbers of labels, the mean over both is not the mean
of their means. Every loss here is therefore a `LossSum`: add the sums and counts of shards, ranks or accumulation
steps, then divide once. A batch without labels has a sum of 0, still attached to the graph, and a count of 0 (the
reference divides by that 0).

Scores are given at labelled positions only, in the row-major order of `labels != -1` or `image_label == 1`, as boolean
indexing returns them. Half precision is converted to float32 before multiplying or summing, with and without autocast;
float64 is kept, so that float64 can check float32.

Shapes: B pairs, R regions without the global one, G = B x R regions of the batch, N labelled words, M masked regions,
V words of the vocabulary, C classes of regions, D features of a region, K negatives of a region.
Labels: -1 is ignored everywhere; `image_label` is 1 where the region is masked; `next_sentence_label` is 0 where text
and image match.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -1
MASKED = 1
MATCHES = 0
SHARE_ACROSS_BATCH, SHARE_WITHIN_IMAGE = 0.7, 0.3


class LossSum(NamedTuple):
    """A loss as a sum over labelled elements and their count: add both over shards, then take the mean."""

    sum: Tensor
    """[] float32 (float64 for float64 scores), always attached to the graph of the scores."""
    count: Tensor  # type: ignore[assignment] # tuple.count is not used on a loss
    """[] int64, the number of labels; if it is 0, the sum is 0 too."""

    @property
    def mean(self) -> Tensor:
        """Return the sum divided by the count, [], or 0 if nothing is labelled."""
        return self.sum / self.count.clamp(min=1)


def masked_word_loss(scores_NV: Tensor, labels_N: Tensor) -> LossSum:
    """Return the cross-entropy of the masked words over the vocabulary. Labels are int64; -1 is ignored."""
    return _cross_entropy(scores_NV, labels_N)


def alignment_loss(scores_B2: Tensor, labels_B: Tensor) -> LossSum:
    """Return the cross-entropy of "match" (class 0) and "no match" (class 1). Labels are int64; -1 is ignored."""
    return _cross_entropy(scores_B2, labels_B)


def masked_region_kl(scores_MC: Tensor, targets_MC: Tensor) -> LossSum:
    """Return KL(target || softmax(scores)) summed over classes and masked regions; the count is M.

    A class with target 0 contributes 0 (0 log 0 = 0). The loss differs from soft cross-entropy by the entropy of
    the targets, a constant. Raises ValueError if the shapes differ.
    Source: ViLBERT (Lu et al., 2019), "Training Tasks and Objectives"; `visual_target 0` of the reference.
    """
    _require_same_shape(scores_MC, targets_MC, "classes")
    log_probabilities_MC = _at_least_float32(scores_MC).log_softmax(dim=-1)
    total = F.kl_div(log_probabilities_MC, targets_MC.to(log_probabilities_MC.dtype), reduction="sum")
    return LossSum(total, _count_of(scores_MC, len(scores_MC)))


def masked_region_regression(scores_MD: Tensor, targets_MD: Tensor) -> LossSum:
    """Return the squared error of the masked regions' features; the count is M x D, the number of elements.

    Raises:
        ValueError: The shapes differ.

    Source: `visual_target 1` of facebookresearch/vilbert-multi-task.
    """
    _require_same_shape(scores_MD, targets_MD, "features")
    scores = _at_least_float32(scores_MD)
    total = F.mse_loss(scores, targets_MD.to(scores.dtype), reduction="sum")
    return LossSum(total, _count_of(scores_MD, scores_MD.numel()))


def masked_region_nce(
    predicted_MD: Tensor, image_target_BRD: Tensor, image_label_BR: Tensor, negatives_MK: Tensor
) -> LossSum:
    """Return the cross-entropy of identifying each masked region's features among its negatives; the count is M.

    A candidate's score is the dot product of its features with the prediction. `negatives_MK` (int64) indexes the
    flattened [B * R] regions, see `nce_negatives`. Without negatives (K = 0), sum and
    count are 0.
    Raises ValueError if the number of masked regions differs between the arguments.
    Source: `visual_target 2` of facebookresearch/vilbert-multi-task.
    """
    own_M = (image_label_BR.flatten() == MASKED).nonzero().squeeze(1)
    if not len(predicted_MD) == len(negatives_MK) == len(own_M):
        raise ValueError(
            f"image_label_BR masks {len(own_M)} regions, but {len(predicted_MD)} are predicted and {len(negatives_MK)} "
            "have negatives: pass predictions at image_label_BR == 1 and the negatives drawn for the same labels"
        )
    predicted = _at_least_float32(predicted_MD)
    regions_GD = image_target_BRD.flatten(0, 1).to(predicted.dtype)
    # Autocast would round this product to half precision, in which close candidates have equal scores.
    with torch.autocast(predicted.device.type, enabled=False):
        # Scoring all regions and then gathering takes M x G values; gathering features first would take M x K x D.
        scores_MG = predicted @ regions_GD.T
    candidates_MK = torch.cat((own_M[:, None], negatives_MK.to(own_M.device)), dim=1)
    right = 0 if negatives_MK.shape[1] else IGNORED
    return _cross_entropy(scores_MG.gather(1, candidates_MK), torch.full_like(own_M, right))


def has_negatives(image_label_BR: Tensor) -> bool:
    """Return whether a batch has other regions to use as negatives. Without any, NCE learns nothing."""
    return image_label_BR.numel() > 1


def nce_negatives(image_label_BR: Tensor, num_negative: int, generator: torch.Generator) -> Tensor:
    """Draw the negatives of each masked region: int64 [M, K], indices into the flattened [B * R].

    There are K = int(0.7 num_negative) + int(0.3 num_negative) draws with replacement. The first kind draws an image
    uniformly from the other images and a region uniformly from its R regions; the second kind draws uniformly from the
    other regions of the same image. Padded regions are included. For B = 1 (where the reference fails) all K are drawn
    within the image, and for R = 1 all K from the other images. If the batch has a single region (`has_negatives`), K
    is 0. Values are drawn on the generator's device and moved to that of the labels.

    Raises:
        ValueError: `num_negative` is below 2.
    Source: facebookresearch/vilbert-multi-task, `BertForMultiModalPreTraining.forward`.
    """
    across, within = int(SHARE_ACROSS_BATCH * num_negative), int(SHARE_WITHIN_IMAGE * num_negative)
    if across + within < 1:
        raise ValueError(f"num_negative {num_negative} leaves no negative after rounding down: use 2 or more")
    images, regions = image_label_BR.shape
    image_M, region_M = (image_label_BR == MASKED).to(generator.device).nonzero(as_tuple=True)
    if not has_negatives(image_label_BR):
        return image_label_BR.new_empty(len(image_M), 0)
    if images == 1:
        across, within = 0, across + within
    elif regions == 1:
        across, within = across + within, 0
    other_image = _draw_others(image_M, images, across, generator)
    any_region = torch.randint(regions, other_image.shape, generator=generator, device=generator.device)
    other_region = _draw_others(region_M, regions, within, generator)
    negatives_MK = torch.cat((other_image * regions + any_region, image_M[:, None] * regions + other_region), dim=1)
    return negatives_MK.to(image_label_BR.device)


def apply_objective(
    objective: int,
    masked_lm_labels: Tensor,
    image_label: Tensor,
    next_sentence_label: Tensor,
    *,
    drop_label_zero: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the labels [B, T], [B, R] and [B] with -1 where the objective ignores them. The inputs are not modified.

    Objective 0 uses all losses; 1 uses masked words and regions of matching pairs only; 2 uses no alignment loss (all
    pairs should match). With objective 1 the reference also ignores masked words with id 0; `drop_label_zero` does the
    same, to reproduce its values.

    Raises:
        ValueError: The objective is unknown.
    Source: `--objective` of facebookresearch/vilbert-multi-task.
    """
    if objective == 0:
        return masked_lm_labels, image_label, next_sentence_label
    if objective == 1:
        drop_B1 = (next_sentence_label != MATCHES)[:, None]
        words, regions = (labels.masked_fill(drop_B1, IGNORED) for labels in (masked_lm_labels, image_label))
        if drop_label_zero:
            words, regions = (labels.masked_fill(labels == 0, IGNORED) for labels in (words, regions))
        return words, regions, next_sentence_label
    if objective == 2:
        return masked_lm_labels, image_label, torch.full_like(next_sentence_label, IGNORED)
    raise ValueError(
        f"objective {objective!r} is not one of 0 (all losses), 1 (masked losses on matching pairs only) and "
        "2 (no alignment loss)"
    )


def _draw_others(own_M: Tensor, size: int, count: int, generator: torch.Generator) -> Tensor:
    """Draw [M, count] uniformly from 0..size-1 except each row's own index, which is mapped to the last one."""
    # If size is 1 the caller requests no draws, but randint still requires a non-empty range.
    drawn = torch.randint(max(size - 1, 1), (len(own_M), count), generator=generator, device=own_M.device)
    return drawn.masked_fill(drawn == own_M[:, None], size - 1)


def _cross_entropy(scores_NK: Tensor, labels_N: Tensor) -> LossSum:
    total = F.cross_entropy(_at_least_float32(scores_NK), labels_N, ignore_index=IGNORED, reduction="sum")
    return LossSum(total, (labels_N >= 0).sum())


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _count_of(like: Tensor, count: int) -> Tensor:
    return torch.full((), count, dtype=torch.int64, device=like.device)


def _require_same_shape(scores: Tensor, targets: Tensor, of_what: str) -> None:
    # torch would broadcast them, and the loss would be wrong.
    if scores.shape != targets.shape:
        raise ValueError(
            f"scores {list(scores.shape)} and targets {list(targets.shape)} differ: pass both at the masked regions, "
            f"with the same number of {of_what}"
        )
