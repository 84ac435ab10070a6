"""Causes that can be recognised only by running the detector: a table of variants in which other code may have run it.

Each variant is tried on a few images: features are extracted again at the boxes of the other set, so that every region
has a counterpart whatever the proposals would be, and compared with the other set's features. A detector that cannot
compute features at given boxes (a query has its own box and feature) detects its own boxes, and the boxes of the other
set are searched among them, because the cause that changes the features also changes the boxes.

Shapes: M regions of the image in the other set, D feature channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vilbert.extractors.extractor import ExtractorError
from vilbert.extractors.preprocessing import Adjustable, Channels, moved_strides
from vilbert.pipeline.extract.prepare import Prepared
from vilbert.pipeline.rebuild.compare.detector import RunningDetector
from vilbert.pipeline.rebuild.compare.matching import match_boxes
from vilbert.pipeline.shards.failures import FailureRow

CAFFE_MEAN: Channels = (122.7717, 115.9465, 102.9801)
IMAGENET_MEAN: Channels = (123.675, 116.28, 103.53)
IMAGENET_STD: Channels = (58.395, 57.12, 57.375)
MEANS: dict[str, Channels] = {
    "means of Caffe (122.8, 115.9, 103.0)": CAFFE_MEAN,
    "means of ImageNet (123.7, 116.3, 103.5)": IMAGENET_MEAN,
    "means of 127.5": (127.5, 127.5, 127.5),
    "no means subtracted": (0.0, 0.0, 0.0),
}
STDS: dict[str, Channels] = {
    "PIXEL_STD 1": (1.0, 1.0, 1.0),
    "PIXEL_STD of ImageNet (58.4, 57.1, 57.4)": IMAGENET_STD,
    "PIXEL_STD 127.5": (127.5, 127.5, 127.5),
    "PIXEL_STD 255": (255.0, 255.0, 255.0),
}
NORMALISATIONS: dict[str, tuple[Channels, Channels]] = {
    "pixels divided by 255, not normalised": ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0)),
    "pixels from 0 to 255, not normalised": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "means and PIXEL_STD of 127.5 (pixels from -1 to 1)": ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
    "means and PIXEL_STD of ImageNet": (IMAGENET_MEAN, IMAGENET_STD),
    "means and PIXEL_STD of CLIP": ((122.7709, 116.746, 104.0937), (68.5005, 66.6322, 70.3232)),
}
"""Pairs of means and standard deviations."""
SIZES = ((600, 1000), (800, 1333), (480, 800), (320, 640))
"""Short and long sides to which published code resizes."""
SQUARES = (320, 512, 640, 800, 1024)
"""Sides of the squares to which published code resizes."""
FACTOR = 2.5
"""Maximum ratio to the detector's own size; other sizes are not tried."""
FILTERS: dict[str, Image.Resampling | None] = {
    "bilinear without antialiasing (OpenCV)": None,
    "bilinear with antialiasing (PIL)": Image.Resampling.BILINEAR,
    "bicubic (PIL)": Image.Resampling.BICUBIC,
    "nearest": Image.Resampling.NEAREST,
    "Lanczos (PIL)": Image.Resampling.LANCZOS,
}
"""Filters with which published code resizes; None if PIL does not have the filter."""
BATCH_SIZES = (2, 4, 8, 16, 32)
SAME_BOX = 0.9
"""Minimum IoU at which a detected box corresponds to a box of the other set."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """An image on which variants are tried."""

    prepared: Prepared
    boxes_xyxy: NDArray[np.float32]
    """[M, 4] boxes of the other set, in pixels of the stored image."""
    features: NDArray[np.float32]
    """[M, D] features of the other set."""
    batch_sizes: Callable[[int], list[tuple[int, int]]] = lambda size: []
    """Maps a batch size to the (height, width) of the images of this image's batch in the other set."""


Run = Callable[[Case], "NDArray[np.float32] | None"]


class Variant(NamedTuple):
    """One way to run the detector."""

    label: str
    run: Run
    """Returns the features [M, D] of a case, NaN for regions that are not found; None if it returns no features."""


