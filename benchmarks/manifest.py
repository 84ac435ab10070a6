"""Measure rows per second and peak memory of `vilbert manifest` on a generated TSV of the size of Conceptual 12M.

Two peers read the same file in the same run: pyarrow.csv, which reads the two columns and writes them as Parquet
(without ids, hash, report or search for duplicates), and a Python loop over the lines. Each runs in a separate process.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tyro

WORDS = [
    "a",
    "cat",
    "dog",
    "woman",
    "<PERSON>",
    "on",
    "the",
    "red",
    "wooden",
    "table",
    "at",
    "night",
    "with",
    "flowers",
]
LINES = "import sys\nfor line in open(sys.argv[1], encoding='utf-8', newline='\\n'): pass"
ARROW = """
import sys, pyarrow as pa, pyarrow.csv as csv, pyarrow.parquet as pq
read = csv.ReadOptions(column_names=["uri", "caption"], use_threads=False)
parse = csv.ParseOptions(delimiter="\\t", quote_char=False)
with csv.open_csv(sys.argv[1], read_options=read, parse_options=parse) as batches:
    with pq.ParquetWriter(sys.argv[2], batches.schema, compression="zstd", use_dictionary=False) as writer:
        for batch in batches:
            writer.write_batch(batch)
"""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to measure."""

    rows: int = 12_423_374
    """Rows of the TSV; the default is the size of Conceptual 12M."""
    seed: int = 0
    """Seed of the captions."""
    folder: Path | None = None
    """Folder for the TSV (200 bytes per row) and the outputs; by default the system's temporary folder."""


def rows(number: int, seed: int) -> Iterator[str]:
    """Yield lines URL, tab, caption; one URL in a thousand repeats the one before, one caption is empty."""
    draw = random.Random(seed)
    captions = [" ".join(draw.choices(WORDS, k=draw.randint(5, 40))) for _ in range(9973)]
    for i in range(number):
        named = i - 1 if i % 1000 == 999 else i
        caption = "" if i % 1000 == 500 else captions[i % len(captions)]
        name = f"{named % 977:03d}/{named * 2654435761 % 2**40:010x}-{named}"
        yield f"https://images.example.com/media/{name}.jpg\t{caption}\n"


def measure(command: list[str]) -> tuple[float, float, float]:
    """Run a command; return its seconds, its CPU seconds and the peak of its resident memory in MB."""
    started = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command[:4]} failed")
    return time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main(settings: Settings) -> int:
    """Print a Markdown table; return 1 if the command uses more than 1 GB."""
    with tempfile.TemporaryDirectory(dir=settings.folder) as folder:
        tsv = Path(folder, "cc12m.tsv")
        with open(tsv, "w", encoding="utf-8", newline="\n") as file:
            file.writelines(rows(settings.rows, settings.seed))
        print(f"{settings.rows:,} rows, {tsv.stat().st_size / 1e9:.2f} GB", file=sys.stderr)
        manifest = ["-m", "vilbert.pipeline.cli", "manifest", str(tsv), "--output", f"{folder}/m.parquet"]
        commands = {
            "`vilbert manifest`": manifest,
            "pyarrow.csv to Parquet, two columns, one thread": ["-c", ARROW, str(tsv), f"{folder}/arrow.parquet"],
            "Python, reading the lines only": ["-c", LINES, str(tsv)],
        }
        print("| program | rows/s | seconds | rows per CPU second | peak memory, MB |\n|---|---:|---:|---:|---:|")
        peaks = []
        for name, command in commands.items():
            seconds, cpu, peak = measure([sys.executable, *command])
            peaks.append(peak)
            rates = f"{settings.rows / seconds:,.0f} | {seconds:.1f} | {settings.rows / cpu:,.0f}"
            print(f"| {name} | {rates} | {peak:,.0f} |", flush=True)
    return int(peaks[0] > 1024)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings)))
