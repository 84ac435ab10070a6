"""Measure memory and time of the driver for 100 million rows: plan, list finished shards, sum up the records.

Writes a manifest of 100 million rows and the files of 400 000 finished shards (samples as sparse files), then measures
each step in a separate process with all imports of the driver. The last row is the listing of 100 000 shards in an
object store, with the entries that s3fs creates, without a network.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import tyro

from vilbert.manifests.manifest import ROWS_PER_GROUP, Manifest, schema
from vilbert.pipeline.jobs.done import DoneShards, find_done
from vilbert.pipeline.jobs.plan import finish_dataset
from vilbert.pipeline.shards.dataset import DatasetInfo, fingerprint_digest, read_info, write_dataset
from vilbert.pipeline.shards.failures import FailureRow, encode_failures
from vilbert.pipeline.shards.location.folder import LocalFolder
from vilbert.pipeline.shards.location.layout import FAILURES_FOLDER, SHARDS_FOLDER, shard_files
from vilbert.pipeline.shards.location.remote_folder import RemoteFolder
from vilbert.pipeline.shards.record import ShardRecord
from vilbert.pipeline.shards.sample import describe_fields

MOST_MEGABYTES = 1000.0
MOST_SECONDS = 60.0
REMOTE_SHARDS = 100_000


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to measure."""

    rows: int = 100_000_000
    """Rows of the manifest."""
    shards: int = 400_000
    """Shards of the data set; three files each."""
    pending: int = 1_000
    """Number of shards at the end that are not finished."""
    folder: Path | None = None
    """Folder for about 5 GB of small files; by default a temporary folder."""


