"""Check that a data set has the same bytes after any kill: `vilbert extract` with Ray under random SIGKILLs.

Each run is killed at random moments: either one of its workers, or the driver, which is then started again. After the
last kill the run completes. A run that ends before its first kill is repeated. Its files, including records and
dataset.json, must equal those of one undisturbed process. Prints a Markdown table with a row per run. The exit status
is 1 if a byte differs or a run fails.
"""

from __future__ import annotations

import hashlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil
import tyro

SECONDS_A_RUN = 600.0
"""Without an end, after which a run counts as failed."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to measure."""

    runs: int = 50
    """Runs, each with an output folder of its own."""
    kills: int = 4
    """SIGKILLs per run."""
    images: int = 400
    """Generated scenes in the manifest."""
    shard_size: int = 10
    """Rows per shard."""
    workers: int = 2
    """Ray actors per run."""
    seed: int = 0
    """Seed of the moments and of what is killed."""
    folder: Path | None = None
    """Folder for the outputs; by default the system's temporary folder."""


@dataclass(kw_only=True)
class Outcome:
    """What became of a run."""

    workers_killed: int = 0
    drivers_killed: int = 0
    at: list[int] = field(default_factory=list)
    """Shards that were done at each kill."""
    seconds: float = 0.0
    status: int | None = None
    """The last driver's; None where it had to be ended."""
    message: str = ""
    """What it said, where it failed."""


OF_RUNS = (".lock", ".run.json", ".run.log")
"""Files of a data set's folder that tell of runs."""


