"""Images per second of the detectors: each way to compute beside the plain one, by turns, and beside their floor.

`butd-r101` at its published sizes (ResNet-101 C4, 300 proposals, 1600 classes, 400 attributes) with random weights:
float32 as the modules stand, norms folded, channels last, reduced precision, and images of one shape in a batch; the
plain network of detectron2 with the same weights where it can be imported. The floor is the operations that PyTorch
counts over the rate of a matrix product of the same precision, measured in the same run. Then R50-FPN beside
torchvision's own pass, what reduced precision changes (`shapes`, a trained detector: cosines, kept boxes;
`butd-r101`: cosines at given boxes), and peak memory. `--short` is a small network, to see that all of it runs.
"""

from __future__ import annotations

import contextlib
import copy
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any, Literal, cast
from unittest import mock

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import versions
from benchmarks.model import markdown
from benchmarks.rounded_products import RoundedProducts
from vilbert.extractors.assemble import assemble_regions
from vilbert.extractors.detectors.visual_genome import extractor as module
from vilbert.extractors.detectors.visual_genome.backbone import FrozenNorm
from vilbert.extractors.detectors.visual_genome.conventions import Architecture, DetectorFile
from vilbert.extractors.detectors.visual_genome.extractor import VisualGenomeExtractor
from vilbert.extractors.detectors.visual_genome.geometry import cell_anchors
from vilbert.extractors.detectors.visual_genome.layouts import rename
from vilbert.extractors.detectors.visual_genome.network import Network
from vilbert.extractors.detectors.visual_genome.presets import AIRSPLAY
from vilbert.extractors.detectors.visual_genome.specs import RunSettings
from vilbert.extractors.extractor import DetectorSettings, ExtractorSettings, build_extractor
from vilbert.extractors.regions import Regions
from vilbert.extractors.selection import SelectionSettings
from vilbert.pipeline.allocator import keep_freed_memory

