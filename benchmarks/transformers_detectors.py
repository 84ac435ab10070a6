"""Measure the cost of box features: `--detector transformers` and `vit`, compared with the library's own pass.

The library's pass is its image processor, the model's forward and its post-processing: boxes, labels and scores without
features. Ours returns the same boxes with their features, selected and in the arrays that are stored. Both use the same
weights and images and take turns in one run; the table has medians in images per second. Models have the sizes of
published ones and random weights.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

import numpy as np
import torch
import tyro

from benchmarks.machine import versions
from benchmarks.model import markdown
from vilbert.extractors.extractor import DetectorSettings, ExtractorSettings, build_extractor


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How much of it."""

    models: tuple[Literal["rt_detr_v2", "d_fine", "yolos", "dinov2"], ...] = ("rt_detr_v2", "d_fine", "yolos", "dinov2")
    """Families, in the sizes of rtdetr_v2_r50vd, dfine-large, yolos-small and dinov2-small."""
    images: int = 4
    """Photographs of 640 x 480 pixels per batch."""
    rounds: int = 3
    """Number of turns."""
    device: Literal["cpu", "cuda"] = "cuda" if torch.cuda.is_available() else "cpu"
    """Where the models run."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Precision of our pass; the library's is float32."""
    threads: int = 1
    """Threads of torch on a CPU."""
    json: bool = False
    """Print JSON."""


def make_model(name: str) -> tuple[Any, Any, str]:
    """Return a model of a published size with random weights, its image processor, and our detector's name."""
    import transformers as hf

    config: Any
    labels = {index: f"thing {index}" for index in range(80)}
    if name == "rt_detr_v2":
        config = hf.RTDetrV2Config(id2label=labels)
        return hf.RTDetrV2ForObjectDetection(config), hf.RTDetrImageProcessor(), "transformers"
    if name == "d_fine":
        config = hf.DFineConfig(id2label=labels)
        return hf.DFineForObjectDetection(config), hf.RTDetrImageProcessor(), "transformers"
    if name == "yolos":
        sizes: dict[str, Any] = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}
        config = hf.YolosConfig(id2label=labels, image_size=[512, 864], **sizes)
        return hf.YolosForObjectDetection(config), hf.YolosImageProcessor(), "transformers"
    sizes = {"hidden_size": 384, "num_attention_heads": 6, "image_size": 518, "patch_size": 14}
    processor = hf.BitImageProcessor(size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224})
    return hf.Dinov2Model(hf.Dinov2Config(**sizes)), processor, "vit"


@torch.inference_mode()
def their_pass(model: Any, processor: Any, images: list[Any], device: str) -> None:
    """Run the library's own pass."""
    inputs = processor(images=images, return_tensors="pt", device=device)
    output = model(**inputs.to(device))
    if hasattr(output, "pred_boxes"):
        sizes = [image.shape[:2] for image in images]
        results = processor.post_process_object_detection(output, threshold=0.05, target_sizes=sizes)
        [result["boxes"].cpu() for result in results]
    else:
        output.last_hidden_state.cpu()


def seconds(run: Callable[[], object]) -> float:
    """Return the seconds that one call takes."""
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def measure(name: str, settings: Settings) -> dict[str, object]:
    """Return one row of the table."""
    images = [np.random.default_rng(i).integers(0, 256, (480, 640, 3)).astype(np.uint8) for i in range(settings.images)]
    torch.manual_seed(0)
    model, processor, detector = make_model(name)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        made = DetectorSettings(detector=detector, weights=folder, device=settings.device, precision=settings.precision)
        extractor = build_extractor(ExtractorSettings(detector=made))
    model = model.eval().to(settings.device)
    ways: dict[str, Callable[[], object]] = {
        "library": lambda: their_pass(model, processor, images, settings.device),
        "ours": lambda: extractor.extract(images, [None] * len(images)),
    }
    for run in ways.values():
        run()
    turns = [{way: seconds(run) for way, run in ways.items()} for _ in range(settings.rounds)]
    times = {way: [turn[way] for turn in turns] for way in ways}
    rates = {way: settings.images / median(measured) for way, measured in times.items()}
    return {
        "model": name,
        "library, images/s": round(rates["library"], 2),
        "ours, images/s": round(rates["ours"], 2),
        "ratio": round(rates["ours"] / rates["library"], 2),
    }


def main() -> None:
    """Measure and print."""
    settings = tyro.cli(Settings, prog="python -m benchmarks.transformers_detectors")
    torch.set_num_threads(settings.threads)
    rows = [measure(name, settings) for name in settings.models]
    if settings.json:
        print(json.dumps({"versions": versions(settings.device), "rows": rows}))
        return
    print(markdown(list(rows[0]), [[str(value) for value in row.values()] for row in rows]))
    print(", ".join(f"{name} {value}" for name, value in versions(settings.device).items()))


if __name__ == "__main__":
    main()
