"""Kill jobs of this pipeline and of others at random, run them again, and compare what is there.

Every framework gets the same job: drawn images, the detector of the shapes data set in one worker, features to shards.
A run is killed once (SIGKILL of all its processes) at a random moment of the time that an undisturbed run takes, and
the same command is run again until it ends. The result is compared with that of an undisturbed run of the same
framework. Frameworks whose package is not installed are left out, and the table says so. Exits with 1 where this
pipeline loses or doubles an image, leaves a file behind, writes other bytes or fails.
"""

from __future__ import annotations

import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import tyro

from benchmarks.chaos_peers.content import Content, Difference, compare, read_content
from benchmarks.chaos_peers.frameworks import FRAMEWORKS
from benchmarks.chaos_peers.job import Job, prepare
from benchmarks.chaos_peers.kills import finish, kill_after, start

HEADS = (
    "framework", "images/s", "killed runs", "lost", "doubled", "orphaned files", "runs with other samples",
    "runs with other bytes", "failed runs", "seconds to resume",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How much is measured."""

    job: Job = field(default_factory=Job)
    """What is computed."""
    frameworks: tuple[str, ...] = tuple(FRAMEWORKS)
    """Which frameworks run it."""
    kills: int = 20
    """Killed runs of each framework."""
    seed: int = 0
    """Of the images and of the moments of the kills."""
    folder: Path | None = None
    """Where outputs go while it runs; by default the system's temporary folder."""
    run: tuple[str, Path, Path] | None = None
    """Used by the benchmark itself: run the job of a framework, on a folder, into an output."""


@dataclass(frozen=True, kw_only=True)
class KilledRun:
    """What a run that was killed and run again left."""

    succeeded: bool
    """Whether the second run ended with status 0."""
    seconds: float
    """From the second start to its first file of samples, or to its end where it had none to write."""
    difference: Difference


def killed_runs(name: str, folder: Path, expected: Content, seconds: float, settings: Settings) -> Iterator[KilledRun]:
    """Yield `settings.kills` runs. seconds: of an undisturbed one."""
    draw = random.Random(f"{settings.seed} {name}")
    output, log = folder / f"{name}-killed", folder / f"{name}.log"
    made = 0
    while made < settings.kills:
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir()
        first = start(name, folder, output, settings.job, log)
        if not kill_after(first, draw.uniform(0, seconds)):
            if first.returncode:
                raise SystemExit(f"{name}: failed before its kill\n\n{log.read_text()[-3000:]}")
            continue  # it ended before its kill
        again = start(name, folder, output, settings.job, log)
        succeeded, resumed = finish(again, output, FRAMEWORKS[name].results)
        yield KilledRun(succeeded=succeeded, seconds=resumed, difference=compare(read_content(output), expected))
        made += 1


def row(name: str, images_per_second: float, runs: list[KilledRun]) -> list[str]:
    """Return a framework's line of the table."""
    differences = [run.difference for run in runs]
    return [
        f"{name} ({FRAMEWORKS[name].package} {version(FRAMEWORKS[name].package)})",
        f"{images_per_second:.1f}",
        str(len(runs)),
        *(str(sum(getattr(it, part) for it in differences)) for part in ("lost", "doubled", "orphans")),
        *(str(sum(not getattr(it, part) for it in differences)) for part in ("same_samples", "same_bytes")),
        str(sum(not run.succeeded for run in runs)),
        f"{statistics.median(run.seconds for run in runs):.1f}",
    ]


def keeps_promise(run: KilledRun) -> bool:
    """Return whether nothing was lost, doubled or left behind, and all bytes are those of an undisturbed run."""
    found = run.difference
    return run.succeeded and found.same_bytes and not (found.lost or found.doubled or found.orphans)


def measure(name: str, folder: Path, settings: Settings) -> bool:
    """Print a framework's line; return False where it is this pipeline and does not keep its promise."""
    ours = FRAMEWORKS[name].package == "vilbert-pipeline"
    try:
        version(FRAMEWORKS[name].package)
    except PackageNotFoundError:
        print(f"| {name}: not installed |", flush=True)
        return not ours
    output, log = folder / f"{name}-whole", folder / f"{name}.log"
    output.mkdir()
    begun = time.monotonic()
    succeeded, _ = finish(start(name, folder, output, settings.job, log), output, FRAMEWORKS[name].results)
    seconds = time.monotonic() - begun
    if not succeeded:
        print(f"| {name}: failed without a kill |\n\n{log.read_text()[-3000:]}", flush=True)
        return not ours
    runs = list(killed_runs(name, folder, read_content(output), seconds, settings))
    print(f"| {' | '.join(row(name, settings.job.images / seconds, runs))} |", flush=True)
    return not ours or all(map(keeps_promise, runs))


def main(settings: Settings) -> int:
    """Print the table; return 1 where this pipeline does not keep its promise."""
    if settings.run is not None:
        name, folder, output = settings.run
        FRAMEWORKS[name].run(folder, output, settings.job)
        return 0
    if settings.kills < 1:
        raise SystemExit(f"--kills {settings.kills}: must be at least 1; a run without kills shows nothing")
    with tempfile.TemporaryDirectory(dir=settings.folder) as scratch:
        folder = Path(scratch)
        prepare(folder, settings.job, settings.seed)
        print(f"{settings.job.images} images, {settings.job.shard_size} per shard; Python {sys.version.split()[0]}\n")
        print(f"| {' | '.join(HEADS)} |\n|---{'|---:' * (len(HEADS) - 1)}|", flush=True)
        kept = [measure(name, folder, settings) for name in settings.frameworks]
    return int(not all(kept))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings, description=__doc__)))
