"""Does the detector wait? Images/s of `vilbert extract` beside the bare detector's forward on the same images.

The bare detector is torchvision's or detectron2's own Faster R-CNN, called on tensors that are decoded (and for
detectron2 resized) already, in batches of as many images. On a CPU a third of its time and more goes into memory that
malloc gives back and takes again; the command's workers keep it (`vilbert.pipeline.allocator`), and a second row says
what the bare detector would do with that: no pipeline can pass this one.
Beside it the whole command, from its start to its end, with `--backend local` and with one worker of Ray: it reads and
decodes, selects boxes, keeps features, writes, hashes and fsyncs shards. Turn by turn in one run, medians. Exit status
1 below the limit.

The weights are random, but for the class predictor's, which are scaled until proposals are as sure of their class as a
trained detector's: how much there is to suppress and to select depends on it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
import torch
import tyro
from PIL import Image

from benchmarks.machine import versions
from benchmarks.model import markdown
from vilbert.extractors.extractor import DetectorSettings
from vilbert.pipeline.allocator import keep_freed_memory
from vilbert.pipeline.jobs.run_state import RunState, read_state
from vilbert.pipeline.shards.location.folder import open_folder

LEAST = {"cpu": 0.9, "cuda": 0.95}
"""Of the bare detector's images/s, by device."""
DRAWN = 200
"""Different images; more are copies of them."""
SURE = 0.3
"""Mean over proposals of the best foreground class's probability, after scaling."""
WAYS = {"local": ("--backend", "local"), "ray": ("--backend", "ray", "--workers", "1")}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How much of it."""

    images: int = 240
    """JPEGs, drawn scenes of 640 x 480 pixels."""
    bare_images: int | None = None
    """How many of them the bare detector sees; by default all."""
    batch_size: int = 8
    """Images a pass."""
    threads: int = 2
    """The command's --cpus-per-worker: decoding threads, and on a CPU the detector's."""
    detector: Literal["torchvision", "detectron2"] = "torchvision"
    """Whose Faster R-CNN."""
    model: Literal["resnet50_fpn", "resnet50_fpn_v2", "mobilenet_v3_large_fpn", "mobilenet_v3_large_320_fpn"] = (
        "resnet50_fpn"
    )
    """torchvision's fasterrcnn_NAME."""
    config_file: str | None = None
    """detectron2's config file."""
    device: Literal["cpu", "cuda"] = "cuda" if torch.cuda.is_available() else "cpu"
    """Where the detector runs."""
    ways: tuple[Literal["local", "ray"], ...] = ("local", "ray")
    """Backends of the command."""
    rounds: int = 1
    """Turns."""

    def detector_settings(self, weights: str) -> DetectorSettings:
        """Return which detector with which weights; the command gets the same by `options`."""
        return DetectorSettings(
            detector=self.detector,
            torchvision_model=self.model,
            config_file=self.config_file,
            weights=weights,
            device=self.device,
        )

    def options(self, weights: str) -> list[str]:
        """Return the command's options for the detector."""
        which = ["--torchvision-model", self.model] if self.config_file is None else ["--config-file", self.config_file]
        return ["--detector", self.detector, *which, "--weights", weights, "--device", self.device]


def prepare(folder: Path, settings: Settings) -> Path:
    """Draw the images and list them; return the manifest."""
    from vilbert.pipeline.shapes.render import render
    from vilbert.pipeline.shapes.scene import make_scene

    images, manifest = folder / "images", folder / "manifest.parquet"
    images.mkdir()
    for number in range(settings.images):
        path = images / f"{number:06d}.jpg"
        if number < DRAWN:
            render(make_scene(0, number)).convert("RGB").resize((640, 480)).save(path, quality=90)
        else:
            path.write_bytes((images / f"{number % DRAWN:06d}.jpg").read_bytes())
    run("manifest", images, "--output", manifest)
    return manifest


def run(*arguments: object) -> None:
    """Run a command of ours in a process of its own; stop where it fails."""
    command = [sys.executable, "-m", "vilbert.pipeline.cli", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)


def bare_detector(settings: Settings, weights: str) -> tuple[Any, Callable[[Path], Any]]:
    """Return the detector as its library has it, and what makes an input of it from a file."""
    from torchvision.transforms.functional import pil_to_tensor

    if settings.detector == "torchvision":
        from vilbert.extractors.detectors.torchvision_models import load_model

        model = load_model(settings.detector_settings(weights)).model.eval().to(settings.device)
        return model, lambda file: pil_to_tensor(Image.open(file)).to(settings.device) / 255

    from detectron2.data.transforms import ResizeShortestEdge

    from vilbert.extractors.detectors.detectron2_config import load_config
    from vilbert.extractors.detectors.detectron2_frcnn import load_model as load_detectron2

    assert settings.config_file is not None
    config = load_config(settings.config_file, ())
    model, _ = load_detectron2(settings.detector_settings(weights), config)
    model = model.eval().to(settings.device)
    resize = ResizeShortestEdge([config.INPUT.MIN_SIZE_TEST] * 2, config.INPUT.MAX_SIZE_TEST)

    def read(file: Path) -> Any:
        pixels = np.asarray(Image.open(file))[:, :, ::-1]
        resized = resize.get_transform(pixels).apply_image(pixels).transpose(2, 0, 1)
        return {"image": torch.from_numpy(np.ascontiguousarray(resized)).to(settings.device)}

    return model, read


