"""Measure `vilbert convert` in samples per second, compared with a plain copy, webdataset and MMF.

All methods convert the same samples: 36 regions of 2048 features in tar shards, in the page cache. Before the
measurement, each method converts a few samples, and its output must contain the same features. Methods take turns;
medians are printed. Every method ends with its files on the disk (fsync). With TMPDIR in memory (/dev/shm), no disk is
involved.

- plain: the standard library reads the shards, computes their SHA-256 and writes the bytes.
- webdataset: samples from its reader are written by its `TarWriter`, decoded and undecoded.
- MMF: `lmdb_conversion.py` of facebookresearch/mmf, reimplemented. It reads .npy files with the features and the other
  data of each image and pickles them into one LMDB in one transaction. The .npy files are written before the
  measurement, as MMF's extraction (`extract_features_vmb.py`) writes them: float32 features and float32 probabilities
  of all classes.

`vilbert convert` runs as the command does by default: one worker in this process that works on two shards at a time.
The others use one thread, as published.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import io
import json
import logging
import os
import pickle
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import tyro
from numpy.typing import NDArray

from benchmarks.loader import conditions
from benchmarks.model import cell, markdown
from benchmarks.samples import SampleShape, draw_captions, draw_words, write_samples
from vilbert.pipeline.rebuild.convert.command import convert
from vilbert.pipeline.rebuild.convert.settings import ConvertSettings
from vilbert.pipeline.rebuild.export import describe
from vilbert.pipeline.rebuild.formats.exporters.mmf_lmdb import mmf_item
from vilbert.pipeline.shards.open_dataset import open_dataset
from vilbert.pipeline.shards.storage import verified

PLAIN = "plain read, SHA-256, write"
STREAM, RAW_STREAM = "webdataset, decoded", "webdataset, undecoded"
MMF = "MMF, .npy to LMDB"
OURS: dict[str, dict[str, Any]] = {
    "ours, other shard size": {},
    "ours, to LMDB": {"format": "lmdb"},
    "ours, 8 of 10 samples": {"where": "not (endswith(image_id, '0') or endswith(image_id, '2'))"},
    "ours, 18 of 36 boxes": {"max_boxes": 18},
}
LEAST_OF_PLAIN, LEAST_OF_PEERS = 0.5, 3.0
CHECKED_SAMPLES = 32
LIMITED = "ours, other shard size"
"""The way that is compared with the limits: the others do more, or less."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to measure."""

    samples: int = 8000
    """Samples, of about 0.16 MB each; MMF's files take 0.53 MB of each."""
    shard_size: int = 500
    """Samples per shard of the source; the output has twice as many."""
    rounds: int = 3
    """Number of measurements of each method."""
    seed: int = 0
    """Seed of the samples."""
    json: bool = False
    """Print one JSON object instead of the table."""


def sync(path: Path) -> None:
    """Put a file on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def copy_plainly(source: Path, target: Path) -> None:
    """Read the shards, hash and write them."""
    target.mkdir()
    for path in sorted((source / "shards").glob("*.tar")):
        digest = hashlib.sha256()
        with path.open("rb") as file, (target / path.name).open("wb") as copy:
            while data := file.read(1 << 20):
                digest.update(data)
                copy.write(data)
            copy.flush()
            os.fsync(copy.fileno())


def stream(source: Path, target: Path, *, decode: bool, shard_size: int) -> None:
    """Read with webdataset and write with its TarWriter."""
    import webdataset

    target.mkdir()
    shards = [str(path) for path in sorted((source / "shards").glob("*.tar"))]
    samples = webdataset.WebDataset(shards, shardshuffle=False)
    with webdataset.ShardWriter(f"{target}/%06d.tar", maxcount=shard_size, maxsize=1 << 40, verbose=0) as writer:
        for sample in samples.decode() if decode else samples:
            writer.write({name: value for name, value in sample.items() if name not in ("__url__", "__local_path__")})
    for path in target.iterdir():
        sync(path)


def write_mmf(source: Path, target: Path) -> None:
    """Write the .npy files that MMF's extraction leaves, of what `vilbert export --to mmf-lmdb` gives MMF's reader."""
    target.mkdir()
    with open_dataset(source) as dataset:
        description = describe(dataset.info)
        for sample in dataset:
            item = mmf_item(sample, description)
            del item["feature_path"]
            np.save(target / f"{sample.key}.npy", item.pop("features"))
            np.save(target / f"{sample.key}_info.npy", np.array(item, dtype=object), allow_pickle=True)


def convert_mmf(source: Path, target: Path) -> None:
    """Read .npy pairs and write one LMDB, as MMF does. All files are of this script's making."""
    paths = [path for path in glob.glob(f"{source}/**/*.npy", recursive=True) if not path.endswith("_info.npy")]
    keys = []
    with lmdb.open(str(target), map_size=1 << 40) as environment, environment.begin(write=True) as transaction:
        for path in paths:
            name = os.path.relpath(path, source).split(".npy")[0]
            item = {"feature_path": name, "features": np.load(path, allow_pickle=True)}
            info = np.load(path.split(".npy")[0] + "_info.npy", allow_pickle=True)
            for field in ("image_height", "image_width", "num_boxes", "objects", "cls_prob", "bbox"):
                item[field] = info.item().get(field)
            keys.append(name.encode())
            transaction.put(keys[-1], pickle.dumps(item))
        transaction.put(b"keys", pickle.dumps(keys))


