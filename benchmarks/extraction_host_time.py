"""Host time, launches and waits of an image in the detector's thread on a GPU, at batches of several sizes.

Extraction is bound by the CPU where a batch takes the detector's thread longer than the GPU. On the emulated device of
`../shared/emulated_gpu`, where kernels take no time and are not run, that is all that is measured:

    python -m benchmarks.extraction_host_time --emulator ../shared/emulated_gpu

(build it first: `bash build.sh` in a copy of that folder). On a real GPU, leave --emulator out: launches and waits are
then not counted. Host time is CPU time of the thread that calls `Extractor.extract`, from images that the decoders'
threads made ready to regions on the CPU.

Two operators do not run on the emulated device. Python functions take their places: a convolution of cuDNN allocates
its output and launches one kernel, and non-maximum suppression sorts, launches four kernels and waits once.

Kernels that are not run leave no numbers, and in four places numbers decide what the host does. There it gets these:
1,000 proposals survive suppression, they are spread evenly over the levels of the pyramid, each image has 36 regions,
and no image needs the selection for one image. Weights are random, images have 480 x 640 pixels, and the networks have
their full size.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast
from unittest import mock

import torch
import tyro
from torch import Tensor

from benchmarks.detectors import R101, butd, picture, random_network
from benchmarks.emulated_device import device_counts, launches, require_device, waits
from vilbert.extractors import assemble_batch, batch_proposals
from vilbert.extractors.assemble import to_host
from vilbert.extractors.extractor import DetectorSettings, ExtractorSettings, build_extractor
from vilbert.extractors.selection import SelectionSettings

HEIGHT, WIDTH, PROPOSALS, BOXES = 480, 640, 1000, 36


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to measure."""

    emulator: Path | None = None
    """Folder of the built emulator; default: the GPU of this machine."""
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    """That of `vilbert extract --precision`."""
    batch_sizes: tuple[int, ...] = (1, 4, 8, 16)
    """That of `vilbert extract --batch-size`."""
    batches: int = 20
    """Batches to measure, after three."""


def built(name: str, precision: Literal["fp32", "bf16", "fp16"]) -> Any:
    """Return a detector with random weights on the GPU."""
    if name == "butd-r101":
        return butd(random_network(R101), "cuda", precision=precision, boxes=str(BOXES))
    detector = DetectorSettings(detector="torchvision", weights="random", device="cuda", precision=precision)
    return build_extractor(ExtractorSettings(detector=detector, selection=SelectionSettings(boxes=str(BOXES))))


def told_to_host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy as `to_host`; the images have `BOXES` regions, which are exact."""
    copies = to_host(tensors)
    return {**copies, "counts": torch.full_like(copies["counts"], BOXES), "is_exact": copies["is_exact"] | True}


def told_regions_per_level(counts: Tensor) -> list[int]:
    """Wait for the GPU as `regions_per_level`; the regions of a batch are spread evenly."""
    every = int(counts.shape[0])
    to_host({"counts": counts})
    total = TOTAL[0]
    return [total // every + (level < total % every) for level in range(every)]


def convolution(
    pixels: Tensor,
    weight: Tensor,
    padding: list[int],
    stride: list[int],
    dilation: list[int],
    groups: int,
    benchmark: bool,
    deterministic: bool,
    allow_tf32: bool,
) -> Tensor:
    """Allocate the output of `aten::cudnn_convolution`, and launch one kernel."""
    sides = [
        (side + 2 * pad - spread * (kernel - 1) - 1) // step + 1
        for side, kernel, pad, step, spread in zip(
            pixels.shape[2:], weight.shape[2:], padding, stride, dilation, strict=True
        )
    ]
    shape = (len(pixels), len(weight), *sides)
    output = torch.empty(shape, dtype=pixels.dtype, device=pixels.device, memory_format=torch.channels_last)
    return output.zero_()


def told_nms(boxes_xyxy: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Do what torchvision's `nms` does on a GPU, but for its numbers."""
    order = scores.argsort(descending=True)
    boxes_xyxy[order]
    overlaps = torch.empty(len(order), -(-len(order) // 64), dtype=torch.int64, device=order.device).zero_()
    overlaps[:, 0].zero_()
    to_host({"count": overlaps[:1, 0]})
    return order[:PROPOSALS].clone()


TOTAL = [0]
"""Regions of the batch that is measured."""


def measure(name: str, settings: Settings) -> None:
    """Print the medians of a detector for each batch size, for an image."""
    extractor = built(name, settings.precision)
    for size in settings.batch_sizes:
        TOTAL[0] = size * PROPOSALS
        figures = []
        for number in range(3 + settings.batches):
            ready = [extractor.resize(picture(HEIGHT, WIDTH, seed)) for seed in range(size)]
            torch.cuda.synchronize()
            before, begun = device_counts(), time.thread_time()
            regions = extractor.extract(ready, [None] * size)
            spent, after = time.thread_time() - begun, device_counts()
            assert all(len(found) == BOXES for found in regions)
            if number >= 3:
                figures.append((1e3 * spent, launches(after) - launches(before), waits(after) - waits(before)))
        times, launched, waited = ([value / size for value in column] for column in zip(*figures, strict=True))
        print(
            f"| {name} | {size} | {statistics.median(times):.1f} ({min(times):.1f}) "
            f"| {statistics.median(launched):.0f} | {statistics.median(waited):.1f} |",
            flush=True,
        )


@torch.inference_mode()
def main() -> None:
    """Print the table."""
    settings = tyro.cli(Settings, description=__doc__)
    require_device("benchmarks.extraction_host_time", settings.emulator)
    torch.set_num_threads(1)
    print(f"{settings.precision}, for an image: medians of {settings.batches} batches (least host time)\n")
    print("| detector | batch | host time, ms | launches | waits |\n|---|---:|---:|---:|---:|")
    with ExitStack() as patches:
        if settings.emulator is not None:
            library: Any = cast(Any, torch.library.Library)("aten", "IMPL")
            library.impl("cudnn_convolution", convolution, "CUDA")
            patches.enter_context(mock.patch.object(assemble_batch, "to_host", told_to_host))
            patches.enter_context(mock.patch.object(batch_proposals, "nms", told_nms))
            patches.enter_context(mock.patch.object(batch_proposals, "regions_per_level", told_regions_per_level))
        for name in ("torchvision R50-FPN", "butd-r101"):
            measure(name, settings)


if __name__ == "__main__":
    main()
