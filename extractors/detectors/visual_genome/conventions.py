"""Everything that a checkpoint does not say about its detector, by name.

Stride, padding, dilation, box arithmetic and preprocessing are in no tensor, so a file loads under wrong values of them
without a message and gives wrong features. A converted file carries these values beside its tensors.
"""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Interval, Len

from vilbert.settings import NonNegativeFloat, PositiveFloat, Share, validated

Channels = Annotated[int, Interval(ge=1, le=1 << 16)]
Triple = Annotated[tuple[float, ...], Len(3, 3)]
PositiveTriple = Annotated[tuple[PositiveFloat, ...], Len(3, 3)]
Quadruple = Annotated[tuple[PositiveFloat, ...], Len(4, 4)]
Side = Annotated[int, Interval(ge=1, le=16_384)]
"""Pixels of a resized image's side."""


@validated
class Architecture:
    """Sizes of a network, read from its tensors by `layouts.py`."""

    blocks: Annotated[tuple[Annotated[int, Interval(ge=1, le=100)], ...], Len(4, 4)]
    """Residual blocks of res2, res3, res4 and res5."""
    stem_channels: Channels
    width: Channels
    """Channels of the 3x3 convolutions of res2; doubled at each later stage."""
    groups: Channels
    """Groups of the 3x3 convolutions."""
    res2_channels: Channels
    """Output channels of res2; doubled at each later stage."""
    pyramid_channels: Channels | None
    """Channels of the feature pyramid; None: a C4 model, whose box head is res5."""
    rpn_channels: Channels
    hidden_channels: Channels | None
    """Outputs of fc6 and fc7; None: a C4 model."""
    classes: Annotated[int, Interval(ge=1, le=65_534)]
    """Object classes, without the background."""
    attributes: Annotated[int, Interval(ge=1, le=65_534)] | None
    """Rows of the attribute classifier; None: the detector has none."""
    attribute_embedding: Channels | None
    attribute_hidden: Channels | None


