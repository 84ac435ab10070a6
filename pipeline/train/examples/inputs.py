"""Convert a batch to the model's inputs on the model's device.

What is large is made here and not in the workers: float32 features of float16 or codes, 1601 probabilities of 20.

Shapes: B pairs, R regions without the global one, D features, K most probable classes, C classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vilbert.model.packing import Positions
from vilbert.pipeline.train.data.feature_rows import features_on
from vilbert.pipeline.train.examples.batch import Batch

SMALLEST = 2.0**-24  # of the float16 numbers above 0
GLOBAL_LOCATION = (0.0, 0.0, 1.0, 1.0, 1.0)


def to_model_inputs(
    batch: Batch, device: torch.device | str, *, num_classes: int, visual_target: int
) -> dict[str, Tensor]:
    """Return the arguments of `ViLBertForPreTraining.forward`, on `device`.

    image_feat float32 [B, R + 1, D], image_loc float32 [B, R + 1, 5] and image_attention_mask int64 [B, R + 1] begin
    with the global region: the sum of the features that are seen over the batch's divisor, the whole image's location.
    image_label [B, R] and image_target float32 do not have it. image_target is [B, R, num_classes], the detector's
    distribution, where `visual_target` is 0, and [B, R, D], the unmasked features, where it is 1 or 2.

    num_classes: the background included. Raises ValueError where the batch has a class id beyond them.
    Source: `ConceptCapLoaderTrain.__iter__` of jiasenlu/vilbert_beta.
    """
    features = features_on(device, batch.features, batch.feature_scales)
    rows, regions, channels = features.shape
    seen = torch.empty((rows, regions + 1, channels), dtype=torch.float32, device=device)
    seen[:, 1:] = features
    seen[:, 1:].masked_fill_(batch.zeroed.to(device, non_blocking=True)[..., None], 0)
    seen[:, 0] = seen[:, 1:].sum(dim=1) / batch.divisor.to(device, non_blocking=True)[:, None]
    located = F.pad(batch.locations.to(device, non_blocking=True), (0, 0, 1, 0), value=1)
    located[:, 0, :2] = 0  # GLOBAL_LOCATION
    target = dense_labels(batch, device, num_classes) if visual_target == 0 else features.float()
    return {
        "input_ids": batch.input_ids.to(device, non_blocking=True),
        "image_feat": seen,
        "image_loc": located,
        "attention_mask": batch.attention_mask.to(device, non_blocking=True),
        "image_attention_mask": F.pad(batch.region_mask.to(device, non_blocking=True), (1, 0), value=1),
        "masked_lm_labels": batch.masked_lm_labels.to(device, non_blocking=True),
        "image_label": batch.image_label.to(device, non_blocking=True),
        "image_target": target,
        "next_sentence_label": batch.next_sentence_label.to(device, non_blocking=True),
    }


def dense_labels(batch: Batch, device: torch.device | str, num_classes: int) -> Tensor:
    """Return the detector's distributions, float32 [B, R, num_classes] on `device`; padding is 0 everywhere.

    The same numbers as `vilbert.extractors.soft_labels.dense_labels`, where the arithmetic is explained.
    """
    require_class_ids(batch, num_classes)
    class_ids = batch.class_ids.to(device, non_blocking=True).long()
    probs = batch.class_probs.to(device, non_blocking=True).double()
    total = probs.sum(dim=-1, keepdim=True)
    if not batch.class_ids.shape[-1]:  # all classes, of a column
        return (probs / total.clamp(min=SMALLEST)).float()
    others = num_classes - class_ids.shape[-1]
    rest = (1 - total).clamp(min=0) / others if others else torch.zeros_like(total)
    # Padding has a total of 0, and stays 0.
    kept = probs / total.clamp(min=1.0 if others else SMALLEST)
    rows, regions, _ = class_ids.shape
    labels = rest.float().expand(rows, regions, num_classes).contiguous()
    labels.scatter_(-1, class_ids, kept.float())
    return labels.mul_(batch.region_mask.to(device, non_blocking=True)[..., None])


def require_class_ids(batch: Batch, num_classes: int) -> None:
    """Raise ValueError where a batch on the CPU has a class id beyond the classes.

    On a GPU a wrong id ends the process, and reading the largest waits for it: look before it goes there.
    """
    if batch.class_ids.device.type != "cpu":
        return
    largest = int(batch.class_ids.max()) if batch.class_ids.numel() else 0
    if largest >= num_classes:
        raise ValueError(f"class id {largest} in a distribution over {num_classes} classes")


def to_positions(batch: Batch, device: torch.device) -> Positions:
    """Return the positions that the model computes and reads, on its device."""
    return Positions(**{name: places.to(device, non_blocking=True) for name, places in batch.positions.items()})
