"""What is left of a job that is killed and started again: this pipeline beside Ray Data, Daft and NeMo Curator.

The same job each time: drawn images, the `shapes` detector, features to shards. A run is killed once, at a random
moment (SIGKILL of the driver and all its processes), and the same command is run again until it ends. What is there
then is compared with an undisturbed run of the same framework. Each peer is used as its own documentation recommends:

- Ray Data: `map_batches` with an actor, `write_parquet`, `DataContext.checkpoint_config` with an ID column
- Daft: `read_parquet(checkpoint=CheckpointConfig(...))`, a batch method of a `daft.cls`, `write_parquet`
- NeMo Curator: skips files that have outputs; needs `nemo_curator`

Peers that cannot be imported are left out, with the reason. Prints a Markdown table; exits with 1 where this pipeline
loses or doubles an image, leaves a file behind or writes other bytes.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import tyro

Row = dict[str, Any]
ROWS_FILE, MANIFEST_FILE = "rows.parquet", "manifest.parquet"
SECONDS_A_RUN = 1800.0
"""Without an end, after which a run counts as failed."""
SETTLE_SECONDS = 20.0
"""For which the processes of a killed run are waited for."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How much of it."""

    peers: tuple[str, ...] = ("ours", "ours-ray", "ray-data", "daft", "nemo-curator")
    """Frameworks to run."""
    kills: int = 20
    """Runs of each framework that are killed."""
    images: int = 10_000
    """Drawn scenes."""
    shard_size: int = 500
    """Images of a shard, and of a block or partition of the peers."""
    batch_size: int = 8
    """Images of a forward pass."""
    seed: int = 0
    """Seed of the moments of the kills."""
    folder: Path | None = None
    """Where outputs go for the run; by default the system's temporary folder."""
    run: tuple[str, Path, Path] | None = None
    """Run one framework's job in this process: its name, the folder of the images, the output."""


class Detector:
    """The detector, as every peer runs it: rows with `image_id` and `path` in, features and boxes out."""

    def __init__(self) -> None:
        import torch

        from vilbert.extractors.extractor import DetectorSettings, ExtractorSettings, build_extractor

        torch.set_num_threads(1)
        self._extractor = build_extractor(ExtractorSettings(detector=DetectorSettings(detector="shapes", device="cpu")))

    def rows(self, image_ids: Sequence[str], paths: Sequence[str]) -> list[Row]:
        """Return a row of features for each image; those of one size go through the detector together."""
        import numpy as np
        from PIL import Image

        images = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
        shapes: dict[tuple[int, int], list[int]] = {}
        for number, image in enumerate(images):
            height, width = image.shape[:2]
            shapes.setdefault(self._extractor.resized_shape(height, width), []).append(number)
        found: dict[int, Row] = {}
        for numbers in shapes.values():
            regions = self._extractor.extract([images[number] for number in numbers], [None] * len(numbers))
            for number, its in zip(numbers, regions, strict=True):
                found[number] = {
                    "image_id": image_ids[number],
                    "features": np.asarray(its.features, np.float16).tobytes(),
                    "boxes": np.asarray(its.boxes, np.float32).tobytes(),
                }
        return [found[number] for number in range(len(images))]


