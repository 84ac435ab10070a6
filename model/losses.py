"""The pre-training losses, each a sum and the count that it is divided by.

Means do not add: the mean over two shards of a batch is not the mean of their means where they hold different numbers
of labels. Sums and counts do, so every loss here is a `LossSum`, and whoever joins shards, ranks or accumulated steps
adds both before dividing once. It also makes the batch with nothing labelled harmless: a sum of 0, still attached to
the graph, over a count of 0 (the reference divides by that 0).

Scores come at labelled positions only, in the row-major order of `labels != -1` or `image_label == 1`, as boolean
indexing gives them. Half precision is raised to float32 before anything is multiplied or summed, autocast or not;
float64 stays float64, so that float64 can check float32.

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
    """A loss as a sum over what is labelled and the number of terms in it: add both over shards, then take the mean."""

    sum: Tensor
    """[] float32 (float64 where the scores were), always attached to the graph of the scores."""
    count: Tensor  # type: ignore[assignment] # tuple.count is not used on a loss
    """[] int64, a count of labels; 0 where nothing is labelled, and then the sum is 0 too."""

    @property
    def mean(self) -> Tensor:
        """The sum over the count, [], and 0 where nothing is labelled."""
        return self.sum / self.count.clamp(min=1)


def masked_word_loss(scores_NV: Tensor, labels_N: Tensor) -> LossSum:
    """Return the cross-entropy of the masked words over the vocabulary; labels int64, -1 ignored wherever it stands."""
    return _cross_entropy(scores_NV, labels_N)


def alignment_loss(scores_B2: Tensor, labels_B: Tensor) -> LossSum:
    """Return the cross-entropy of "text and image match" (class 0) against "do not" (1); labels int64, -1 ignored."""
    return _cross_entropy(scores_B2, labels_B)


def masked_region_kl(scores_MC: Tensor, targets_MC: Tensor) -> LossSum:
    """Return KL(target || softmax(scores)) summed over classes and masked regions; the count is M.

    A class of target 0 adds nothing (0 log 0 = 0). It differs from soft cross-entropy by the targets' own entropy, a
    constant. Raises ValueError if the shapes differ.
    Source: ViLBERT (Lu et al., 2019), "Training Tasks and Objectives"; `visual_target 0` of the reference.
    """
    _require_same_shape(scores_MC, targets_MC, "classes")
    log_probabilities_MC = _at_least_float32(scores_MC).log_softmax(dim=-1)
    total = F.kl_div(log_probabilities_MC, targets_MC.to(log_probabilities_MC.dtype), reduction="sum")
    return LossSum(total, _count_of(scores_MC, len(scores_MC)))


def masked_region_regression(scores_MD: Tensor, targets_MD: Tensor) -> LossSum:
    """Return the squared error of the masked regions' features; the count is M x D, every number of every region.

    Raises ValueError if the shapes differ. Source: `visual_target 1` of facebookresearch/vilbert-multi-task.
    """
    _require_same_shape(scores_MD, targets_MD, "features")
    scores = _at_least_float32(scores_MD)
    total = F.mse_loss(scores, targets_MD.to(scores.dtype), reduction="sum")
    return LossSum(total, _count_of(scores_MD, scores_MD.numel()))


def masked_region_nce(
    predicted_MD: Tensor, image_target_BRD: Tensor, image_label_BR: Tensor, negatives_MK: Tensor
) -> LossSum:
    """Return the cross-entropy of picking each masked region's own features among its negatives; the count is M.

    A candidate's score is the dot product of its features with the prediction. `negatives_MK` (int64) indexes the
    flattened [B * R] regions, see `nce_negatives`. Without negatives (K = 0) there is nothing to pick from: sum and
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
    # Autocast would round this product to half precision, where close candidates tie.
    with torch.autocast(predicted.device.type, enabled=False):
        # Scoring every region and picking holds M x G numbers; picking features first would hold M x K x D.
        scores_MG = predicted @ regions_GD.T
    candidates_MK = torch.cat((own_M[:, None], negatives_MK.to(own_M.device)), dim=1)
    right = 0 if negatives_MK.shape[1] else IGNORED
    return _cross_entropy(scores_MG.gather(1, candidates_MK), torch.full_like(own_M, right))


def has_negatives(image_label_BR: Tensor) -> bool:
    """Return whether a masked region of the batch has another one to be told apart from; if not, NCE learns nothing."""
    return image_label_BR.numel() > 1


def nce_negatives(image_label_BR: Tensor, num_negative: int, generator: torch.Generator) -> Tensor:
    """Draw the regions that each masked region is told apart from: int64 [M, K], indices into the flattened [B * R].

    Of K = int(0.7 num_negative) + int(0.3 num_negative) draws, with replacement, the first kind takes an image uniform
    over the other images and a region uniform over its R; the second a region uniform over the others of the same
    image. Padded regions are drawn as any other. A lone image (B = 1, where the reference fails) draws all K within
    itself, and images of one region draw all K from the other images. The only region of the only image has no other
    (`has_negatives`): then K is 0. The generator's device makes the draws, and they are moved to the labels'.

    Raises ValueError where num_negative is below 2.
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
    """Return the three labels, [B, T], [B, R] and [B], with -1 for what the objective does not learn from.

    0 learns from everything; 1 learns masked words and regions on matching pairs only; 2 learns no alignment (its
    pairs should all match). Under 1 the reference also drops every masked word whose id is 0; `drop_label_zero` does
    so too, for equal numbers. The given labels are not written to. Raises ValueError for any other objective.
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
    """Draw [M, count] uniform over 0..size-1 but for one's own: among 0..size-2, one's own stands for the last."""
    # Where size is 1 there is no other, and the caller asks for none: randint still wants a range that is not empty.
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
    # torch would broadcast them, and the loss would be of something else.
    if scores.shape != targets.shape:
        raise ValueError(
            f"scores {list(scores.shape)} and targets {list(targets.shape)} differ: pass both at the masked regions, "
            f"with the same number of {of_what}"
        )