def features_at(
    detector: RunningDetector,
    case: Case,
    pixels: NDArray[np.uint8] | None = None,
    boxes_xyxy: NDArray[np.float32] | None = None,
) -> NDArray[np.float32] | None:
    """Return a detector's features [M, D] at a case's boxes, or at other boxes in other pixels of its image."""
    image = case.prepared.image
    wanted = (case.boxes_xyxy if boxes_xyxy is None else boxes_xyxy).astype(np.float32)
    given = getattr(detector.extractor, "given_features", True)
    item = replace(
        case.prepared,
        row=0,
        image=image if pixels is None else replace(image, pixels=np.ascontiguousarray(pixels)),
        boxes=wanted if given else None,
    )
    (found,) = detector.run([item])
    if isinstance(found, FailureRow) or (given and len(found.regions) != len(wanted)):
        return None
    features = found.regions.features.astype(np.float32)
    if given:
        return features
    pairs = match_boxes(wanted, found.regions.boxes, SAME_BOX)
    at_boxes = np.full((len(wanted), features.shape[1]), np.nan, np.float32)
    at_boxes[pairs.a] = features[pairs.b]
    return at_boxes


def unchanged(detector: RunningDetector) -> Variant:
    """Return the unchanged detector."""
    return Variant("unchanged", lambda case: features_at(detector, case))


def _swapped(detector: RunningDetector) -> Iterator[Variant]:
    yield Variant(
        "red and blue swapped", lambda case: features_at(detector, case, case.prepared.image.pixels[:, :, ::-1])
    )


def _means(detector: RunningDetector) -> Iterator[Variant]:
    if isinstance(detector.extractor, Adjustable):
        own = detector.extractor.preprocessing.mean
        others = {**MEANS, "means of red and blue swapped": own[::-1]}
        yield from (adjusted(detector, label, mean=mean) for label, mean in others.items() if _far(mean, own))


def _stds(detector: RunningDetector) -> Iterator[Variant]:
    if isinstance(detector.extractor, Adjustable):
        own = detector.extractor.preprocessing.std
        others = {**STDS, "PIXEL_STD of red and blue swapped": own[::-1]}
        yield from (adjusted(detector, label, std=std) for label, std in others.items() if _far(std, own))


def _normalisations(detector: RunningDetector) -> Iterator[Variant]:
    if isinstance(detector.extractor, Adjustable):
        own = detector.extractor.preprocessing
        for label, (mean, std) in NORMALISATIONS.items():
            if _far(mean, own.mean) and _far(std, own.std):  # else it is one of those above
                yield adjusted(detector, label, mean=mean, std=std)


def _far(one: Channels, other: Channels) -> bool:
    return not np.allclose(one, other, atol=0.01)


def _sizes(detector: RunningDetector) -> Iterator[Variant]:
    if not isinstance(detector.extractor, Adjustable):
        return
    own = detector.extractor.preprocessing
    sizes = [(*size, False) for size in SIZES] + [(side, side, True) for side in SQUARES if own.square]
    for short, long, square in sizes:
        same = (short, long, square) == (own.short_side, own.long_side, own.square)
        if not same and 1 / FACTOR <= short / max(own.short_side, 1) <= FACTOR:
            label = f"a square of {short} pixels" if square else f"short side {short}, long side at most {long}"
            yield adjusted(detector, label, short_side=short, long_side=long, square=square)


def _filters(detector: RunningDetector) -> Iterator[Variant]:
    for label, resampling in FILTERS.items():
        yield Variant(f"resized {label}", partial(resized_first, detector, resampling))


def resized_first(
    detector: RunningDetector, resampling: Image.Resampling | None, case: Case
) -> NDArray[np.float32] | None:
    """Return the features of an image that is resized before the detector, which then does not resize it."""
    import torch

    from vilbert.extractors.boxes import scale_boxes

    pixels = case.prepared.image.pixels
    stored = (pixels.shape[0], pixels.shape[1])
    shape = detector.extractor.resized_shape(*stored)
    if shape == stored or detector.extractor.resized_shape(*shape) != shape:
        return None
    if resampling is None:
        planes = torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)[None]
        planes = torch.nn.functional.interpolate(planes, shape, mode="bilinear", align_corners=False)
        resized = planes[0].permute(1, 2, 0).round().byte().numpy()
    else:
        resized = np.asarray(Image.fromarray(pixels).resize(shape[::-1], resampling))
    boxes_xyxy = scale_boxes(torch.from_numpy(case.boxes_xyxy.astype(np.float32)), stored, shape).numpy()
    return features_at(detector, case, resized, boxes_xyxy)


