"""What a run is to write: a new data set, or the one that an earlier run of the same settings began.

Shard i holds manifest rows [i·n, (i+1)·n), so its content depends on the manifest and the fingerprint alone.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from manifests.manifest import Manifest
from pipeline.extract.settings import ExtractSettings
from pipeline.extract.worker import Description
from pipeline.shards.atomic import is_temporary
from pipeline.shards.dataset import (
    DatasetInfo,
    fingerprint_digest,
    read_dataset,
    sum_records,
    sum_splits,
    write_dataset,
)
from pipeline.shards.errors import FingerprintError, RefusedError, ShardError
from pipeline.shards.layout import DATASET_FILE
from pipeline.shards.lock import LOCK_FILE
from pipeline.shards.record import is_done, read_records, records_digest
from pipeline.shards.sample import describe_fields

FIXED = ("format", "storage", "shard_size", "rows", "manifest_hash", "fingerprint_fields")
"""What a run that goes on must have in common with the run that began."""


def plan_dataset(settings: ExtractSettings, manifest: Manifest, description: Description) -> DatasetInfo:
    """Return what the output folder is to hold; it holds no shard yet."""
    detector = settings.detector
    return DatasetInfo(
        storage=settings.format,
        shard_size=settings.shard_size,
        rows=min(manifest.rows, settings.limit or manifest.rows),
        limit=settings.limit,
        manifest=str(settings.manifest.resolve()),
        manifest_hash=manifest.hash,
        fields=describe_fields(
            feature_dim=description.feature_dim,
            top_classes=min(detector.top_classes, len(description.class_names)),
            attributes=bool(description.attribute_names),
        ),
        feature_dim=description.feature_dim,
        class_names=description.class_names,
        attribute_names=description.attribute_names,
        fingerprint=fingerprint_digest(description.fingerprint),
        fingerprint_fields=description.fingerprint,
        software=description.software,
    )


def make_folder(directory: Path) -> None:
    """Make the output folder; raise RefusedError where it is a file, or a folder of other things than a data set."""
    if directory.exists() and not directory.is_dir():
        raise RefusedError(f"--output {directory}: is a file; name a folder")
    directory.mkdir(parents=True, exist_ok=True)
    if (directory / DATASET_FILE).exists():
        return
    # A run that was killed before dataset.json was there leaves its lock, and perhaps the file half written.
    ours = (path for path in directory.iterdir() if path.name == LOCK_FILE or is_temporary(path))
    strangers = sorted(path.name for path in set(directory.iterdir()) - set(ours))
    if strangers:
        raise RefusedError(
            f"--output {directory}: holds {', '.join(strangers[:3])} but no {DATASET_FILE}; choose an empty folder"
        )


def begin_dataset(settings: ExtractSettings, planned: DatasetInfo) -> None:
    """Write dataset.json, or check that the one there is of the same settings.

    Raises FingerprintError, naming every difference, where it is not.
    """
    directory = settings.output
    if not (directory / DATASET_FILE).exists():
        write_dataset(directory, planned)
        return
    found = read_dataset(directory)
    was, now = ({name: getattr(info, name) for name in FIXED} for info in (found, planned))
    lines = "\n  ".join(differences(was, now))
    if lines:
        raise FingerprintError(
            f"{directory}: holds a data set of other settings, which this run would mix with its own:\n  {lines}\n"
            "Run with the settings of the data set, or choose another --output"
        )


def pending_shards(settings: ExtractSettings, planned: DatasetInfo) -> list[int]:
    """Return the shards that are not done."""
    return [shard for shard in range(planned.shards) if not is_done(settings.output, shard)]


def finish_dataset(settings: ExtractSettings) -> DatasetInfo:
    """Write into dataset.json what all shards hold together, and return it."""
    info = read_dataset(settings.output)
    records = list(read_records(settings.output).values())
    totals = sum_records(records)
    if len(records) != info.shards or totals.samples + sum(totals.failures.values()) != info.rows:
        raise ShardError(f"{settings.output}: shards are missing or too many; see: vilbert verify {settings.output}")
    finished = dataclasses.replace(
        info, complete=True, totals=totals, splits=sum_splits(records), records_sha256=records_digest(records)
    )
    if finished != info:
        write_dataset(settings.output, finished)
    return finished


def differences(was: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield a line for each field that differs: `extractor.precision: "fp32" in the data set, "bf16" asked for`."""
    for name in sorted(was.keys() | now.keys()):
        old, new = was.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from differences(old, new, "" if name == "fingerprint_fields" else f"{prefix}{name}.")
        elif old != new:
            yield f"{prefix}{name}: {_short(old)} in the data set, {_short(new)} asked for"


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