def hashes(directory: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of a data set but those that tell of runs, by its path inside."""
    files = (path for path in directory.rglob("*") if path.is_file() and path.name not in OF_RUNS)
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def command(folder: Path, output: Path, settings: Settings, *options: str) -> list[str]:
    """Return the command line of an extraction."""
    return [
        *(
            sys.executable,
            "-m",
            "vilbert.pipeline.cli",
            "extract",
            str(folder / "manifest.parquet"),
            "--output",
            str(output),
        ),
        *("--detector", "shapes", "--batch-size", "4", "--shard-size", str(settings.shard_size), *options),
    ]


def prepare(folder: Path, settings: Settings) -> tuple[dict[str, str], float]:
    """Draw the images and extract them undisturbed; return the hashes, and the seconds of a run with Ray."""
    from vilbert.pipeline.shapes.render import render
    from vilbert.pipeline.shapes.scene import make_scene

    images = folder / "images"
    images.mkdir()
    for number in range(settings.images):
        render(make_scene(settings.seed, number)).save(images / f"{number:06d}.png")
    (images / "000003.png").write_bytes(b"<html>not found</html>")  # a failure must come out the same, too
    make = [
        sys.executable,
        "-m",
        "vilbert.pipeline.cli",
        "manifest",
        str(images),
        "--output",
        str(folder / "manifest.parquet"),
    ]
    subprocess.run(make, check=True, capture_output=True)
    subprocess.run(command(folder, folder / "one", settings, "--backend", "local"), check=True, capture_output=True)
    begun = time.monotonic()
    with_ray = command(folder, folder / "ray", settings, "--workers", str(settings.workers))
    subprocess.run(with_ray, check=True, capture_output=True)
    seconds = time.monotonic() - begun
    expected = hashes(folder / "one")
    if hashes(folder / "ray") != expected:
        raise SystemExit("without kills, Ray's workers write other bytes than one process; fix that first")
    return expected, seconds


def actors(driver: psutil.Process) -> list[psutil.Process]:
    """Return the processes of the driver's Ray that run a worker of ours."""
    found = []
    for process in driver.children(recursive=True):
        try:
            if "ray::Worker" in " ".join(process.cmdline()[:1]):
                found.append(process)
        except psutil.Error:  # gone meanwhile
            continue
    return found


def disturb(start: list[str], output: Path, draw: random.Random, kills: int, usual_seconds: float) -> Outcome:
    """Run the command, kill and start it again until the kills are used up, let it end; return what became of it."""
    outcome = Outcome()
    begun = time.monotonic()
    while outcome.status is None and time.monotonic() - begun < SECONDS_A_RUN:
        had = shards_done(output)
        driver = psutil.Popen(start, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        while kills and driver.poll() is None:
            # Most of a run is its start, with little to lose: a third of the kills each come at any time, after
            # the workers, and after a shard of this driver.
            event, most = draw.choice(
                ((None, 1.0), (partial(actors, driver), 0.5), (partial(new_shard, output, had), 0.25))
            )
            wait(driver, event, draw.uniform(0, most * usual_seconds), deadline=begun + SECONDS_A_RUN)
            if driver.poll() is not None:
                break
            kills -= 1
            outcome.at.append(shards_done(output))
            victims = actors(driver)
            if victims and draw.random() < 0.6:
                draw.choice(victims).kill()
                outcome.workers_killed += 1
            else:
                driver.kill()
                outcome.drivers_killed += 1
                break
        left = max(0.0, SECONDS_A_RUN - (time.monotonic() - begun))
        try:
            _, messages = driver.communicate(timeout=left)
        except subprocess.TimeoutExpired:
            driver.kill()
            outcome.message = "it did not end"
            break
        if driver.returncode != -9:
            outcome.status, outcome.message = driver.returncode, messages
    outcome.seconds = time.monotonic() - begun
    return outcome


def shards_done(output: Path) -> int:
    """Return how many shards have their record."""
    return len(list((output / "shards").glob("*.json")))


def new_shard(output: Path, had: int) -> bool:
    """Say whether there are more than so many."""
    return shards_done(output) > had


def wait(driver: psutil.Popen, event: Callable[[], object] | None, seconds: float, *, deadline: float) -> None:
    """Wait for so long from now, or from an event; less where the driver ends, or it is too late."""
    while event is not None and driver.poll() is None and not event() and time.monotonic() < deadline:
        time.sleep(0.05)
    until = time.monotonic() + seconds
    while driver.poll() is None and time.monotonic() < until:
        time.sleep(0.02)


def main(settings: Settings) -> int:
    """Print a Markdown table; return 1 where a run failed or its bytes differ."""
    if settings.kills < 1:
        raise SystemExit(f"--kills {settings.kills}: must be at least 1; a run without kills shows nothing")
    bad = again = 0
    with tempfile.TemporaryDirectory(dir=settings.folder) as name:
        folder = Path(name)
        expected, seconds = prepare(folder, settings)
        print(f"{len(expected)} files, {settings.images} images; undisturbed with Ray: {seconds:.0f} s\n")
        print("| run | workers killed | drivers killed | shards done at each kill | seconds | same bytes |")
        print("|---:|---:|---:|---|---:|---|", flush=True)
        total = Outcome()
        for number in range(settings.runs):
            output = folder / f"run{number}"
            start = command(folder, output, settings, "--workers", str(settings.workers))
            draw = random.Random(f"{settings.seed} {number}")
            while not (outcome := disturb(start, output, draw, settings.kills, seconds)).at and outcome.status == 0:
                again += 1
                seconds = min(seconds, outcome.seconds)
                shutil.rmtree(output)
            found = hashes(output)
            same = outcome.status == 0 and found == expected
            bad += not same
            total.workers_killed += outcome.workers_killed
            total.drivers_killed += outcome.drivers_killed
            moments = ", ".join(map(str, outcome.at))
            print(
                f"| {number} | {outcome.workers_killed} | {outcome.drivers_killed} | {moments} "
                f"| {outcome.seconds:.0f} | {'yes' if same else 'NO'} |",
                flush=True,
            )
            if not same:
                differing = sorted(path for path in found.keys() | expected if found.get(path) != expected.get(path))
                print(
                    f"\nrun {number}: status {outcome.status}; differing: {differing[:9]}\n{outcome.message[-3000:]}\n"
                )
        print(
            f"\n{settings.runs - bad} of {settings.runs} runs have the bytes of an undisturbed run; "
            f"{total.workers_killed} workers and {total.drivers_killed} drivers were killed; {again} runs ended before "
            "a kill and were repeated"
        )
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings)))