R101 = Architecture(
    blocks=(3, 4, 23, 3),
    stem_channels=64,
    width=64,
    groups=1,
    res2_channels=256,
    pyramid_channels=None,
    rpn_channels=512,
    hidden_channels=None,
    classes=1600,
    attributes=401,
    attribute_embedding=256,
    attribute_hidden=512,
)
SHORT = replace(R101, blocks=(1, 1, 1, 1), stem_channels=8, width=8, res2_channels=32, rpn_channels=32)
PLAIN = "float32, as the modules stand"
MOST_SELECTION, LEAST_COSINE, LEAST_SAME = 0.05, 0.999, 0.99
Precision = Literal["fp32", "bf16", "fp16"]
Device = Literal["cpu", "cuda"]
REDUCED: dict[Device, tuple[Precision, ...]] = {"cpu": ("bf16",), "cuda": ("bf16", "fp16")}
"""Precisions that are measured; float16 is emulated on a CPU."""
DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
Image = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How much of it."""

    rounds: int = 2
    """Turns; the fastest of each way counts."""
    batch: int = 2
    """Images of the batch of one shape."""
    threads: int = 2
    """Of torch, on a CPU."""
    device: Device = "cuda" if torch.cuda.is_available() else "cpu"
    """Where the detectors run."""
    short: bool = False
    """A small network and small images."""
    memory_of: tuple[int, int] | None = None
    """Measure the peak memory of one image of this height and width alone; the benchmark starts itself with it."""
    scenes: int = 120
    """Images of the comparison of precisions."""
    only_precision: bool = False
    """Compare precisions, and measure no time and no memory."""
    json: bool = False
    """Print one JSON object in place of the tables."""


def fast_precisions(device: Device) -> tuple[Precision, ...]:
    """Return the reduced precisions that the device computes itself; a CPU without bfloat16 takes minutes an image."""
    if device == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return ()
    return REDUCED[device]


def picture(height: int, width: int, seed: int = 0) -> Image:
    """Return an image of smooth noise."""
    small = np.random.default_rng(seed).integers(0, 256, (height // 16 + 1, width // 16 + 1, 3)).astype(np.uint8)
    return np.ascontiguousarray(small.repeat(16, axis=0).repeat(16, axis=1)[:height, :width])


def random_network(architecture: Architecture) -> Network:
    """Return the network with weights that keep activations finite."""
    torch.manual_seed(0)
    network = Network(architecture, AIRSPLAY).eval().requires_grad_(False)
    for name, part in network.named_modules():
        if isinstance(part, FrozenNorm):
            part.weight.fill_(0.2 if name.endswith("conv3.norm") else 1.0)
            part.running_var.fill_(0.3)
    network.anchors[0].copy_(cell_anchors(AIRSPLAY, (16,))[0])
    return network


def butd(
    network: Network,
    device: Device,
    *,
    precision: Precision = "fp32",
    folded: bool = True,
    last: bool | None = None,
    boxes: str = "36",
) -> VisualGenomeExtractor:
    """Return the extractor of a copy of the network; folded and last: how it would be computed otherwise."""
    names = tuple(f"thing {number}" for number in range(1600)), tuple(f"kind {number}" for number in range(400))
    facts = {"layout": "", "source_sha256": "", "tensors_sha256": "", "preset": "airsplay"}
    file = cast(DetectorFile, mock.Mock(detector="butd-r101", class_names=names[0], attribute_names=names[1], **facts))
    made = VisualGenomeExtractor(
        file=file,
        network=copy.deepcopy(network),
        run=RunSettings(),
        detector=DetectorSettings(detector="butd-r101", weights="random", device=device, precision=precision),
        selection=SelectionSettings(boxes=boxes),
    )
    if not folded:
        made.network = copy.deepcopy(network).to(device)
    if last is not None:
        made._layout = torch.channels_last if last else torch.preserve_format
        made.network = made.network.to(memory_format=torch.channels_last if last else torch.contiguous_format)
    return made


def plain_detectron2(network: Network, short: bool) -> Callable[[Image], object] | None:
    """Return detectron2's own pass over an image with the weights of butd-r101; None where it cannot be imported."""
    if short or find_spec("detectron2") is None:
        return None
    # not model_zoo, which needs pkg_resources, which setuptools no longer has
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    conventions = network.conventions
    config = get_cfg()  # the defaults are a C4 Faster R-CNN; these are the settings of faster_rcnn_R_101_C4_3x.yaml
    config.MODEL.DEVICE = "cpu"
    config.MODEL.RESNETS.DEPTH = 101
    config.MODEL.ANCHOR_GENERATOR.SIZES = [list(conventions.anchor_sizes[0])]
    config.MODEL.RPN.CONV_DIMS = [network.rpn.conv.out_channels]
    config.MODEL.RPN.PRE_NMS_TOPK_TEST = conventions.rpn_pre_nms
    config.MODEL.RPN.POST_NMS_TOPK_TEST = conventions.rpn_post_nms
    config.MODEL.ROI_HEADS.NUM_CLASSES = 1600
    config.MODEL.ROI_BOX_HEAD.POOLER_TYPE = "ROIPool"
    config.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = conventions.pool_size
    model = build_model(config).eval()
    ours = network.state_dict()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if not name.startswith("pixel_") and "cell_anchors" not in name:
                (renamed,) = rename({name: tensor}, "airsplay")
                tensor.copy_(ours[renamed])
    first = model.roi_heads.res5[0]
    first.conv1.stride = first.shortcut.stride = (1, 1)
    for block in model.roi_heads.res5:
        block.conv2.dilation = block.conv2.padding = (2, 2)

    def run(image: Image) -> object:
        with torch.inference_mode():
            tensor = torch.from_numpy(image.transpose(2, 0, 1).copy()).float()
            return model([{"image": tensor, "height": image.shape[0], "width": image.shape[1]}])

    return run


