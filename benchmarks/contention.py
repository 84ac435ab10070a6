"""Measure the effect of a busy core, and of the OpenMP wait policy, on training, extraction and prediction.

Each part runs in two processes: one with the settings of this package, and one with `GOMP_SPINCOUNT` and
`KMP_BLOCKTIME` set to the defaults of the OpenMP libraries, which `vilbert.pipeline.openmp` then does not change. Only
one of them runs at a time; the other is stopped by SIGSTOP. Each round starts both processes again, because the speed
of two processes of the same program differs by up to 15 % for their whole life. A round measures both with and without
a third process that spins, a few seconds each. Rates are medians over the rounds. The ratio of the two policies is a
geometric mean with twice its standard error. Nothing else should run on the machine.

    train     `vilbert pretrain --config shapes`, with its loader process
    extract   the shapes detector in as many processes as there are cores, with one thread each, as in `vilbert extract`
    predict   `Predictor.answer` of a VQA model: detector and model, with PyTorch's default number of threads
    frcnn     the same with Faster R-CNN R50-FPN of torchvision with random weights, one photograph at a time
    base      the published base model (6 layers of co-attention) with random weights, 8 questions at a time, all cores

`base` has no limit for the busy machine: PyTorch divides each operator into equal parts for the cores, so the part on
the core that the other process uses takes twice as long. The data set, the models and the photographs are generated at
the start. The exit status is 1 if a limit is missed.
"""

from __future__ import annotations

import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import count
from multiprocessing import get_context
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any, Literal, NamedTuple, TextIO

import numpy as np
import tyro
from numpy.typing import NDArray
from PIL import Image

BUSY_LIMIT, QUIET_LIMIT = 0.6, 0.97
LIBRARY_DEFAULTS = {"GOMP_SPINCOUNT": "300000", "KMP_BLOCKTIME": "200"}
SETTLING_SECONDS = 0.7  # after a start or a stop: batches made before, caches, the scheduler's load balance
BATCH = 8
SPIN = "while True: pass"

Part = Literal["train", "extract", "predict", "frcnn", "base"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to measure."""

    parts: tuple[Part, ...] = ("train", "extract", "predict", "frcnn", "base")
    """Parts to measure."""
    rounds: int = 7
    """Rounds of each part."""
    seconds: float = 4.0
    """Seconds of each measurement; a round has four."""
    scenes: int = 200
    """Scenes of the data set."""
    short: bool = False
    """One round of one second each, on few scenes, to test the script."""
    measure: tuple[str, ...] = ()
    """Used by the script itself: run one part in this process."""


class Rates(NamedTuple):
    """Samples a second of one round."""

    quiet: float
    busy: float
    quiet_default: float
    """With the OpenMP library's own wait policy."""
    busy_default: float


def command(*arguments: object) -> list[str]:
    """Return a command line of the product."""
    return [sys.executable, "-m", "vilbert.pipeline.cli", *map(str, arguments)]


def prepare(folder: Path, scenes: int) -> None:
    """Make the scenes, their features, and a VQA model; what it learns does not matter."""
    shapes, manifest, features = folder / "shapes", folder / "shapes.parquet", folder / "features"
    detector = ("--detector", "shapes", "--boxes", "2-20", "--confidence", "0.5", "--nms", "0.3")
    once = ("--config", "shapes", "--max-steps", "1", "--eval-split", "none", "--num-workers", "0")
    for line in (
        command("shapes", shapes, "--scenes", scenes),
        command("manifest", shapes / "karpathy" / "dataset_coco.json", "--images", shapes, "--output", manifest),
        command("extract", manifest, "--output", features, *detector, "--backend", "local"),
        command("pretrain", features, "--output", folder / "pretrained", *once),
        command(
            *("finetune", "vqa", features, "--annotations", shapes / "vqa", "--output", folder / "vqa", *once),
            *("--init-from", folder / "pretrained" / "final"),
        ),
    ):
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr)


def train(folder: Path, progress: Path) -> None:
    """Train until killed; the run's own metrics.jsonl is the progress file."""
    from vilbert.pipeline.cli import main

    endless = ("--max-steps", "1000000", "--eval-split", "none", "--checkpoint-every", "1000000")
    main(
        [
            *("pretrain", str(folder / "features"), "--output", str(progress.parent), "--config", "shapes", *endless),
            *("--log-every", "1", "--tracker", "none"),
        ]
    )


def extract(folder: Path, progress: Path) -> None:
    """Run the detector of the scenes in a process a core until killed."""
    run_detectors(folder, progress, {"detector": "shapes"}, BATCH)


def frcnn(folder: Path, progress: Path) -> None:
    """Run a detector of the usual size in a process a core until killed."""
    run_detectors(folder, progress, {"weights": "random"}, 1)