@validated
class Conventions:
    """Numerical conventions of one port of a detector; `presets.py` has one value per port."""

    # backbone
    stem_pool: Literal["ceil", "padded"]
    """Max pooling after the stem: without padding and rounding the size up (Caffe), or with a padding of 1."""
    stride_in_1x1: bool
    """Whether the stride of a stage is in its first 1x1 convolution (MSRA's ResNet) or in the 3x3 convolution."""
    preactivation: bool = False
    """Blocks with normalisation and ReLU before each convolution (MILVLG's R152)."""
    norm_epsilon: NonNegativeFloat
    """Added to the variance of a batch norm."""
    res5_stride: Literal[1, 2]
    res5_dilation: Literal[1, 2]

    # proposals
    anchor_sizes: tuple[tuple[PositiveFloat, ...], ...]
    """Of each level, in pixels of the resized image."""
    anchor_ratios: tuple[PositiveFloat, ...] = (0.5, 1.0, 2.0)
    """Height over width."""
    anchor_order: Literal["size", "ratio"]
    """Outer loop of the order of the anchors at a position."""
    anchor_rounding: Literal["none", "caffe"]
    """none: real-valued, centred on the corner of their cell. caffe: widths and heights of the ratios rounded at the
    size of a cell, centred on (stride - 1) / 2, inclusive of their last pixel."""
    objectness_logits: Literal[1, 2]
    """One logit per anchor, or two: background for all anchors, then foreground for all anchors."""
    rpn_pre_nms: Annotated[int, Interval(ge=1, le=100_000)]
    """Proposals of each level before non-maximum suppression."""
    rpn_post_nms: Annotated[int, Interval(ge=1, le=10_000)]
    """Proposals of an image."""
    rpn_nms: Share = 0.7
    rpn_min_size: NonNegativeFloat = 0.0
    """Proposals whose sides are no longer than this are dropped, in pixels of the stored image."""
    rpn_filter: Literal["before_top_k", "after_top_k"]
    """When proposals that are too small are dropped."""

    # boxes
    boxes: Literal["real", "caffe", "maskrcnn"]
    """real: x2 - x1 wide. caffe, maskrcnn: x2 - x1 + 1 wide, clipped to width - 1; maskrcnn subtracts 1 from the right
    and bottom sides of a decoded box, caffe does not."""
    overlap_of_last_pixels: bool
    """Whether the overlap of two boxes counts their last pixels, as their widths do."""
    clip_to: Literal["image", "padded"] = "image"
    """Proposals are clipped to the resized image, or to that image after padding."""
    clamp_deltas: bool = True
    """Whether the logarithm of a box's change of size is at most log(1000 / 16)."""
    box_weights: Quadruple
    """Divisors of the box head's deltas."""

    # box head
    pooling: Literal["roi_pool", "roi_align", "roi_align_aligned"]
    """roi_align: without the half-pixel offset, as maskrcnn-benchmark; roi_align_aligned: with it."""
    pool_size: Annotated[int, Interval(ge=1, le=64)]
    pool_sampling: Annotated[int, Interval(ge=0, le=16)] = 0
    """Samples per side of a bin; 0: adaptive."""
    background: Literal["first", "last"]
    """Row of the background in the classifier, and in the embedding of the attribute head."""
    background_box: bool
    """Whether the box regressor has rows for the background."""

    # attributes
    no_attribute: Literal["first", "last", "absent"] = "absent"
    """Row of "no attribute" in the attribute classifier."""
    no_attribute_dropped: Literal["before_softmax", "after_softmax"] = "after_softmax"
    attribute_class: Literal["logits", "label"] = "logits"
    """Class that is embedded: of the highest logit, the background included; or the one that labels the region."""

    # image, in channel order BGR and with values up to 255
    pixel_mean: Triple
    pixel_std: PositiveTriple = (1.0, 1.0, 1.0)
    min_size: Side
    max_size: Side
    size_rule: Literal["caffe", "detectron2", "maskrcnn"]
    """How the sides of the resized image are rounded."""
    resize: Literal["cv2", "pil", "torch"]
    """cv2, torch: bilinear without antialiasing, of real values. pil: bilinear with antialiasing, of whole values."""
    pad_to: Literal[1, 32] = 1
    """Zeros are added at the right and at the bottom until both sides are multiples of this."""

    # regions
    scale_back: Literal["uniform", "per_axis"]
    """Boxes are divided by the scale of the resizing, or by the ratio of the sides, which are rounded."""
    label: Literal["most_probable", "unsuppressed"] = "most_probable"
    """Class that labels a region: the most probable one, or the most probable one in which it was not suppressed."""


DetectorName = Literal["butd-r101", "vmb-x152", "vmb-x101", "vinvl-x152c4"]


@validated
class DetectorFile:
    """Metadata of a converted detector file."""

    detector: DetectorName
    layout: str
    preset: str
    architecture: Architecture
    conventions: Conventions
    class_names: tuple[str, ...]
    """Without the background."""
    attribute_names: tuple[str, ...]
    """Without "no attribute"."""
    source_sha256: str
    """Of the file that was converted."""
    tensors_sha256: str
    """Over names, dtypes, shapes and values of the tensors."""

    def __post_init__(self) -> None:
        """Refuse names that are not those of the network's classes, one each."""
        counts = {
            "class_names": self.architecture.classes,
            "attribute_names": named_attributes(self.architecture, self.conventions),
        }
        for field, count in counts.items():
            names: tuple[str, ...] = getattr(self, field)
            if len(names) != count:
                raise ValueError(f"{field}: {len(names)} names, the network has {count}")
            if not all(name.isprintable() for name in names):
                raise ValueError(f"{field}: a name contains control characters")


def named_attributes(architecture: Architecture, conventions: Conventions) -> int:
    """Return how many attributes have a name."""
    if architecture.attributes is None:
        return 0
    return architecture.attributes - (conventions.no_attribute != "absent")