def seconds(run: Callable[[], object]) -> float:
    """Return the seconds of one call."""
    begun = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def matrix_rate(precision: Precision, device: str, size: int) -> float:
    """Return the operations per second of a matrix product, the best of five."""
    left, right = (torch.randn(size, size, device=device, dtype=DTYPES[precision]) for _ in range(2))
    left @ right
    return 2 * size**3 / min(seconds(lambda: left @ right) for _ in range(5))


class SelectionClock:
    """Adds up the seconds of `assemble_regions`."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._inner = assemble_regions

    def __call__(self, **arguments: Any) -> Regions:
        begun = time.perf_counter()
        found = self._inner(**arguments)
        self.seconds += time.perf_counter() - begun
        return found


@contextlib.contextmanager
def clocked() -> Iterator[SelectionClock]:
    """Time the selection of regions in the block."""
    clock = SelectionClock()
    with mock.patch.object(module, "assemble_regions", clock):
        yield clock


def measure_butd(settings: Settings) -> dict[str, Any]:
    """Return the rows of butd-r101, and what they were measured with."""
    device = settings.device
    network = random_network(SHORT if settings.short else R101)
    shape = (120, 160) if settings.short else (600, 800)
    if settings.short:
        network.conventions = replace(network.conventions, min_size=120, max_size=200)
    images = [picture(*shape, seed) for seed in range(settings.batch)]
    reduced = fast_precisions(device)
    made: dict[str, tuple[VisualGenomeExtractor, int, Precision]] = {
        PLAIN: (butd(network, device, folded=False, last=False), 1, "fp32"),
        "norms folded": (butd(network, device, last=False), 1, "fp32"),
        "norms folded, channels last": (butd(network, device, last=True), 1, "fp32"),
    }
    for precision in reduced:
        fast = butd(network, device, precision=precision)
        made[f"norms folded, channels last, {precision}"] = (fast, 1, precision)
        made[f"the same, {settings.batch} images at once"] = (fast, settings.batch, precision)
    ways: dict[str, tuple[Callable[[], object], int]] = {
        name: (lambda e=e, n=n: e.extract(images[:n], [None] * n), n)  # type: ignore[misc]
        for name, (e, n, _) in made.items()
    }
    other = plain_detectron2(network, settings.short)
    if other is not None:
        ways["detectron2, float32"] = (lambda: other(images[0]), 1)
    with FlopCounterMode(display=False) as counter:
        ways[PLAIN][0]()
    operations = counter.get_total_flops()
    rates = {
        precision: matrix_rate(precision, device, 512 if settings.short else 2048) for precision in ("fp32", *reduced)
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    shares: dict[str, float] = {}
    for _ in range(settings.rounds):
        for name, (run, count) in ways.items():
            with clocked() as clock:
                taken = seconds(run)
            times[name].append(taken / count)
            shares[name] = clock.seconds / taken
    best = {name: min(taken) for name, taken in times.items()}
    rows = {}
    for name in ways:
        precision = made[name][2] if name in made else "fp32"
        rows[name] = {
            "images_per_second": 1 / best[name],
            "times_plain": best[PLAIN] / best[name],
            "times_detectron2": best["detectron2, float32"] / best[name] if other else None,
            "share_of_floor": operations / rates[precision] / best[name],
            "selection_share": shares[name] if name in made else None,
        }
    boxes = given_boxes(shape, 36)
    exact = made[PLAIN][0].extract(images[:1], [boxes])[0].features
    cosines = {
        name: float(cosine(exact, e.extract(images[:1], [boxes])[0].features).min())
        for name, (e, n, _) in made.items()
        if n == 1 and name != PLAIN
    }
    return {
        "rows": rows,
        "gflop": operations / 1e9,
        "matrix_gflops": {k: v / 1e9 for k, v in rates.items()},
        "least_cosine_at_given_boxes": cosines,
    }


def given_boxes(shape: tuple[int, int], count: int) -> NDArray[np.float32]:
    """Return boxes inside an image."""
    draw = np.random.default_rng(0)
    corners = np.sort(draw.uniform(0, 1, (count, 2, 2)), axis=1) * np.array([shape[1], shape[0]])
    corners[:, 1] = np.maximum(corners[:, 1], corners[:, 0] + 8)
    boxes: NDArray[np.float32] = np.minimum(corners.reshape(count, 4), [shape[1], shape[0]] * 2).astype(np.float32)
    return boxes


def cosine(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """Return the cosine of each row of a with that of b."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    found: NDArray[np.float64] = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return found


