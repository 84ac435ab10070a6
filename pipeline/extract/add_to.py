"""`vilbert extract --add-to DIR --column NAME`: store the features of another detector as a column of a data set.

With the boxes of the data set, a column contains features, one array per sample. With `--labels`, and always with the
detector's own boxes, it contains regions: its folder is then a data set with the same keys and a `column.json`.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from vilbert.pipeline.allocator import keep_freed_memory
from vilbert.pipeline.errors import RefusedError, ShardError
from vilbert.pipeline.extract.add_to_settings import AddToSettings
from vilbert.pipeline.extract.base_rows import write_base_rows
from vilbert.pipeline.extract.job import ExtractJob, plan_dataset
from vilbert.pipeline.extract.settings import ExtractSettings
from vilbert.pipeline.jobs.worker import Description
from vilbert.pipeline.shards.columns.energon import write_energon_files
from vilbert.pipeline.shards.columns.info import Member, describe_column, encode_column, read_column
from vilbert.pipeline.shards.columns.layout import COLUMN_FILE, check_column_name, column_folder
from vilbert.pipeline.shards.dataset import DatasetInfo, read_info
from vilbert.pipeline.shards.location.folder import Folder, LocalFolder
from vilbert.pipeline.shards.location.layout import DATASET_FILE, PLAN_FOLDER
from vilbert.pipeline.shards.sample import describe_fields
from vilbert.pipeline.terminal import counted

SAME_IN_EXTRACT = (
    *("batch_size", "backend", "workers", "gpus_per_worker", "cpus_per_worker", "stall_seconds", "ray_address"),
    *("dashboard", "price_per_hour", "retry_failed", "dry_run", "detector", "selection", "decoding", "fetching"),
    *("column", "boxes_from", "labels"),
)
"""Settings that a worker of `extract` has too."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ColumnJob(ExtractJob):
    """Writes the column; see `jobs.job.Job`."""

    base: LocalFolder
    info: DatasetInfo
    """Of the data set."""
    name: str
    """Of the column."""

    def plan(self, description: Description) -> DatasetInfo:
        """Return the planned column: a shard with the same rows for each shard of the data set."""
        planned = replace(
            plan_dataset(self.settings, self.manifest, description),
            shard_size=self.info.shard_size,
            shard_starts=self.info.shard_starts,
            manifest=self.info.manifest,
        )
        if not self.settings.labels:
            fields = describe_fields(feature_dim=planned.feature_dim, top_classes=0, objects=False, attributes=False)
            return replace(planned, fields=fields, class_names=(), attribute_names=())
        if self.settings.boxes_from == "base" and not planned.class_names:
            raise RefusedError("--labels: the detector names no classes; leave the option out, or choose another one")
        return planned

    def finished(self, folder: Folder) -> None:
        """Write column.json, which makes the column usable."""
        if read_info(self.base).records_sha256 != self.info.records_sha256:
            raise ShardError(
                f"{self.base.name}: was changed while the column was written; run `vilbert column drop "
                f"{self.base.name} --column {self.name}` and the same command again"
            )
        found = read_info(folder)
        member: Member = "regions" if self.settings.labels else "npy"
        column = describe_column(self.name, found, self.info, member=member, boxes=self.settings.boxes_from)
        write_energon_files(folder, column)
        folder.write(COLUMN_FILE, encode_column(column))

    def summarise(self, info: DatasetInfo) -> int:
        """Log the content of the column; return 1 if it is empty."""
        failed = sum(info.totals.failures.values())
        logger.info(
            "%s: column %s has %s of %s%s; check with: vilbert verify %s --deep",
            self.base.name,
            self.name,
            "regions" if self.settings.labels else "features",
            counted(info.totals.samples, "sample"),
            f", {failed:,} failed (reasons in {self.settings.output}/failures/)" if failed else "",
            self.base.name,
        )
        return 0 if info.totals.samples else 1


def add_to(settings: AddToSettings) -> int:
    """Write the column; return 0, 1 if every image failed, or 130 if it was interrupted."""
    from vilbert.pipeline.jobs.dry_run import dry_run
    from vilbert.pipeline.jobs.plan import require_dataset
    from vilbert.pipeline.jobs.run import run_job

    check_column_name(settings.column)
    base = LocalFolder(settings.add_to)
    info = read_info(base)
    if not info.complete:
        raise RefusedError(f"{base.name}: is not complete; run the command that writes it again until it is")
    column = column_folder(base, settings.column)
    assert isinstance(column, LocalFolder)
    found = read_column(column)
    if found is not None and (column.read(DATASET_FILE) is None or found.base != info.records_sha256):
        raise RefusedError(
            f"{base.name}: has a column {settings.column} with other values or from an older state of the data set; "
            "drop it first: "
            f"vilbert column drop {base.name} --column {settings.column}"
        )
    if settings.retry_failed is not None:
        require_dataset(column)
    with ExitStack() as stack:
        if settings.dry_run:
            plan = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        else:
            plan = column.path / PLAN_FOLDER
            stack.callback(shutil.rmtree, plan, ignore_errors=True)
        manifest = write_base_rows(base, info, plan / "rows.parquet")
        job = ColumnJob(_extract_settings(settings, column.path, manifest.path), manifest, base, info, settings.column)
        if settings.dry_run:
            return dry_run(job)
        if settings.backend == "local":
            keep_freed_memory()  # before any thread, as in `extract`
        return run_job(job)


def _extract_settings(settings: AddToSettings, output: Path, manifest: Path) -> ExtractSettings:
    """Return the settings of the workers."""
    same = {name: getattr(settings, name) for name in SAME_IN_EXTRACT}
    same["labels"] = settings.labels or settings.boxes_from == "own"
    return ExtractSettings(manifest=manifest.absolute(), output=output.absolute(), **same)
