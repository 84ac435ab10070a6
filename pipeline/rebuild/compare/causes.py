"""The causes that `vilbert compare` can name: one table with meanings and remedies.

Causes are recognised in other modules: from the features and boxes in `marks`, by running a detector in `suspects`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Cause:
    """Why two sets may differ."""

    title: str
    """Short name for messages."""
    advice: str
    """Meaning and remedy."""
    problem: bool = True
    """False if the regions are as good as the others'."""


CAUSES: dict[str, Cause] = {
    # Seen in the numbers.
    "boxes-shifted": Cause(
        title="boxes shifted by a constant",
        advice="Box conventions differ: inclusive against exclusive right and bottom edges, or counting from 1.",
    ),
    "boxes-scaled": Cause(
        title="boxes scaled",
        advice="Boxes of one set are in pixels of the resized image, or fractions: scale them to the stored image.",
    ),
    "boxes-xywh": Cause(
        title="boxes as x, y, width, height",
        advice="Convert the boxes of B to x1, y1, x2, y2.",
    ),
    "boxes-yxyx": Cause(title="x and y of boxes swapped", advice="Swap the coordinates of the boxes of B."),
    "boxes-rounded": Cause(
        title="boxes rounded to whole pixels",
        advice="Only the stored boxes are rounded; the features are of the exact boxes.",
        problem=False,
    ),
    "boxes-regressed": Cause(
        title="regressed instead of proposal boxes",
        advice="The features are the same, but one set stores the refined box of each object and the other the "
        "proposal that the feature was pooled from (--saved-box).",
    ),
    "features-shuffled": Cause(
        title="features shuffled within an image",
        advice="The rows of the features are those of other boxes of the same image: boxes and features were sorted "
        "differently when they were written.",
    ),
    "rows-reordered": Cause(
        title="regions in another order",
        advice="Boxes and features belong together in both sets; only the order of the regions differs.",
        problem=False,
    ),
    "features-of-another-image": Cause(
        title="features of another image",
        advice="Image ids and features were joined wrongly, for example by row number after one image failed.",
    ),
    "float16-overflow": Cause(
        title="float16 overflow",
        advice="Values beyond 65504 became infinite, or were computed from infinite values: store float32, or run the "
        "detector in float32.",
    ),
    "rounded-float16": Cause(
        title="rounded to float16",
        advice="The features are the same apart from rounding, relative error up to 2^-11.",
        problem=False,
    ),
    "rounded-bfloat16": Cause(
        title="rounded to bfloat16",
        advice="The features are the same apart from rounding, relative error up to 2^-8.",
        problem=False,
    ),
    "computed-in-bfloat16": Cause(
        title="computed in bfloat16",
        advice="The values are those of a bfloat16 forward pass: small differences everywhere. Run the detector in "
        "float32 to reproduce the other set.",
        problem=False,
    ),
    "object-ids-shifted": Cause(
        title="object ids shifted by a constant",
        advice="One set counts the background as class 0 and the other does not.",
    ),
    "batch-padding": Cause(
        title="batch padding",
        advice="Images were padded to the largest of their batch, and the padding changed the features near the right "
        "and bottom edges. Group images by size, or mask the padding.",
    ),
    "other-dimension": Cause(
        title="features of another size",
        advice="The numbers of channels differ: another layer, or another detector.",
    ),
    # Seen when the detector is run again.
    "channels-swapped": Cause(
        title="channels swapped (RGB/BGR)",
        advice="Reading with OpenCV gives BGR, with PIL RGB: give the network the order it was trained with.",
    ),
    "wrong-mean": Cause(
        title="wrong pixel means",
        advice="The means that are subtracted from the pixels are not those of the detector's training.",
    ),
    "wrong-std": Cause(
        title="wrong PIXEL_STD",
        advice="The pixels are divided by another standard deviation than in the detector's training.",
    ),
    "wrong-normalisation": Cause(
        title="wrong normalisation",
        advice="Both means and standard deviations differ from those of the detector's training, or the pixels are "
        "not normalised at all: use the detector's own image processor.",
    ),
    "other-resize": Cause(
        title="another resize",
        advice="The images were resized to another size, or with another filter.",
    ),
    "stride-in-1x1": Cause(
        title="STRIDE_IN_1X1 wrong",
        advice="The stride of the ResNet's blocks is in the other convolution: weights from Caffe need it in the 1x1 "
        "convolution (True), torchvision's in the 3x3 (False).",
    ),
    "another-layer": Cause(
        title="another layer",
        advice="The features are the output of another fully connected layer (--feature-layer).",
    ),
    "other-precision": Cause(
        title="another precision",
        advice="The forward pass ran in reduced precision (--precision).",
        problem=False,
    ),
    "other-selection": Cause(
        title="other regions selected",
        advice="The features at B's boxes are right. Only which regions were kept differs: proposals, NMS, thresholds "
        "or the number of boxes.",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A cause that was recognised."""

    cause: str
    """Name in `CAUSES`."""
    detail: str
    """Values as text."""
    images: int
    """Number of images with this cause."""
    of: int
    """Number of images examined."""
    image_ids: tuple[str, ...] = ()
    """Ids of some of these images."""
    figures: dict[str, Any] = field(default_factory=dict)
    """JSON values for programs."""

    @property
    def problem(self) -> bool:
        """Whether the regions are worse for it."""
        return CAUSES[self.cause].problem

    def sentence(self) -> str:
        """Return the finding as one line of text."""
        seen = f"{self.images:,} of {self.of:,} images"
        detail = f": {self.detail}" if self.detail else ""
        return f"{CAUSES[self.cause].title}{detail} ({seen})"