def measure_r50(settings: Settings) -> dict[str, float]:
    """Return images per second of R50-FPN: torchvision's own pass, and ours with features, in both precisions."""
    name: Literal["mobilenet_v3_large_320_fpn", "resnet50_fpn"]
    name = "mobilenet_v3_large_320_fpn" if settings.short else "resnet50_fpn"
    image = picture(240, 320) if settings.short else picture(600, 800)
    device = settings.device
    precisions: tuple[Precision, ...] = ("fp32", *fast_precisions(device)[:1])
    ours: dict[str, Any] = {
        precision: build_extractor(
            ExtractorSettings(
                detector=DetectorSettings(
                    detector="torchvision", torchvision_model=name, weights="random", device=device, precision=precision
                )
            )
        )
        for precision in precisions
    }
    from torchvision.models import detection

    bare = getattr(detection, f"fasterrcnn_{name}")(weights=None, weights_backbone=None).eval().to(device)
    tensor = torch.from_numpy(image.transpose(2, 0, 1) / np.float32(255)).to(device)

    def theirs() -> object:
        with torch.inference_mode():
            return bare([tensor])

    ways: dict[str, Callable[[], object]] = {"torchvision, float32": theirs}
    ways |= {f"ours, {p}": (lambda e=e: e.extract([image], [None])) for p, e in ours.items()}  # type: ignore[misc]
    for run in ways.values():
        run()
    turns = [{way: seconds(run) for way, run in ways.items()} for _ in range(settings.rounds + 1)]
    return {way: 1 / statistics.median(turn[way] for turn in turns) for way in ways}


def measure_precision(settings: Settings) -> dict[str, dict[str, float]]:
    """Return what reduced precision changes in the regions of the trained detector `shapes`, by precision."""
    from vilbert.pipeline.shapes.render import paint
    from vilbert.pipeline.shapes.scene import make_scene

    images = [paint(make_scene(0, number)) for number in range(4 if settings.short else settings.scenes)]
    selection = SelectionSettings(boxes="2-20", confidence=0.5)
    found: dict[str, list[Regions]] = {}
    cosines: dict[str, float] = {}
    for precision in DTYPES:
        detector = DetectorSettings(detector="shapes", device=settings.device, precision=cast(Precision, precision))
        extractor = build_extractor(ExtractorSettings(detector=detector, selection=selection))
        with RoundedProducts() if settings.device == "cpu" else contextlib.nullcontext():  # type: ignore[no-untyped-call]
            found[precision] = [extractor.extract([image], [None])[0] for image in images]
            exact = found["fp32"]
            given = [extractor.extract([im], [it.boxes])[0].features for im, it in zip(images, exact, strict=True)]
        cosines[precision] = min(float(cosine(a.features, b).min()) for a, b in zip(exact, given, strict=True))
    return {
        precision: {
            "least_cosine": cosines[precision],
            "same_boxes": same_boxes(found["fp32"], found[precision]),
            "boxes": sum(map(len, found["fp32"])),
        }
        for precision in ("bf16", "fp16")
    }


def same_boxes(exact: list[Regions], other: list[Regions]) -> float:
    """Return the share of kept boxes that are the same to 2 pixels; additional boxes are different ones."""
    same = total = 0
    for a, b in zip(exact, other, strict=True):
        distances = np.abs(a.boxes[:, None] - b.boxes[None]).max(axis=2)
        same += int((distances.min(axis=1, initial=np.inf) <= 2).sum())
        total += max(len(a), len(b))
    return same / total