def convert_ours(source: Path, target: Path, *, shard_size: int, **options: Any) -> None:
    """Run the command as it is by default, which compares each shard of the source with its SHA-256."""
    verified._compared.clear()  # else only the first run would
    settings = ConvertSettings(sources=(source,), output=target, shard_size=shard_size, **options)
    with contextlib.redirect_stderr(io.StringIO()):
        assert convert(settings) == 0


def first_features(name: str, path: Path) -> NDArray[Any]:
    """Return the features of the first image of an output."""
    if name == MMF:
        with lmdb.open(str(path), readonly=True) as environment, environment.begin() as transaction:
            key = min(pickle.loads(transaction.get(b"keys") or b""))  # of this script's making
            return np.asarray(pickle.loads(transaction.get(key) or b"")["features"])
    if name in OURS:
        with open_dataset(path) as dataset:
            return np.asarray(dataset[0].regions.features)
    import webdataset

    shards = [str(min(path.glob("*.tar")))]
    return np.asarray(next(iter(webdataset.WebDataset(shards, shardshuffle=False).decode()))["features.npy"])


def draw_ways(home: Path, samples: int, settings: Settings) -> tuple[Path, dict[str, Callable[[Path], None]]]:
    """Write a data set and MMF's files of it into a folder; return the data set, and each way to convert it."""
    captions = draw_captions(draw_words(settings.seed), samples, settings.seed)
    size = {"seed": settings.seed, "storage": "tar", "shard_size": settings.shard_size}
    source = write_samples(home / "source", captions, SampleShape(), **size)  # type: ignore[arg-type]
    write_mmf(source, home / "npy")
    shard_size = 2 * settings.shard_size
    return source, {
        PLAIN: partial(copy_plainly, source),
        STREAM: partial(stream, source, decode=True, shard_size=shard_size),
        RAW_STREAM: partial(stream, source, decode=False, shard_size=shard_size),
        MMF: partial(convert_mmf, home / "npy"),
        **{name: partial(convert_ours, source, shard_size=shard_size, **options) for name, options in OURS.items()},
    }


def check(home: Path, settings: Settings) -> None:
    """Assert that the output of each way holds the same features; all imports are done then."""
    source, ways = draw_ways(home, CHECKED_SAMPLES, settings)
    with open_dataset(source) as dataset:
        expected = dataset[0].regions.features
    for name, act in ways.items():
        act(home / "out")
        if "where" not in OURS.get(name, {}):
            assert np.isin(first_features(name, home / "out")[:, 0], expected[:, 0]).all(), name
        shutil.rmtree(home / "out")


def measure(home: Path, settings: Settings) -> list[dict[str, Any]]:
    """Time each way and return a row for each."""
    _, ways = draw_ways(home, settings.samples, settings)
    taken: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(settings.rounds):
        for name, act in ways.items():
            os.sync()
            begun, used = time.perf_counter(), time.process_time()
            act(home / "out")
            taken[name].append(time.perf_counter() - begun)
            cpu[name].append(time.process_time() - used)
            shutil.rmtree(home / "out")
            print(f"{name}: {settings.samples / taken[name][-1]:,.0f} samples/s", file=sys.stderr, flush=True)
    seconds = {name: statistics.median(times) for name, times in taken.items()}
    peers = min(seconds[name] for name in (STREAM, RAW_STREAM, MMF))
    return [
        {
            "way": name,
            "samples/s": settings.samples / spent,
            "CPU s": statistics.median(cpu[name]),
            "ratio to plain": seconds[PLAIN] / spent,
            "ratio to the fastest peer": peers / spent,
        }
        for name, spent in seconds.items()
    ]


def main(settings: Settings) -> int:
    """Print the table; return 1 if a limit is missed."""
    logging.basicConfig(level=logging.ERROR)
    facts = conditions()
    with tempfile.TemporaryDirectory() as folder:
        for inner in ("small", "home"):
            (Path(folder) / inner).mkdir()
        check(Path(folder) / "small", settings)
        rows = measure(Path(folder) / "home", settings)
    row = next(row for row in rows if row["way"] == LIMITED)
    missed = [
        f"{name} {row[name]:.2f}, the limit is {least}"
        for name, least in (("ratio to plain", LEAST_OF_PLAIN), ("ratio to the fastest peer", LEAST_OF_PEERS))
        if row[name] < least
    ]
    if settings.json:
        print(json.dumps({**facts, "rows": rows, "missed": missed}))
    else:
        print(", ".join(f"{name} {value}" for name, value in facts.items()) + "\n")
        forms = {"samples/s": ",.0f", "CPU s": ".1f", "ratio to plain": ".2f", "ratio to the fastest peer": ".2f"}
        print(
            markdown(["method", *forms], [[row["way"], *(cell(row[key], forms[key]) for key in forms)] for row in rows])
        )
        print("\n".join(missed))
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings)))