def write_manifest(path: Path, rows: int) -> None:
    """Write a manifest of equal rows; its hash is not that of its content."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = ["image_00000000", "s3://images/image_00000000.jpg", ["a caption of ten words, as many as captions have"]]
    columns = [*row, "train", None, "0" * 64, 640, 480]
    group = pa.table(
        [pa.array([value] * ROWS_PER_GROUP, kind.type) for value, kind in zip(columns, schema(), strict=True)],
        schema=schema(),
    )
    with pq.ParquetWriter(path, schema(), compression="zstd") as writer:
        for start in range(0, rows, ROWS_PER_GROUP):
            writer.write_table(group.slice(0, min(ROWS_PER_GROUP, rows - start)), row_group_size=ROWS_PER_GROUP)
        footer = {"format": "1", "rows": str(rows), "hash": "0" * 64}
        writer.add_key_value_metadata({f"vilbert.manifest.{name}": value for name, value in footer.items()})


def plan(settings: Settings) -> DatasetInfo:
    """Return the data set's plan."""
    return DatasetInfo(
        storage="tar",
        shard_size=-(-settings.rows // settings.shards),
        rows=settings.rows,
        manifest="manifest.parquet",
        manifest_hash="0" * 64,
        fields=describe_fields(feature_dim=2048, top_classes=20, attributes=False),
        feature_dim=2048,
        class_names=("background", "object"),
        attribute_names=(),
        fingerprint=fingerprint_digest({}),
        fingerprint_fields={},
        software={},
    )


def write_shards(directory: Path, info: DatasetInfo, shards: range) -> None:
    """Write the files of finished shards, with one failed row each."""
    import hashlib

    for shard in shards:
        start, stop = info.shard_rows(shard)
        lines = encode_failures([FailureRow(row=start, image_id="a", uri="b", reason="corrupt", detail="as made")])
        failures, data, record_name = shard_files(shard, "tar")
        record = ShardRecord(
            shard=shard,
            rows=(start, stop),
            file=Path(data).name,
            samples=stop - start - 1,
            bytes=158_720 * (stop - start - 1) + 1024,
            sha256="0" * 64,
            first_key=f"image_{start + 1:08}",
            last_key=f"image_{stop - 1:08}",
            splits={"train": stop - start - 1},
            failures={"corrupt": 1},
            failures_sha256=hashlib.sha256(lines).hexdigest(),
            fingerprint=info.fingerprint,
        )
        (directory / failures).write_bytes(lines)
        with (directory / data).open("wb") as file:
            file.truncate(record.bytes)
        (directory / record_name).write_bytes(record.to_json())


def start_up(folder: Path) -> DoneShards:
    """Do what a run does before the first shard is handed out."""
    manifest = Manifest.open(folder / "manifest.parquet")
    info = dataclasses.replace(read_info(LocalFolder(folder / "set")), rows=manifest.rows)
    done = find_done(LocalFolder(folder / "set"), info, sweep=True)
    rows = {shard: info.shard_rows(shard) for shard in done.pending()}
    print(f"{len(rows):,} shards pending, {done.failed_rows:,} failed rows", file=sys.stderr)
    return done


def resume(folder: Path) -> None:
    """Go on with what an earlier run noted."""
    start_up(folder)


def resume_without_notes(folder: Path) -> None:
    """Go on from the records alone, and note them."""
    start_up(folder).save()


def close(folder: Path) -> None:
    """Add up all records, as a run does in the end."""
    finish_dataset(LocalFolder(folder / "set"), written=1)


class Listing:
    """A store that lists what s3fs would list of finished shards."""

    async_impl = True

    def ls(self, path: str, detail: bool) -> list[dict[str, Any]]:
        """Return an entry a file."""
        under = path.rpartition("/")[2]
        kinds = {SHARDS_FOLDER: ("json", "tar"), FAILURES_FOLDER: ("jsonl",)}[under]
        return [
            {
                "Key": f"{path}/{shard:06}.{kind}",
                "LastModified": datetime.fromtimestamp(shard, UTC),
                "ETag": f'"{shard:032x}"',
                "ChecksumAlgorithm": ["CRC32"],
                "ChecksumType": "FULL_OBJECT",
                "Size": 1000,
                "StorageClass": "STANDARD",
                "type": "file",
                "size": 1000 + shard,
                "name": f"{path}/{shard:06}.{kind}",
            }
            for shard in range(REMOTE_SHARDS)
            for kind in kinds
        ]


def resume_remote(folder: Path) -> None:
    """Go on with what is in a store, as far as the listing."""
    from vilbert.pipeline.jobs.done import list_files

    Manifest.open(folder / "manifest.parquet")
    info = plan(Settings(shards=REMOTE_SHARDS))
    with mock.patch.object(RemoteFolder, "_open", lambda self, name: (Listing(), f"bucket/set/{name}")):
        present = list_files(RemoteFolder("s3://bucket/set"), info).present
    assert np.count_nonzero(present) == REMOTE_SHARDS


def in_own_process(step: Callable[[Path], None], folder: Path) -> tuple[float, float]:
    """Return the seconds that a step takes and the peak memory of its process in megabytes."""
    context = multiprocessing.get_context("spawn")
    answers: Any = context.Queue()
    process = context.Process(target=_measured, args=(step, folder, answers))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{step.__name__} failed")
    found: tuple[float, float] = answers.get()
    return found


def _measured(step: Callable[[Path], None], folder: Path, answers: Any) -> None:
    import ray  # noqa: F401  the driver has these too

    import vilbert.pipeline.extract.run  # noqa: F401

    started = time.perf_counter()
    step(folder)
    seconds = time.perf_counter() - started
    answers.put((seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def main(settings: Settings) -> int:
    """Print the table; return 1 if a limit is missed."""
    with tempfile.TemporaryDirectory(dir=settings.folder) as name:
        folder = Path(name)
        info = plan(settings)
        for made in (SHARDS_FOLDER, FAILURES_FOLDER):
            (folder / "set" / made).mkdir(parents=True)
        write_manifest(folder / "manifest.parquet", settings.rows)
        write_dataset(folder / "set", info)
        done = info.shards - settings.pending
        write_shards(folder / "set", info, range(done))
        print(f"{info.shards:,} shards planned, {done:,} written", file=sys.stderr)
        os.sync()
        rows = []
        steps: list[tuple[str, Callable[[Path], None], float | None]] = [
            ("start, every record read: no notes", resume_without_notes, None),
            ("start, from notes and one listing", resume, MOST_SECONDS),
            (f"a store's listing of {REMOTE_SHARDS:,} shards, as s3fs returns it", resume_remote, MOST_SECONDS),
        ]
        for text, step, limit in steps:
            rows.append((text, limit, *in_own_process(step, folder)))
        write_shards(folder / "set", info, range(done, info.shards))
        rows.append(("end, all records summed up", None, *in_own_process(close, folder)))
    from benchmarks.model import markdown  # imports torch, which must not count

    cells = [
        [text, f"{seconds:.1f}", "" if limit is None else f"{limit:g}", f"{memory:,.0f}", f"{MOST_MEGABYTES:,.0f}"]
        for text, limit, seconds, memory in rows
    ]
    print(markdown(["step", "seconds", "limit", "peak memory, MB", "limit, MB"], cells))
    return int(any(memory > MOST_MEGABYTES or seconds > (limit or seconds) for _, limit, seconds, memory in rows))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings)))