def run_detectors(folder: Path, progress: Path, detector: Mapping[str, str], batch: int) -> None:
    """Run a process a core, as `vilbert extract` does, and report what all of them have done."""
    context = get_context("spawn")
    done = [context.Value("q", 0) for _ in os.sched_getaffinity(0)]
    workers = [context.Process(target=detect, args=(folder, detector, batch, images), daemon=True) for images in done]
    for worker in workers:
        worker.start()
    with progress.open("w", encoding="utf-8") as file:
        before = 0
        while all(worker.is_alive() for worker in workers):
            time.sleep(0.005)
            if min(images.value for images in done) and (now := sum(images.value for images in done)) != before:
                report(file, before := now)
    raise SystemExit("a worker ended")


def detect(folder: Path, detector: Mapping[str, Any], batch: int, done: Synchronized[int]) -> None:
    """Run the detector in one thread until killed, and count images in `done`."""
    from vilbert.pipeline.allocator import keep_freed_memory

    keep_freed_memory()
    import torch

    from vilbert.extractors.extractor import DetectorSettings, ExtractorSettings, build_extractor

    torch.set_num_threads(1)
    extractor = build_extractor(ExtractorSettings(detector=DetectorSettings(**detector)))
    images = photographs(folder)
    shapes = [extractor.resized_shape(*image.shape[:2]) for image in images]
    images = [image for image, shape in zip(images, shapes, strict=True) if shape == shapes[0]]  # a batch has one shape
    for number in count():
        extractor.extract([images[(number + row) % len(images)] for row in range(batch)], [None] * batch)
        done.value += batch


def predict(folder: Path, progress: Path) -> None:
    """Answer questions until killed."""
    from vilbert.pipeline.predict.predictor import Predictor

    predictor, images = Predictor.load(folder / "vqa"), photographs(folder)
    with progress.open("w", encoding="utf-8") as file:
        for number in count():
            batch = [images[(number + row) % len(images)] for row in range(BATCH)]
            predictor.answer(batch, ["what colour is the circle?"] * BATCH)
            report(file, BATCH * (number + 1))


def base(folder: Path, progress: Path) -> None:
    """Run the published base model until killed; `folder` is not read."""
    import torch

    from vilbert.model.config import preset
    from vilbert.model.vilbert import ViLBertModel

    model = ViLBertModel(preset("bert_base_6layer_6conect"))
    model.train(False)
    regions = 37
    with progress.open("w", encoding="utf-8") as file, torch.inference_mode():
        for number in count():
            model(
                input_ids=torch.full((BATCH, 16), 1000 + number % 1000),
                image_feat=torch.rand(BATCH, regions, model.config.v_feature_size),
                image_loc=torch.rand(BATCH, regions, 5),
            )
            report(file, BATCH * (number + 1))


PARTS = {"train": train, "extract": extract, "predict": predict, "frcnn": frcnn, "base": base}


def photographs(folder: Path) -> list[NDArray[np.uint8]]:
    """Return the pixels of some scenes."""
    return [np.asarray(Image.open(path)) for path in sorted((folder / "shapes" / "val2014").iterdir())[: 4 * BATCH]]


def report(file: TextIO, samples: int) -> None:
    """Append how many samples are done."""
    file.write(json.dumps({"samples": samples}) + "\n")
    file.flush()


class Child:
    """A part that runs in a process group of its own, stopped unless it is measured."""

    def __init__(self, part: Part, folder: Path, scratch: Path, environment: Mapping[str, str]) -> None:
        """Begin it on what `prepare` made in `folder`; it writes to `scratch`, which does not exist."""
        scratch.mkdir()
        self._progress = scratch / "metrics.jsonl"
        self._log = scratch.with_suffix(".log").open("w", encoding="utf-8")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.contention", "--measure", part, str(folder), str(self._progress)],
            env={**without_policy(os.environ), **environment},
            stdout=self._log,
            stderr=subprocess.STDOUT,
            process_group=0,
        )

    def start(self) -> None:
        """Wait until it works, then stop it."""
        while self.samples() < 2:
            self._require_alive()
            time.sleep(0.05)
        self.signal(signal.SIGSTOP)

    def rate(self, seconds: float) -> float:
        """Let it run and return its samples a second, between the first and the last time that its count changed."""
        self.signal(signal.SIGCONT)
        try:
            time.sleep(SETTLING_SECONDS)
            changes = list(self._changes(seconds))
        finally:
            self.signal(signal.SIGSTOP)
        (first, begun), (last, ended) = changes[0], changes[-1]
        return (last - first) / (ended - begun)

    def _changes(self, seconds: float) -> Iterator[tuple[int, float]]:
        """Yield counts and when they were first seen, for so long and until there are three."""
        begun, before, seen = time.monotonic(), self.samples(), 0
        while seen < 3 or time.monotonic() - begun < seconds:
            time.sleep(0.002)
            self._require_alive()
            if (now := self.samples()) != before:
                yield now, time.monotonic()
                before, seen = now, seen + 1

    def samples(self) -> int:
        """Return how many samples it has done."""
        try:
            with self._progress.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
                lines = file.read().split(b"\n")[:-1]
        except FileNotFoundError:
            return 0
        return int(json.loads(lines[-1])["samples"]) if lines else 0

    def _require_alive(self) -> None:
        if self._process.poll() is not None:
            raise SystemExit(f"a measured process ended: {Path(self._log.name).read_text()}")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to all its processes."""
        os.killpg(self._process.pid, number)

    def close(self) -> None:
        """End it."""
        if self._process.poll() is None:
            self.signal(signal.SIGKILL)
        self._process.wait()
        self._log.close()


def without_policy(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without what sets the wait policy."""
    from vilbert.pipeline.openmp import USERS_OWN

    return {name: value for name, value in environment.items() if name not in USERS_OWN}