def columns(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """Return rows as columns."""
    return {name: [row[name] for row in rows] for name in ("image_id", "features", "boxes")}


class RayDetector:
    """The detector as an actor of `map_batches`."""

    def __init__(self) -> None:
        self._detector = Detector()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return the features of a batch."""
        return columns(self._detector.rows(batch["image_id"].tolist(), batch["path"].tolist()))


def run_ray_data(folder: Path, output: Path, settings: Settings) -> None:
    """Run the job with Ray Data's checkpointing."""
    import ray
    from ray.data.checkpoint import CheckpointConfig

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    context = ray.data.DataContext.get_current()
    context.checkpoint_config = CheckpointConfig(id_column="image_id", checkpoint_path=str(output / "checkpoint"))
    rows = ray.data.read_parquet(str(folder / ROWS_FILE), override_num_blocks=blocks(settings))
    features = rows.map_batches(RayDetector, batch_size=settings.batch_size, compute=ray.data.ActorPoolStrategy(size=1))
    features.write_parquet(str(output / "data"))


def run_daft(folder: Path, output: Path, settings: Settings) -> None:
    """Run the job with Daft's checkpointing, which only its Ray runner has."""
    import daft
    import ray
    from daft import DataType, Series, col

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    daft.set_runner_ray()
    store = daft.CheckpointStore(f"file://{output / 'checkpoint'}")
    struct = DataType.struct({name: DataType.binary() for name in ("features", "boxes")})

    class DaftDetector:
        def __init__(self) -> None:
            self._detector = Detector()

        def detect(self, image_id: Series, path: Series) -> list[Row]:
            rows = self._detector.rows(image_id.to_pylist(), path.to_pylist())
            return [{name: row[name] for name in ("features", "boxes")} for row in rows]

        batches = daft.method.batch(return_dtype=struct, batch_size=settings.batch_size)(detect)

    detector = daft.cls(max_concurrency=1)(DaftDetector)()
    config = daft.CheckpointConfig(store=store, on="image_id")
    rows = daft.read_parquet(str(folder / "rows" / "*.parquet"), checkpoint=config)
    found = rows.with_column("found", detector.batches(col("image_id"), col("path")))
    features = found.select(col("image_id"), *(col("found").get(name).alias(name) for name in ("features", "boxes")))
    features.write_parquet(str(output / "data"))


def ours(folder: Path, output: Path, settings: Settings, *options: str) -> None:
    """Run `vilbert extract`."""
    from vilbert.pipeline.cli import main

    size = ["--shard-size", str(settings.shard_size), "--batch-size", str(settings.batch_size)]
    command = ["extract", str(folder / MANIFEST_FILE), "--output", str(output), "--detector", "shapes"]
    if main([*command, *size, *options]):
        raise SystemExit(1)


PEERS: dict[str, Callable[[Path, Path, Settings], None]] = {
    "ours": lambda folder, output, settings: ours(folder, output, settings, "--backend", "local"),
    "ours-ray": lambda folder, output, settings: ours(folder, output, settings, "--workers", "1"),
    "ray-data": run_ray_data,
    "daft": run_daft,
}
PACKAGES = {"ours": "vilbert-pipeline", "ours-ray": "vilbert-pipeline", "ray-data": "ray", "daft": "daft"}


def blocks(settings: Settings) -> int:
    """Return the number of shards."""
    return -(-settings.images // settings.shard_size)


def prepare(folder: Path, settings: Settings) -> None:
    """Draw the images, and list them for this pipeline and for the peers."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from vilbert.pipeline.cli import main
    from vilbert.pipeline.shapes.render import render
    from vilbert.pipeline.shapes.scene import make_scene

    images = folder / "images"
    images.mkdir()
    for number in range(settings.images):
        render(make_scene(settings.seed, number)).save(images / f"{number:06d}.png")
    if main(["manifest", str(images), "--output", str(folder / MANIFEST_FILE)]):
        raise SystemExit("the manifest cannot be written")
    names = [f"{number:06d}" for number in range(settings.images)]
    table = pa.table({"image_id": names, "path": [str(images / f"{name}.png") for name in names]})
    pq.write_table(table, folder / ROWS_FILE, row_group_size=settings.shard_size)
    (folder / "rows").mkdir()
    for block in range(blocks(settings)):  # a file each: what Daft makes a scan task, and so a file of the output
        part = table.slice(block * settings.shard_size, settings.shard_size)
        pq.write_table(part, folder / "rows" / f"{block:06d}.parquet")


@dataclass(kw_only=True)
class Content:
    """What lies in an output folder."""

    samples: Counter[tuple[str, str]]
    """(image ID, SHA-256 of its features and boxes), each as often as it is there."""
    files: Counter[str]
    """SHA-256 of the files of samples, and of dataset.json."""
    orphans: list[str]
    """Files that belong to no sample: temporary ones, damaged ones, and what checkpointing left."""


def read_ours(output: Path) -> Content:
    """Read a data set of this pipeline."""
    from vilbert.pipeline.shards.dataset import read_dataset
    from vilbert.pipeline.shards.open_dataset import open_dataset

    info = read_dataset(output)
    orphans = [path for path in all_files(output) if path.endswith((".tmp", ".journal"))]
    names = {f"{number:06d}.{info.storage}" for number in range(info.shards)}
    orphans += [path.name for path in (output / "shards").glob(f"*.{info.storage}") if path.name not in names]
    samples: Counter[tuple[str, str]] = Counter()
    with open_dataset(output) as data:
        for sample in data:
            content = hashlib.sha256(sample.regions.features.tobytes() + sample.regions.boxes.tobytes())
            samples[str(sample.meta["image_id"]), content.hexdigest()] += 1
    files = Counter(sha256(path) for path in (output / "shards").iterdir() if path.suffix in (".tar", ".json"))
    files[sha256(output / "dataset.json")] += 1
    return Content(samples=samples, files=files, orphans=orphans)


def read_parquet_folder(output: Path) -> Content:
    """Read what a peer wrote: the Parquet files that can be read, as any reader of the folder would."""
    import pyarrow.parquet as pq

    samples: Counter[tuple[str, str]] = Counter()
    files: Counter[str] = Counter()
    orphans = [path for path in all_files(output) if not path.startswith("data/")]
    for path in sorted((output / "data").rglob("*")):
        if not path.is_file():
            continue
        try:
            table = pq.read_table(path)
        except (OSError, ValueError):
            orphans.append(str(path.relative_to(output)))
            continue
        files[sha256(path)] += 1
        for row in table.to_pylist():
            samples[row["image_id"], hashlib.sha256(row["features"] + row["boxes"]).hexdigest()] += 1
    return Content(samples=samples, files=files, orphans=orphans)


def read_output(peer: str, output: Path) -> Content:
    """Read what a framework wrote."""
    return read_ours(output) if peer.startswith("ours") else read_parquet_folder(output)


def all_files(output: Path) -> list[str]:
    """Return the paths of all files in a folder, inside it."""
    return [str(path.relative_to(output)) for path in output.rglob("*") if path.is_file()]


def sha256(path: Path) -> str:
    """Return the hex digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass(kw_only=True)
class Outcome:
    """What became of the killed runs of one framework."""

    runs: int = 0
    failed: int = 0
    """Runs that did not end well when they were started again."""
    lost: int = 0
    doubled: int = 0
    orphans: int = 0
    other_samples: int = 0
    """Runs whose samples differ from those of the undisturbed run."""
    other_bytes: int = 0
    """Runs whose files do."""
    resume_seconds: list[float] = field(default_factory=list)
    """From the second start to the first new file of samples, or to the end where none was missing."""


def start(peer: str, folder: Path, output: Path, settings: Settings, log: Path) -> psutil.Popen:
    """Start a framework's job in a session of its own."""
    sizes = {"images": settings.images, "shard-size": settings.shard_size, "batch-size": settings.batch_size}
    options = [text for name, value in sizes.items() for text in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "benchmarks.chaos_peers", "--run", peer, str(folder), str(output), *options]
    environment = {**os.environ, "RAY_raylet_start_wait_time_s": "300"}  # a busy machine takes longer than Ray waits
    with log.open("ab") as messages:
        return psutil.Popen(command, stdout=messages, stderr=messages, start_new_session=True, env=environment)


def kill(process: psutil.Popen) -> None:
    """Kill a job with all its processes at once, and wait until they are gone."""
    victims = [process, *process.children(recursive=True)]
    os.killpg(process.pid, signal.SIGKILL)
    for victim in victims:
        try:
            victim.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(victims, timeout=SETTLE_SECONDS)


def shards_of(peer: str, output: Path) -> set[str]:
    """Return the names of the files that say that samples are there."""
    under, pattern = ("shards", "*.json") if peer.startswith("ours") else ("data", "*.parquet")
    return {path.name for path in (output / under).rglob(pattern)}


def has_more(peer: str, output: Path, before: set[str]) -> bool:
    """Say whether there are more files of samples than before."""
    return not shards_of(peer, output) <= before


def wait_to_end(process: psutil.Popen, has_new: Callable[[], bool]) -> tuple[bool, float]:
    """Wait for a job; return whether it ended well, and the seconds until something new was there, or until its end."""
    begun = time.monotonic()
    first: float | None = None
    while process.poll() is None and time.monotonic() - begun < SECONDS_A_RUN:
        if first is None and has_new():
            first = time.monotonic() - begun
        time.sleep(0.05)
    if process.poll() is None:
        kill(process)
    return process.returncode == 0, time.monotonic() - begun if first is None else first


def killed_runs(peer: str, folder: Path, expected: Content, usual_seconds: float, settings: Settings) -> Outcome:
    """Kill a job at random moments, a fresh one each time, run it again, and compare what is there."""
    outcome, draw = Outcome(), random.Random(f"{settings.seed} {peer}")
    ids = {name for name, _ in expected.samples}
    while outcome.runs < settings.kills:
        output, log = folder / f"{peer}-killed", folder / f"{peer}.log"
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir()
        process = start(peer, folder, output, settings, log)
        try:
            process.wait(timeout=draw.uniform(0, usual_seconds))
            continue  # it ended before its kill
        except (psutil.TimeoutExpired, subprocess.TimeoutExpired):
            kill(process)
        outcome.runs += 1
        before = shards_of(peer, output)
        again = start(peer, folder, output, settings, log)
        ended, seconds = wait_to_end(again, partial(has_more, peer, output, before))
        outcome.failed += not ended
        outcome.resume_seconds.append(seconds)
        found = read_output(peer, output) if ended or not peer.startswith("ours") else None
        if found is None:
            outcome.lost += len(ids)
            continue
        times: Counter[str] = Counter()
        for (image_id, _), count in found.samples.items():
            times[image_id] += count
        outcome.lost += len(ids - times.keys())
        outcome.doubled += sum(count - 1 for count in times.values())
        # What an undisturbed run keeps, too, such as Daft's store of keys, is no orphan.
        usual = {path.split("/")[0] for path in expected.orphans}
        outcome.orphans += sum(path.split("/")[0] not in usual for path in found.orphans)
        outcome.other_samples += found.samples != expected.samples
        outcome.other_bytes += found.files != expected.files
    return outcome


def versions() -> Iterator[str]:
    """Yield the installed versions of the frameworks."""
    for package in ("vilbert-pipeline", "ray", "daft", "nemo-curator"):
        try:
            yield f"{package} {importlib.metadata.version(package)}"
        except importlib.metadata.PackageNotFoundError:
            yield f"{package}: not installed"


def main(settings: Settings) -> int:
    """Print a Markdown table; return 1 where this pipeline does not hold what it promises."""
    if settings.run is not None:
        peer, folder, output = settings.run
        PEERS[peer](folder, output, settings)
        return 0
    bad = 0
    with tempfile.TemporaryDirectory(dir=settings.folder) as name:
        folder = Path(name)
        prepare(folder, settings)
        print(f"{settings.images} images, shards of {settings.shard_size}, {settings.kills} kills each")
        print(f"{', '.join(versions())}; Python {sys.version.split()[0]}\n")
        print(
            "| framework | images/s | lost | doubled | orphaned files | runs with other samples | with other bytes |",
            end="",
        )
        print(" failed | seconds to resume |")
        print("|---|---:|---:|---:|---:|---:|---:|---:|---:|", flush=True)
        for peer in settings.peers:
            if peer not in PEERS or importlib.util.find_spec(PACKAGES[peer].replace("-pipeline", "")) is None:
                print(f"| {peer} | not run: its package is not installed |", flush=True)
                continue
            output, log = folder / f"{peer}-whole", folder / f"{peer}.log"
            output.mkdir()
            begun = time.monotonic()
            ended, _ = wait_to_end(start(peer, folder, output, settings, log), lambda: True)
            seconds = time.monotonic() - begun
            if not ended:
                print(f"| {peer} | failed undisturbed |\n\n{log.read_text()[-3000:]}", flush=True)
                bad += peer.startswith("ours")
                continue
            expected = read_output(peer, output)
            outcome = killed_runs(peer, folder, expected, seconds, settings)
            resumed = f"{statistics.median(outcome.resume_seconds):.1f}" if outcome.resume_seconds else "-"
            print(
                f"| {peer} | {settings.images / seconds:.1f} | {outcome.lost} | {outcome.doubled} | {outcome.orphans} "
                f"| {outcome.other_samples} of {outcome.runs} | {outcome.other_bytes} of {outcome.runs} "
                f"| {outcome.failed} | {resumed} |",
                flush=True,
            )
            faults = (outcome.lost, outcome.doubled, outcome.orphans, outcome.other_bytes, outcome.failed)
            bad += peer.startswith("ours") and any(faults)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings)))
