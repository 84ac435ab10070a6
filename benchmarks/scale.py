"""Measure the overhead of one driver with 64 workers: `vilbert extract` on a simulated cluster.

The driver, its Ray actors and the shards are real; the detector only sleeps, for as long as a GPU would be busy with a
shard, one shard at a time. Ray's multi-node test cluster runs the nodes on this machine. The efficiency is the number
of shards per second of 64 workers over 64 times that of one worker, both while all workers are busy. The driver's load
is its share of a core, compared with a process that has joined the same cluster and does nothing (the cost of Ray's own
threads). A second run removes a node and adds another; every shard must be there exactly once. The exit status is 1 if
a limit is missed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
import psutil
import tyro

from benchmarks.model import markdown
from vilbert.extractors.regions import Regions
from vilbert.manifests.manifest import Manifest
from vilbert.pipeline.extract import job as extraction
from vilbert.pipeline.extract.run import extract
from vilbert.pipeline.extract.settings import ExtractSettings
from vilbert.pipeline.jobs.run_state import read_state
from vilbert.pipeline.jobs.stall import Pulse
from vilbert.pipeline.jobs.worker import Description, ShardDone
from vilbert.pipeline.shards.dataset import fingerprint_digest, read_dataset
from vilbert.pipeline.shards.keys import sample_key
from vilbert.pipeline.shards.location.folder import open_folder
from vilbert.pipeline.shards.record import read_records
from vilbert.pipeline.shards.sample import Sample
from vilbert.pipeline.shards.storage.writer import ShardWriter

DRIVER_LIMIT = 0.01
"""Of one core, above what a driver takes that does nothing."""
IDLE_SECONDS = 60.0
IDLE = """
import sys, time
import psutil, ray

ray.init(address=sys.argv[1], logging_level="ERROR")
time.sleep(10)
before = psutil.Process().cpu_times()
time.sleep(float(sys.argv[2]))
after = psutil.Process().cpu_times()
print((after.user + after.system - before.user - before.system) / float(sys.argv[2]))
"""
"""A driver that does nothing; prints its share of a core."""
EFFICIENCY_LIMIT = 0.95
ROWS_A_SHARD = 4
SECONDS_BETWEEN_READINGS = 5.0
"""Of the driver's processor time; the thread that reads it is the driver's own, and its time counts."""
FINGERPRINT = {"detector": "sleeps"}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How much of it."""

    nodes: int = 8
    """Nodes of the simulated cluster, without the head."""
    workers_a_node: int = 8
    """Logical workers per node."""
    seconds: float = 100.0
    """Seconds that a worker sleeps per shard: 1,000 images, at ten per second."""
    shards: int = 3
    """Shards per worker."""


class SleepingWorker:
    """Stands for `vilbert.pipeline.extract.worker.Worker`; one shard at a time has the detector."""

    def __init__(self, settings: ExtractSettings) -> None:
        self._settings = settings
        self._turn = threading.Lock()
        self._rows = 0
        self._seconds = float(os.environ["SLEEP"])

    def start(self) -> Description:
        """Say what it would find."""
        return Description(
            soft_labels=True,
            fingerprint=FINGERPRINT,
            feature_dim=8,
            class_names=("background", "dog"),
            attribute_names=(),
            software={},
        )

    def make_shard(self, shard: int, rows: tuple[int, int], retry: bool = False) -> ShardDone:
        """Sleep and write, and note on which node."""
        import ray

        begun = time.monotonic()
        records = Manifest.open(self._settings.manifest).read(*rows)
        with self._turn:
            time.sleep(self._seconds)
        self._rows += len(records)
        with ShardWriter(Path(self._settings.output), shard=shard, format=self._settings.format) as writer:
            for record in records:
                writer.add(
                    Sample(key=sample_key(record.image_id), regions=regions(), meta={"image_id": record.image_id})
                )
            done = writer.commit(rows=rows, failures=[], fingerprint=fingerprint_digest(FINGERPRINT))
        notes = notes_of(Path(self._settings.output))
        notes.mkdir(exist_ok=True)
        (notes / str(shard)).write_text(ray.get_runtime_context().get_node_id())
        return ShardDone(done, time.monotonic() - begun, self._seconds)

    def pulse(self) -> Pulse:
        """Return a sign of life."""
        return Pulse(0, self._rows)

    def stop(self) -> None:
        """Do nothing: the process is ended."""


def notes_of(output: Path) -> Path:
    """Return the folder in which each shard's node is noted."""
    return output.with_name(f"{output.name}-nodes")


def regions() -> Regions:
    """Return one region."""
    return Regions(
        boxes=np.zeros((1, 4), np.float32),
        features=np.zeros((1, 8), np.float16),
        object_ids=np.ones(1, np.uint16),
        object_scores=np.ones(1, np.float32),
        class_ids=np.zeros((1, 2), np.uint16),
        class_probs=np.zeros((1, 2), np.float16),
        width=640,
        height=480,
    )


def make_manifest(folder: Path, shards: int) -> Path:
    """List images that do not exist; they are not opened."""
    from vilbert.pipeline.cli import main as vilbert

    (folder / "list.csv").write_text(
        "image_id,path\n" + "".join(f"i{row},i{row}.jpg\n" for row in range(shards * ROWS_A_SHARD)), encoding="utf-8"
    )
    manifest = folder / f"{shards}.parquet"
    if not manifest.exists() and vilbert(
        ["manifest", str(folder / "list.csv"), "--images", str(folder), "--output", str(manifest)]
    ):
        raise SystemExit("no manifest")
    return manifest


@dataclass(frozen=True, kw_only=True)
class Measure:
    """What a run showed."""

    rate: float
    """Shards a second, while all workers were at work."""
    driver: float
    """Of one core, in that time."""
    shards: int
    """That are there in the end, each once."""
    lost: int
    """Workers."""
    late: int
    """Shards of nodes that were not there at the beginning."""


