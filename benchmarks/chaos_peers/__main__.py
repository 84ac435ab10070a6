"""Kill jobs of this pipeline and of others at random, run them again, and compare what is there.

Every framework gets the same job: drawn images, the detector of the shapes data set in one worker, features to shards.
Each start of the job is killed (SIGKILL of all its processes) after a random time, up to a fifth of the time that an
undisturbed run takes, and the same command is run again, until the job ends; then the next run begins with an empty
folder, until there were as many kills as wanted. The last run ends undisturbed. What a run left is compared with an
undisturbed run of the same framework. If bytes differ, a second undisturbed run shows whether the framework writes the
same bytes each time. Frameworks whose package is not installed are left out, and the table says so. Exits with 1 where
this pipeline loses or doubles an image, leaves a file behind, writes other bytes or fails.
"""

from __future__ import annotations

import random
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import tyro

from benchmarks.chaos_peers.content import Content, Difference, compare, read_content
from benchmarks.chaos_peers.frameworks import FRAMEWORKS
from benchmarks.chaos_peers.job import Job, prepare
from benchmarks.chaos_peers.kills import MAX_SECONDS, start, watch

HEADS = (
    "framework", "images/s", "kills", "runs", "failed runs", "lost", "doubled", "orphaned files",
    "runs with other samples", "runs with other bytes", "undisturbed runs have equal bytes", "seconds to resume",
)  # fmt: skip
KILL_WITHIN = 0.2
"""Of the time of an undisturbed run: the latest moment of a kill after a start."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How much is measured."""

    job: Job = field(default_factory=Job)
    """What is computed."""
    frameworks: tuple[str, ...] = tuple(FRAMEWORKS)
    """Which frameworks run it."""
    kills: int = 20
    """Kills of each framework."""
    seed: int = 0
    """Of the images and of the moments of the kills."""
    folder: Path | None = None
    """Where outputs go while it runs; by default the system's temporary folder."""
    run: tuple[str, Path, Path] | None = None
    """Used by the benchmark itself: run the job of a framework, on a folder, into an output."""


@dataclass(frozen=True, kw_only=True)
class KilledRun:
    """What a run left that was killed and started again until it ended."""

    kills: int
    succeeded: bool
    """Whether its last start ended with status 0."""
    resumed: list[float]
    """Seconds from each start after a kill to its first file of samples, where it came so far."""
    difference: Difference


def killed_run(
    name: str, folder: Path, expected: Content, seconds: float, kills: int, draw: random.Random, job: Job
) -> KilledRun:
    """Start a job with an empty folder, kill it at random moments and start it again until it ends.

    seconds: of an undisturbed run. kills: at most so many.
    """
    output = folder / f"{name}-killed"
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir()
    killed, resumed = 0, []
    while True:
        limit = draw.uniform(0, seconds * KILL_WITHIN) if killed < kills else MAX_SECONDS
        process = start(name, folder, output, job, folder / f"{name}.log")
        watched = watch(process, output, FRAMEWORKS[name].results, limit)
        if killed and watched.seconds is not None:
            resumed.append(watched.seconds)
        if watched.ended or killed == kills:
            break
        killed += 1
    difference = compare(read_content(output), expected)
    return KilledRun(kills=killed, succeeded=process.returncode == 0, resumed=resumed, difference=difference)


def killed_runs(name: str, folder: Path, expected: Content, seconds: float, settings: Settings) -> list[KilledRun]:
    """Return runs with `settings.kills` kills in all, fewer if a run failed. seconds: of an undisturbed run."""
    draw = random.Random(f"{settings.seed} {name}")
    runs: list[KilledRun] = []
    while (left := settings.kills - sum(run.kills for run in runs)) and all(run.succeeded for run in runs):
        runs.append(killed_run(name, folder, expected, seconds, left, draw, settings.job))
        print(f"{name}: {runs[-1]}", file=sys.stderr, flush=True)
    return runs


def row(name: str, images_per_second: float, runs: list[KilledRun], agree: bool) -> list[str]:
    """Return a framework's line of the table. agree: whether undisturbed runs have the same bytes."""
    differences = [run.difference for run in runs]
    resumed = [seconds for run in runs for seconds in run.resumed]
    return [
        f"{name} ({FRAMEWORKS[name].package} {version(FRAMEWORKS[name].package)})",
        f"{images_per_second:.1f}",
        str(sum(run.kills for run in runs)),
        str(len(runs)),
        str(sum(not run.succeeded for run in runs)),
        *(str(sum(getattr(it, part) for it in differences)) for part in ("lost", "doubled", "orphans")),
        *(str(sum(not getattr(it, part) for it in differences)) for part in ("same_samples", "same_bytes")),
        "yes" if agree else "no",
        f"{statistics.median(resumed):.1f}" if resumed else "",
    ]


def undisturbed(name: str, folder: Path, output: Path, job: Job) -> float | None:
    """Run a job to its end; return the seconds, None if it failed."""
    output.mkdir()
    begun = time.monotonic()
    process = start(name, folder, output, job, folder / f"{name}.log")
    watch(process, output, FRAMEWORKS[name].results)
    return time.monotonic() - begun if process.returncode == 0 else None


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
    whole, again = folder / f"{name}-whole", folder / f"{name}-again"
    seconds = undisturbed(name, folder, whole, settings.job)
    if seconds is None:
        print(f"| {name}: failed without a kill |\n\n{(folder / f'{name}.log').read_text()[-3000:]}", flush=True)
        return not ours
    expected = read_content(whole)
    runs = killed_runs(name, folder, expected, seconds, settings)
    agree = all(run.difference.same_bytes for run in runs)
    if not agree and undisturbed(name, folder, again, settings.job) is not None:
        agree = compare(read_content(again), expected).same_bytes
    print(f"| {' | '.join(row(name, settings.job.images / seconds, runs, agree))} |", flush=True)
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
