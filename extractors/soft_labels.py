"""The detector's opinion of a region, kept as its K most probable classes and rebuilt as a distribution when needed.

ViLBERT learns to predict the detector's distribution over classes for a masked region (Lu et al. 2019, section 3.1).
All 1601 probabilities of a region take as much room as its feature; 20 of them hold nearly all that they say.

How much is lost. Let p be the detector's distribution, S the sum of its K kept probabilities, and q the distribution
that `dense_labels` rebuilds from what was stored. Then

    L1(p, q) = sum |p - q| <= 2 (1 - S) + 2 e,    e = 2^-11 + K 2^-25

The first term is the mass that was not kept: it may lie anywhere, and is put everywhere alike. The second is the
rounding to float16 (half a unit in the last place, relative above 2^-14 and absolute below), once on the kept
probabilities themselves and once on the rest, which is what they leave.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

    from vilbert.extractors.regions import Regions


def top_classes(probs: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the `k` most probable classes of each region and their probabilities, most probable first.

    probs: [N, C] float32 softmax, background first; of equally probable classes the lower id comes first.
    Returns ids int64 and probabilities float32 [N, K] where K = min(k, C), where `probs` are.
    """
    # topk leaves the order of ties open, and with it which class is kept
    ordered_probs, class_ids = probs.float().sort(dim=1, descending=True, stable=True)
    return class_ids[:, :k], ordered_probs[:, :k]


def dense_labels(
    class_ids: NDArray[np.uint16], class_probs: NDArray[np.float16], num_classes: int
) -> NDArray[np.float32]:
    """Return distributions [N, num_classes] from the classes kept, the remaining mass spread over the other classes.

    class_ids, class_probs: [N, K] as stored, no id twice in a row.
    num_classes: the background included, so 1601 for Visual Genome and 91 for torchvision's COCO models.
    Raises ValueError where an id is not below `num_classes`.
    """
    count, kept = class_ids.shape
    if class_ids.size and int(class_ids.max()) >= num_classes:
        raise ValueError(f"class id {int(class_ids.max())} in a distribution over {num_classes} classes")
    probs = class_probs.astype(np.float64)
    total = probs.sum(axis=1, keepdims=True)
    others = num_classes - kept
    # Rounded probabilities can sum to more than 1; where every class is kept there is nothing to put a remainder on.
    scale = np.where(total > 1, total, 1.0) if others else total
    rest = np.clip(1 - total, 0, None) / others if others else np.zeros_like(total)
    labels = np.broadcast_to(rest, (count, num_classes)).copy()
    np.put_along_axis(labels, class_ids.astype(np.intp), probs / scale, axis=1)
    return labels.astype(np.float32)


def region_labels(regions: Regions, num_classes: int) -> NDArray[np.float32]:
    """Return the soft labels of an image's regions, float32 [N, num_classes], background first; see `dense_labels`.

    Raises:
        ValueError: The regions have no class probabilities, or a class id beyond `num_classes`.
    """
    if regions.class_ids is None or regions.class_probs is None:
        raise ValueError("the regions have no class probabilities")
    return dense_labels(regions.class_ids, regions.class_probs, num_classes)