@torch.inference_mode()
def make_weights(folder: Path, settings: Settings) -> str:
    """Write the weights that all of this is done with; return their path."""
    model, read = bare_detector(settings, "random")
    predictor = model.roi_heads.box_predictor
    background = 0 if settings.detector == "torchvision" else -1
    found: list[torch.Tensor] = []
    hook = predictor.cls_score.register_forward_hook(lambda _, __, logits: found.append(logits))
    image = read(folder / "images" / "000000.jpg")
    model([image]) if settings.detector == "torchvision" else model.inference([image], do_postprocess=False)
    hook.remove()
    logits = found[0].float()

    def sureness(scale: float) -> float:
        probs = ((logits - logits.mean(dim=0)) * scale).softmax(dim=1)
        probs[:, background] = 0
        return float(probs.max(dim=1).values.mean())

    scale = 1.0
    while sureness(scale) < SURE:
        scale *= 1.25
    predictor.cls_score.weight.mul_(scale)
    predictor.cls_score.bias.copy_(-scale * logits.mean(dim=0))
    path = folder / "weights.pth"
    torch.save(model.state_dict(), path)
    return str(path)


@torch.inference_mode()
def bare_rate(folder: Path, settings: Settings, weights: str) -> float:
    """Return the images/s of the detector's own forward, from tensors of decoded pixels."""
    torch.set_num_threads(settings.threads)
    model, read = bare_detector(settings, weights)
    forward: Any = model
    if settings.detector == "detectron2":
        forward = lambda batch: model.inference(batch, do_postprocess=False)  # noqa: E731
    files = sorted((folder / "images").iterdir())[: settings.bare_images]
    distinct = {index: read(file) for index, file in enumerate(files[:DRAWN])}
    batches = [
        [distinct[index % DRAWN] for index in range(start, min(start + settings.batch_size, len(files)))]
        for start in range(0, len(files), settings.batch_size)
    ]
    forward(batches[0])
    begun = time.monotonic()
    for batch in batches:
        forward(batch)
    if settings.device == "cuda":
        torch.cuda.synchronize()
    return len(files) / (time.monotonic() - begun)


def command(manifest: Path, output: Path, settings: Settings, weights: str, *way: str) -> tuple[float, RunState]:
    """Return how long the whole command takes, and its own account."""
    begun = time.monotonic()
    run(
        *("extract", manifest, "--output", output, *settings.options(weights), "--boxes", "36"),
        *("--batch-size", settings.batch_size, "--cpus-per-worker", settings.threads),
        *("--shard-size", min(512, max(8, settings.images // 4)), *way),
    )
    seconds = time.monotonic() - begun
    state = read_state(open_folder(output))
    assert state is not None
    if state.samples != settings.images:
        raise SystemExit(f"{state.samples} samples of {settings.images} images: {state.failures}")
    return seconds, state


def main(settings: Settings) -> int:
    """Print the table; return 1 where a way is below the limit."""
    least = LEAST[settings.device]
    print(json.dumps(versions(settings.device) | {"cpus": len(os.sched_getaffinity(0))}))
    keeping: list[float] = []
    found: dict[Literal["local", "ray"], list[tuple[float, RunState]]] = {way: [] for way in settings.ways}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest = prepare(folder, settings)
        weights = make_weights(folder, settings)
        bare = bare_rate(folder, settings, weights)
        keep_freed_memory()
        for number in range(settings.rounds):
            keeping.append(bare_rate(folder, settings, weights))
            for way in settings.ways:
                found[way].append(command(manifest, folder / f"{way}-{number}", settings, weights, *WAYS[way]))
    best = median(keeping)
    rows = [
        ["bare detector's forward", f"{bare:.2f}", "1.00", "", "", ""],
        ["the same, freed memory kept", f"{best:.2f}", f"{best / bare:.3f}", "", "", ""],
    ]
    kept = True
    for way, runs in found.items():
        images = settings.images / median(seconds for seconds, _ in runs)
        ready = settings.images / median(state.worker_seconds for _, state in runs)
        waited = median(state.detector_waited or 0.0 for _, state in runs)
        kept = kept and images / bare >= least
        times = f"{images / bare:.3f}"
        rows.append(
            [f"vilbert extract, {way}", f"{images:.2f}", times, f"{least}", f"{ready / bare:.3f}", f"{waited:.1%}"]
        )
    heads = ["way", "images/s", "times the bare detector", "limit", "once the detector is there", "detector waited"]
    print(markdown(heads, rows))
    return int(not kept)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings, description=__doc__)))
