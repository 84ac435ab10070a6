"""Does the detector wait? Images/s of `vilbert extract` beside the bare detector's forward on the same images.

The bare detector is torchvision's own Faster R-CNN, called on tensors that are decoded already, in batches of as many
images; what it stands for is the limit that no pipeline can pass. Beside it the whole command, from its start to its
end, with `--backend local` and with one worker of Ray: it reads and decodes, selects boxes, keeps features, writes,
hashes and fsyncs shards. Turn by turn in one run, medians. Exit status 1 below the limit.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal

# Python looks in the folder of the file it runs first, where `model` would be that script and not the package.
sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch  # noqa: E402
import tyro  # noqa: E402
from PIL import Image  # noqa: E402

from benchmarks.machine import versions  # noqa: E402
from benchmarks.model import markdown  # noqa: E402

LEAST = {"cpu": 0.9, "cuda": 0.95}
"""Of the bare detector's images/s, by device."""
WARM_UP = 4
"""Images that the bare detector sees before it is timed; the commands get none."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How much of it."""

    images: int = 240
    """JPEGs, drawn scenes of 640 x 480 pixels."""
    batch_size: int = 8
    """Images a pass."""
    threads: int = 2
    """Of the detector, on a CPU; the command's --cpus-per-worker."""
    model: Literal["resnet50_fpn", "resnet50_fpn_v2", "mobilenet_v3_large_fpn", "mobilenet_v3_large_320_fpn"] = (
        "resnet50_fpn"
    )
    """torchvision's fasterrcnn_NAME, with random weights."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where the detector runs."""
    rounds: int = 1
    """Turns."""


def prepare(folder: Path, settings: Settings) -> Path:
    """Draw the images and list them; return the manifest."""
    from pipeline.shapes.render import render
    from pipeline.shapes.scene import make_scene

    images, manifest = folder / "images", folder / "manifest.parquet"
    images.mkdir()
    for number in range(settings.images):
        render(make_scene(0, number)).convert("RGB").resize((640, 480)).save(images / f"{number:06d}.jpg", quality=90)
    run("manifest", images, "--output", manifest)
    return manifest


def run(*arguments: object) -> None:
    """Run a command of ours in a process of its own; stop where it fails."""
    command = [sys.executable, "-m", "pipeline.cli", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)


@torch.inference_mode()
def bare_seconds(folder: Path, settings: Settings) -> float:
    """Return how long torchvision's own forward takes for all images, from tensors of decoded pixels."""
    from torchvision.transforms.functional import pil_to_tensor

    from extractors.extractor import DetectorSettings
    from extractors.torchvision_models import load_model

    torch.set_num_threads(settings.threads)
    loaded = load_model(DetectorSettings(detector="torchvision", torchvision_model=settings.model, weights="random"))
    detector = loaded.model.eval().to(settings.device)
    files = sorted((folder / "images").iterdir())
    images = [pil_to_tensor(Image.open(file)).to(settings.device) / 255 for file in files]
    detector(images[:WARM_UP])
    begun = time.monotonic()
    for start in range(0, len(images), settings.batch_size):
        detector(images[start : start + settings.batch_size])
    if settings.device == "cuda":
        torch.cuda.synchronize()
    return time.monotonic() - begun


def command_seconds(manifest: Path, output: Path, settings: Settings, *options: str) -> tuple[float, float]:
    """Return how long the whole command takes, and the share of its work in which the detector waited."""
    begun = time.monotonic()
    run(
        *("extract", manifest, "--output", output, "--detector", "torchvision", "--torchvision-model", settings.model),
        *("--weights", "random", "--device", settings.device, "--boxes", "36", "--batch-size", settings.batch_size),
        *("--cpus-per-worker", settings.threads, "--shard-size", max(8, settings.images // 4), *options),
    )
    seconds = time.monotonic() - begun
    state = json.loads((output / ".run.json").read_text(encoding="utf-8"))
    if state["samples"] != settings.images:
        raise SystemExit(f"{state['samples']} samples of {settings.images} images: {state['failures']}")
    return seconds, state["detector_waited"]


def main(settings: Settings) -> int:
    """Print the table; return 1 where a way is below the limit."""
    least = LEAST["cuda" if settings.device == "cuda" else "cpu"]
    print(json.dumps(versions(settings.device)))
    ways = {"local": ("--backend", "local"), "Ray, one worker": ("--workers", "1")}
    bare: list[float] = []
    seconds: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest = prepare(folder, settings)
        for number in range(settings.rounds):
            bare.append(bare_seconds(folder, settings))
            for way, options in ways.items():
                output = folder / f"{way}-{number}"
                seconds[way].append(command_seconds(manifest, output, settings, *options))
    rate = settings.images / median(bare)
    rows = [["bare detector's forward", f"{rate:.2f}", "1.00", "", ""]]
    kept = True
    for way, found in seconds.items():
        images = settings.images / median(taken for taken, _ in found)
        kept = kept and images / rate >= least
        rows.append(
            [
                f"vilbert extract, {way}",
                f"{images:.2f}",
                f"{images / rate:.2f}",
                f"{least}",
                f"{median(share for _, share in found):.1%}",
            ]
        )
    print(markdown(["way", "images/s", "times the bare detector", "limit", "detector waited"], rows))
    return int(not kept)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings, description=__doc__)))