def measured(
    folder: Path, settings: Settings, address: str, workers: int, disturb: Callable[[Path], None] | None = None
) -> Measure:
    """Run a whole extraction with so many workers and watch it from a thread."""
    shards = workers * settings.shards
    manifest = make_manifest(folder, shards)
    output = folder / f"{workers}{'-disturbed' if disturb else ''}"
    options = ExtractSettings(
        manifest=manifest, output=output, shard_size=ROWS_A_SHARD, workers=workers, ray_address=address
    )
    nodes = node_ids(address)
    seen: list[tuple[float, float]] = []
    all_at_work: list[float] = []
    folder_of_run = open_folder(output)
    ended = threading.Event()

    def watch() -> None:
        driver = psutil.Process()
        while not ended.wait(min(SECONDS_BETWEEN_READINGS, settings.seconds / 4)):
            used = driver.cpu_times()
            seen.append((time.time(), used.user + used.system))
            if not all_at_work and (state := read_state(folder_of_run)) is not None and state.workers == workers:
                all_at_work.append(time.time())

    watching = [threading.Thread(target=watch, daemon=True)]
    if disturb is not None:
        watching.append(threading.Thread(target=disturb, args=(output,), daemon=True))
    for thread in watching:
        thread.start()
    if status := extract(options):
        raise SystemExit(status)
    ended.set()
    watching[0].join()
    account = read_state(folder_of_run)
    assert account is not None
    # All are at work from when the last has started until each begins its last shard. Of that, whole rounds.
    times = sorted(path.stat().st_mtime for path in (output / "shards").glob("*.json"))
    last_one = shards - workers - 1
    first_one = last_one % workers
    while times[first_one] < all_at_work[0]:
        first_one += workers
    begun, end = times[first_one], times[last_one]
    during = [entry for entry in seen if begun <= entry[0] <= end]
    (first, cpu_first), (last, cpu_last) = during[0], during[-1]
    records = read_records(output)
    if not read_dataset(output).complete or [*records] != list(range(shards)):
        raise SystemExit(f"{output}: is not complete")
    return Measure(
        rate=(last_one - first_one) / (end - begun),
        driver=(cpu_last - cpu_first) / (last - first),
        shards=len(records),
        lost=account.workers_lost,
        late=sum(note.read_text() not in nodes for note in notes_of(output).iterdir()),
    )


def node_ids(address: str) -> set[str]:
    """Return the names of the cluster's nodes."""
    import ray

    ray.init(address=address, logging_level="ERROR")
    try:
        return {node["NodeID"] for node in ray.nodes()}
    finally:
        ray.shutdown()


def idle_driver(address: str) -> float:
    """Return the share of a core of a process that has joined the cluster and does nothing."""
    command = [sys.executable, "-c", IDLE, address, str(IDLE_SECONDS)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def main(settings: Settings) -> int:
    """Print the table; return 1 if a limit is missed."""
    from ray.cluster_utils import Cluster

    os.environ["SLEEP"] = str(settings.seconds)
    checkout = str(Path(__file__).resolve().parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join([checkout, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    workers = settings.nodes * settings.workers_a_node
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    with ExitStack() as stack:
        stack.callback(cluster.shutdown)
        stack.enter_context(patch.object(extraction, "Worker", SleepingWorker))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        nodes = [cluster.add_node(num_cpus=settings.workers_a_node) for _ in range(settings.nodes)]
        idle = idle_driver(cluster.address)
        one = measured(folder, settings, cluster.address, 1)
        all_of_them = measured(folder, settings, cluster.address, workers)

        def disturb(output: Path) -> None:
            while len(list((output / "shards").glob("*.json"))) < workers * settings.shards // 3:
                time.sleep(0.5)
            cluster.remove_node(nodes[0], allow_graceful=False)
            time.sleep(settings.seconds / 2)
            join = [*(Path(sys.executable).with_name("ray"), "start", "--address", cluster.address, "--block")]
            late = subprocess.Popen([*join, "--num-cpus", str(settings.workers_a_node)], stdout=subprocess.DEVNULL)
            stack.callback(late.wait)
            stack.callback(late.terminate)

        disturbed = measured(folder, settings, cluster.address, workers, disturb)
    efficiency = all_of_them.rate / (workers * one.rate)
    rows = [
        ["a driver that does nothing", "", "", "", f"{idle:.2%}", "", "", "", "", ""],
        row("1 worker", one, idle),
        row(f"{workers} workers", all_of_them, idle, f"{efficiency:.3f}", f"{EFFICIENCY_LIMIT}", f"{DRIVER_LIMIT:.0%}"),
        row(f"{workers}, a node removed, one added", disturbed, idle, most=f"{DRIVER_LIMIT:.0%}"),
    ]
    rate = ["shards/s", "efficiency", "minimum"]
    shards = ["shards, each once", "workers lost", "shards of the late node"]
    heads = ["", *rate, "driver, share of a core", "without Ray's threads", "maximum", *shards]
    print(markdown(heads, rows))
    busy = max(all_of_them.driver, disturbed.driver) - idle
    return int(efficiency < EFFICIENCY_LIMIT or busy > DRIVER_LIMIT or not (disturbed.lost and disturbed.late))


def row(name: str, found: Measure, idle: float, efficiency: str = "", least: str = "", most: str = "") -> list[str]:
    """Return a row of the table."""
    return [
        *(name, f"{found.rate:.3f}", efficiency, least, f"{found.driver:.2%}", f"{found.driver - idle:.2%}", most),
        *(f"{found.shards}", f"{found.lost}", f"{found.late}"),
    ]


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings, description=__doc__)))