@contextmanager
def spinning() -> Iterator[None]:
    """Keep one core busy, or a fair share of one."""
    spinner = subprocess.Popen([sys.executable, "-c", SPIN])
    try:
        yield
    finally:
        spinner.kill()
        spinner.wait()


def measure(part: Part, folder: Path, settings: Settings) -> list[Rates]:
    """Return the rates of each round."""
    found = []
    for number in range(settings.rounds):
        with tempfile.TemporaryDirectory(dir=folder) as scratch, ExitStack() as stack:  # processes end first
            children: dict[str, Child] = {}
            for name, environment in (("policy", {}), ("default", LIBRARY_DEFAULTS)):
                children[name] = Child(part, folder, Path(scratch) / name, environment)
                stack.callback(children[name].close)
            for child in children.values():
                child.start()
            found.append(one_round(children, settings.seconds, turned=bool(number % 2)))
    return found


def one_round(children: Mapping[str, Child], seconds: float, *, turned: bool) -> Rates:
    """Measure all four; turned: the other way round, so that what changes with time evens out."""
    order = [("policy", False), ("policy", True), ("default", True), ("default", False)]
    found: dict[tuple[str, bool], float] = {}
    for name, busy in reversed(order) if turned else order:
        if busy:
            with spinning():
                found[name, busy] = children[name].rate(seconds)
        else:
            found[name, busy] = children[name].rate(seconds)
    return Rates(found["policy", False], found["policy", True], found["default", False], found["default", True])


def row(part: Part, rounds: list[Rates]) -> tuple[list[str], bool]:
    """Return a part's line of the table, and whether it keeps the limits."""
    middle = Rates(*(statistics.median(values) for values in zip(*rounds, strict=True)))
    kept = statistics.median(one.busy / one.quiet for one in rounds)
    kept_default = statistics.median(one.busy_default / one.quiet_default for one in rounds)
    beside_default, error = mean_ratio([one.quiet / one.quiet_default for one in rounds])
    cells = [f"{middle.quiet:.1f}", f"{middle.busy:.1f}", f"{kept:.2f}"]
    cells += [f"{middle.quiet_default:.1f}", f"{middle.busy_default:.1f}", f"{kept_default:.2f}"]
    kept_enough = part == "base" or kept >= BUSY_LIMIT
    return [part, *cells, f"{beside_default:.3f} ± {error:.3f}"], kept_enough and beside_default + error >= QUIET_LIMIT


def mean_ratio(ratios: list[float]) -> tuple[float, float]:
    """Return the geometric mean and twice its standard error, infinite for a single ratio."""
    logarithms = [math.log(ratio) for ratio in ratios]
    mean = math.exp(statistics.mean(logarithms))
    if len(ratios) == 1:
        return mean, math.inf
    return mean, 2 * mean * statistics.stdev(logarithms) / math.sqrt(len(ratios))


def main(settings: Settings) -> int:
    """Print the table; return 1 where a limit fails."""
    if settings.measure:
        part, folder, progress = settings.measure
        PARTS[part](Path(folder), Path(progress))
        return 0
    from benchmarks.machine import versions
    from benchmarks.model import markdown

    if settings.short:
        settings = replace(settings, rounds=1, seconds=1.0, scenes=40)
    print(json.dumps(versions() | {"cpus": len(os.sched_getaffinity(0)), "load": round(os.getloadavg()[0], 1)}))
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name), settings.scenes)
        rows = [row(part, measure(part, Path(name), settings)) for part in settings.parts]
    heads = ["part", "quiet", "busy", f"ratio (>= {BUSY_LIMIT})", "quiet, library defaults", "busy", "ratio"]
    print(markdown([*heads, f"quiet, ratio to library defaults (>= {QUIET_LIMIT})"], [cells for cells, _ in rows]))
    return int(not all(kept for _, kept in rows))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings, description=__doc__)))
