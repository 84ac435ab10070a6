"""What a run left in its output folder, and how it differs from what an undisturbed run left."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Content:
    """What is in an output folder."""

    samples: Counter[tuple[str, str]]
    """(image ID, SHA-256 of its features and boxes), each as often as it is stored."""
    files: Counter[str]
    """SHA-256 of the files with samples, and of those that describe them. Names are not compared: some are random."""
    others: frozenset[str]
    """Files that hold no sample of the result: temporary or damaged ones, and the state of checkpointing."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How a killed and repeated run differs from an undisturbed one."""

    lost: int
    """Images without a sample."""
    doubled: int
    """Samples beyond the first of each image."""
    orphans: int
    """Files that hold no sample and that an undisturbed run does not have either."""
    same_samples: bool
    """Whether each image has the same features and boxes, once."""
    same_bytes: bool
    """Whether all files have the same content."""


def compare(found: Content, expected: Content) -> Difference:
    """Compare what is there with what an undisturbed run of the same framework left."""
    times: Counter[str] = Counter()
    for (image_id, _), count in found.samples.items():
        times[image_id] += count
    known = {path.partition("/")[0] for path in expected.others}  # such as Daft's store of keys: part of its result
    return Difference(
        lost=len({image_id for image_id, _ in expected.samples} - times.keys()),
        doubled=sum(count - 1 for count in times.values()),
        orphans=sum(path.partition("/")[0] not in known for path in found.others),
        same_samples=found.samples == expected.samples,
        same_bytes=found.files == expected.files,
    )


def read_content(output: Path) -> Content:
    """Read a data set of this pipeline, or a folder of Parquet files as any reader of it would."""
    return _read_dataset(output) if (output / "dataset.json").is_file() else _read_parquet(output)


def _read_dataset(output: Path) -> Content:
    from vilbert.pipeline.shards.dataset import read_dataset
    from vilbert.pipeline.shards.location.layout import shard_name
    from vilbert.pipeline.shards.open_dataset import open_dataset

    info = read_dataset(output)
    results = {"dataset.json"}
    for shard in map(shard_name, range(info.shards)):
        file = f"shards/{shard}.{info.storage}"
        results |= {file, f"{file}.idx", f"shards/{shard}.json", f"failures/{shard}.jsonl"}
    samples: Counter[tuple[str, str]] = Counter()
    with open_dataset(output) as dataset:
        for sample in dataset:
            content = sample.regions.features.tobytes() + sample.regions.boxes.tobytes()
            samples[str(sample.meta["image_id"]), hashlib.sha256(content).hexdigest()] += 1
    paths = _files(output)
    return Content(
        samples=samples,
        files=Counter(_sha256(output / path) for path in paths if path in results),
        others=frozenset(path for path in paths if path not in results),
    )


def _read_parquet(output: Path) -> Content:
    import pyarrow.parquet as pq

    samples: Counter[tuple[str, str]] = Counter()
    files: Counter[str] = Counter()
    others = [path for path in _files(output) if not path.startswith("data/")]
    for path in _files(output):
        if not path.startswith("data/"):
            continue
        try:
            rows = pq.read_table(output / path).to_pylist()
        except (OSError, ValueError):  # not Parquet, or cut
            others.append(path)
            continue
        files[_sha256(output / path)] += 1
        samples.update((row["image_id"], hashlib.sha256(row["features"] + row["boxes"]).hexdigest()) for row in rows)
    return Content(samples=samples, files=files, others=frozenset(others))


def _files(output: Path) -> list[str]:
    return sorted(str(path.relative_to(output)) for path in output.rglob("*") if path.is_file())


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