def peak_memory(settings: Settings) -> float:
    """Return the peak memory in MB of this process for one image of `memory_of`."""
    assert settings.memory_of is not None
    precision: Precision = "fp32" if settings.device == "cpu" else "bf16"
    detector = butd(random_network(SHORT if settings.short else R101), settings.device, precision=precision)
    detector.extract([picture(*settings.memory_of)], [None])
    if settings.device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def measure_memory(settings: Settings) -> dict[str, float]:
    """Return the peak memory in MB, each image in a process of its own."""
    found = {}
    for height, width in ((800, 1333), (5000, 300)):
        options = ["--memory-of", str(height), str(width), "--device", settings.device]
        options += ["--threads", str(settings.threads), *(["--short"] if settings.short else [])]
        command = [sys.executable, "-m", "benchmarks.detectors", *options]
        found[f"{height}x{width}"] = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def tables(found: dict[str, Any]) -> str:
    """Return all that was measured as Markdown."""

    def number(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    rows = [
        [
            name,
            f"{row['images_per_second']:.3f}",
            f"{row['times_plain']:.2f}",
            number(row["times_detectron2"], ".2f"),
            f"{row['share_of_floor']:.0%}",
            number(row["selection_share"], ".1%"),
        ]
        for name, row in found["butd"]["rows"].items()
    ]
    heads = ["butd-r101", "images/s", "times plain", "times detectron2", "share of the floor", "selection"]
    r50 = found["r50"]
    first = r50["torchvision, float32"]
    memory = ", ".join(f"{name} {value:,.0f} MB" for name, value in found["memory"].items())
    kept = [
        [f"{name}, {it['boxes']} boxes", f"{it['least_cosine']:.5f}", f"{it['same_boxes']:.1%}"]
        for name, it in found["reduced precision"].items()
    ]
    given = [[name, f"{value:.5f}", ""] for name, value in found["butd"]["least_cosine_at_given_boxes"].items()]
    return "\n\n".join(
        [
            markdown(heads, rows),
            markdown(["R50-FPN", "images/s", "ratio"], [[w, f"{v:.2f}", f"{v / first:.2f}"] for w, v in r50.items()]),
            markdown(["beside float32", "least cosine", "the same kept boxes"], [*kept, *given]),
            f"Peak memory: {memory}",
            ", ".join(f"{name} {value}" for name, value in found["versions"].items()),
        ]
    )


def main(settings: Settings) -> int:
    """Measure and print; return 1 where a bound of reduced precision or of selection is missed."""
    keep_freed_memory()  # as `vilbert extract` does
    torch.set_num_threads(settings.threads)
    if settings.memory_of is not None:
        print(peak_memory(settings))
        return 0
    if settings.only_precision:
        print(json.dumps(measure_precision(settings), indent=2))
        return 0
    found = {
        "butd": measure_butd(settings),
        "r50": measure_r50(settings),
        "reduced precision": measure_precision(settings),
        "memory": measure_memory(settings),
        "versions": versions(settings.device),
    }
    print(json.dumps(found, indent=2) if settings.json else tables(found))
    shares = [row["selection_share"] for row in found["butd"]["rows"].values() if row["selection_share"] is not None]
    missed = [f"selection takes {max(shares):.1%} of the time"] if max(shares) > MOST_SELECTION else []
    for name, it in found["reduced precision"].items():
        if it["least_cosine"] < LEAST_COSINE or it["same_boxes"] < LEAST_SAME:
            missed.append(f"{name}: cosine {it['least_cosine']:.5f}, {it['same_boxes']:.1%} of the boxes")
    print(*missed, sep="\n", file=sys.stderr)
    return int(bool(missed) and not settings.short)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings, prog="python -m benchmarks.detectors")))
