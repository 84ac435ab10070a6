"""Measure selecting among a million samples: near-duplicates, overlap with other data, the selection file.

Each step runs in a separate process. Hashes are distributed like those of photographs: most are unrelated, every
twentieth is a copy of an earlier one with up to three flipped bits, one in a hundred is the hash of a flat image. CPU
time is measured, so that a busy machine matters less, and the peak memory of the process including all imports.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from numpy.typing import NDArray

from benchmarks.loader import conditions
from benchmarks.model import markdown

MOST_SECONDS = 120.0
"""CPU time of a step at a million samples, at most."""
MOST_MEGABYTES = 2000.0


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to measure."""

    samples: int = 1_000_000
    """Samples of the data set."""
    others: int = 50_000
    """Samples of the other data set of --not-in."""
    seed: int = 0
    """Seed of the hashes."""
    json: bool = False
    """Print one JSON object instead of the table."""


def draw_hashes(count: int, seed: int) -> NDArray[np.uint64]:
    """Return hashes with copies and flat images among them."""
    draw = np.random.default_rng(seed)
    hashes = draw.integers(0, 2**64, count, np.uint64)
    copies = np.arange(20, count, 20)
    hashes[copies] = hashes[copies - 7]
    for _ in range(3):
        flipped = draw.random(len(copies)) < 0.5
        hashes[copies[flipped]] ^= np.uint64(1) << draw.integers(0, 64, int(flipped.sum()), np.uint64)
    hashes[::100] = np.uint64(1 << 63)
    return hashes


def groups(settings: Settings, distance: int) -> str:
    """Find the near-duplicate groups of all samples."""
    from vilbert.pipeline.rebuild.scores.hamming import near_groups

    found = near_groups(draw_hashes(settings.samples, settings.seed), distance)
    return f"{len(np.unique(found)):,} groups"


def leaks(settings: Settings) -> str:
    """Find the samples that are near one of another data set."""
    from vilbert.pipeline.rebuild.scores.hamming import nearest

    hashes = draw_hashes(settings.samples, settings.seed)
    indices, _ = nearest(hashes, hashes[:: settings.samples // settings.others].copy(), 4)
    return f"{int((indices >= 0).sum()):,} found"


def file(settings: Settings) -> str:
    """Write a selection of all samples, read it, and count its samples by shard."""
    import pyarrow as pa

    from vilbert.pipeline.shards.dataset import DatasetInfo, Totals
    from vilbert.pipeline.shards.sample import describe_fields
    from vilbert.pipeline.shards.selection.file import selection_schema, write_selection

    count, size = settings.samples, 1000
    info = DatasetInfo(
        storage="tar", shard_size=size, rows=count, manifest="", manifest_hash="",
        fields=describe_fields(feature_dim=1, top_classes=0, attributes=False), feature_dim=1, class_names=(),
        attribute_names=(), fingerprint="0" * 64, fingerprint_fields={}, software={}, complete=True,
        totals=Totals(samples=count, failures={}, bytes=0), records_sha256="0" * 64,
    )  # fmt: skip

    def table(shard: int) -> pa.Table:
        rows = range(shard * size, min((shard + 1) * size, count))
        ids = [f"COCO_train2014_{row:012}" for row in rows]
        columns = [ids, ids, ["train"] * len(rows), [shard] * len(rows), list(range(len(rows)))]
        arrays = [pa.array(values, field.type) for values, field in zip(columns, selection_schema(), strict=True)]
        return pa.table(arrays, schema=selection_schema())

    with tempfile.TemporaryDirectory() as home:
        path = Path(home) / "s.parquet"
        written = write_selection(path, info, map(table, range(info.shards)), {})
        found = written.load([min(size, count - shard * size) for shard in range(info.shards)])
        kept = found.starts.nbytes + found.places.nbytes + found.splits.nbytes
        return f"{path.stat().st_size / 1e6:.1f} MB, {kept / count:.1f} bytes of memory per sample"


def measure(step: Callable[..., str], *arguments: Any) -> dict[str, Any]:
    """Return CPU seconds, peak memory and the result of a step that runs in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measured, (step, *arguments))


def _measured(step: Callable[..., str], *arguments: Any) -> dict[str, Any]:
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115  lives as long as the process
    begun = time.process_time()
    result = step(*arguments)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    return {"seconds": time.process_time() - begun, "megabytes": peak, "result": result}


def main(settings: Settings) -> int:
    """Print the table; return 1 if a limit is missed."""
    facts = conditions()
    found = {
        "near-duplicate groups, 4 bits": measure(groups, settings, 4),
        "near-duplicate groups, 8 bits": measure(groups, settings, 8),
        f"leaks by near-duplicates, {settings.others:,} others": measure(leaks, settings),
        "file written and read": measure(file, settings),
    }
    if settings.json:
        print(json.dumps({"steps": found, "conditions": facts}, indent=2))
    else:
        rows = [[name, f"{it['seconds']:.1f}", f"{it['megabytes']:.0f}", it["result"]] for name, it in found.items()]
        header = ["step", "CPU seconds", "peak memory, MB", "result"]
        print(markdown(header, rows), "", ", ".join(f"{k} {v}" for k, v in facts.items()), sep="\n")
    limited = [it for name, it in found.items() if "8 bits" not in name]
    return int(any(it["seconds"] > MOST_SECONDS or it["megabytes"] > MOST_MEGABYTES for it in limited))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings)))