def _strides(detector: RunningDetector) -> Iterator[Variant]:
    if not isinstance(detector.extractor, Adjustable):
        return
    network = detector.extractor.network
    with moved_strides(network) as blocks:
        pass
    if blocks:

        def run(case: Case) -> NDArray[np.float32] | None:
            with moved_strides(network):
                return features_at(detector, case)

        yield Variant("stride in the other convolution of the blocks", run)


def _layers(detector: RunningDetector) -> Iterator[Variant]:
    other = {"fc6": "fc7", "fc7": "fc6"}.get(str(detector.facts.get("feature_layer")))
    if other:
        yield rebuilt(detector, f"layer {other}", feature_layer=other)


def _precisions(detector: RunningDetector) -> Iterator[Variant]:
    own = detector.facts.get("precision")
    names: tuple[str, ...] = () if own is None else ("fp32", "bf16", "fp16")
    if detector.facts["device"] == "cpu":
        names = names[:2]  # float16 is not made for a CPU, and slow there
    yield from (rebuilt(detector, f"precision {name}", precision=name) for name in names if name != own)


def _padding(detector: RunningDetector) -> Iterator[Variant]:
    if isinstance(detector.extractor, Adjustable):
        for size in BATCH_SIZES:
            yield Variant(f"batches of {size} images", partial(padded, detector, size))


def padded(detector: RunningDetector, batch_size: int, case: Case) -> NDArray[np.float32] | None:
    """Return the features of an image that is padded to the largest of its batch; None if that changes nothing."""
    extractor = detector.extractor
    assert isinstance(extractor, Adjustable)
    own = extractor.resized_shape(*case.prepared.image.pixels.shape[:2])
    shapes = [own, *(extractor.resized_shape(*size) for size in case.batch_sizes(batch_size))]
    height, width = (max(sides) for sides in zip(*shapes, strict=True))
    if (height, width) == own:
        return None
    changed = replace(extractor.preprocessing, pad_to=(height, width))
    return features_at(detector.with_extractor(extractor.with_preprocessing(changed)), case)


SUSPECTS: dict[str, tuple[Callable[[RunningDetector], Iterator[Variant]], ...]] = {
    "channels-swapped": (_swapped,),
    "wrong-mean": (_means,),
    "wrong-std": (_stds,),
    "wrong-normalisation": (_normalisations,),
    "other-resize": (_sizes, _filters),
    "stride-in-1x1": (_strides,),
    "another-layer": (_layers,),
    "other-precision": (_precisions,),
    "batch-padding": (_padding,),
}
"""Variants of the detector by the cause that they would show."""
SUBTLE = ("other-precision",)
"""Causes of small differences, which are tried if the unchanged detector is close."""


def adjusted(detector: RunningDetector, label: str, **changes: Any) -> Variant:
    """Return a variant with other preprocessing."""
    extractor = detector.extractor
    assert isinstance(extractor, Adjustable)
    other = detector.with_extractor(extractor.with_preprocessing(replace(extractor.preprocessing, **changes)))
    return Variant(label, lambda case: features_at(other, case))


def rebuilt(detector: RunningDetector, label: str, **changes: Any) -> Variant:
    """Return a variant with other settings, built when it first runs; it returns nothing if that is impossible."""
    built: list[RunningDetector | None] = []

    def run(case: Case) -> NDArray[np.float32] | None:
        if not built:
            try:
                built.append(detector.changed(**changes))
            except (ExtractorError, ValueError):
                built.append(None)
        return None if built[0] is None else features_at(built[0], case)

    return Variant(label, run)
