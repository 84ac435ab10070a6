"""Extract with detectors on the CPU and on the emulated GPU; print how they differ, and what an image costs the GPU.

A program, run by `test_emulated_gpu`: an emulated device has to be there when torch is loaded.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any
from unittest import mock

import emulate
import numpy as np

emulate.install()

from benchmarks.detectors import R101, butd, random_network  # noqa: E402 (a GPU has to be there first)
from vilbert.extractors import batch_selection  # noqa: E402
from vilbert.extractors.extractor import DetectorSettings, ExtractorSettings, build_extractor  # noqa: E402
from vilbert.extractors.regions import Regions  # noqa: E402
from vilbert.extractors.selection import SelectionSettings  # noqa: E402

BATCH = 4
THIN = replace(R101, stem_channels=8, width=8, res2_channels=32, rpn_channels=32)
"""R101-C4 with 1600 classes: as many layers, so as many launches."""

SHARPER = 30.0
"""Factor of the weights of the classifier, so that a few dozen boxes have a probable class, as of a trained network."""


def r50_fpn(device: str) -> Any:
    """Return R50-FPN of torchvision with random weights, for small images and few proposals."""
    settings = DetectorSettings(detector="torchvision", weights="random", device=device)
    extractor: Any = build_extractor(
        ExtractorSettings(detector=settings, selection=SelectionSettings(boxes="10-36", confidence=0.012))
    )
    extractor.network.rpn._post_nms_top_n["testing"] = 200
    return extractor.with_preprocessing(replace(extractor.preprocessing, short_side=96, long_side=160))


def r101_c4(device: Any) -> Any:
    """Return the thin R101-C4, for small images."""
    network = random_network(THIN)
    network.predictor.cls_score.weight.mul_(SHARPER)
    extractor = butd(network, device, boxes="2-36")
    return extractor.with_preprocessing(replace(extractor.preprocessing, short_side=96, long_side=160))


def picture(seed: int) -> Any:
    """Return an image of smooth noise."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    return np.ascontiguousarray(small.repeat(16, axis=0).repeat(16, axis=1))


def difference(one: Regions, other: Regions) -> dict[str, float]:
    """Return how two results for an image differ."""
    if len(one) != len(other):
        return {"count": abs(len(one) - len(other))}
    features = one.features.astype(float)
    return {
        "count": 0,
        "boxes": float(np.abs(one.boxes - other.boxes).max()),
        "features": float(np.abs(features - other.features).max() / np.abs(features).max()),
        "objects": int((one.object_ids != other.object_ids).sum()),
    }


def main() -> None:
    """Print JSON: differences, and launches and waits for the GPU per image of a batch."""
    images = [picture(seed) for seed in range(BATCH)]
    found: dict[str, Any] = {}
    for name, build in (("r50_fpn", r50_fpn), ("r101_c4", r101_c4)):
        expected = build("cpu").extract(images, [None] * BATCH)
        extractor = build("cuda")
        extractor.extract(images[:1], [None])
        resize = getattr(extractor, "resize", lambda image: image)
        ready = [resize(image) for image in images]
        emulate.STATS.reset()
        regions = extractor.extract(ready, [None] * BATCH)
        stats = emulate.STATS
        found[name] = {
            "regions": [len(it) for it in regions],
            "differences": [difference(*pair) for pair in zip(expected, regions, strict=True)],
            "launches": sum(stats.launch.values()) / BATCH,
            "waits": sum(stats.syncs.values()) / BATCH,
            "places": {place[:200]: count / BATCH for place, count in stats.syncs.most_common(40)},
            "refused": dict(stats.real_failed),
        }
        with mock.patch.object(batch_selection, "PAIRS", 1):  # no selection is exact: image by image
            one_by_one = extractor.extract(ready, [None] * BATCH)
        found[name]["differences"] += [difference(*pair) for pair in zip(expected, one_by_one, strict=True)]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
