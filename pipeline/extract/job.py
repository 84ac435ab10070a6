"""The job of `vilbert extract`: shards from a manifest and a detector.

Shard i holds manifest rows [i·n, (i+1)·n), so its content depends on the manifest and the fingerprint alone. With
`--one-split-per-shard` a shard ends where the split changes, too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

from vilbert.manifests.manifest import Manifest
from vilbert.pipeline.extract.settings import ExtractSettings
from vilbert.pipeline.extract.split_starts import split_starts
from vilbert.pipeline.extract.worker import Worker
from vilbert.pipeline.jobs.measure import SAMPLE_ROWS, Measure, measure_rows
from vilbert.pipeline.jobs.worker import Description, ShardWorker
from vilbert.pipeline.shards.dataset import DatasetInfo, fingerprint_digest
from vilbert.pipeline.shards.index.write import write_side_files
from vilbert.pipeline.shards.location.folder import Folder
from vilbert.pipeline.shards.sample import describe_fields
from vilbert.pipeline.shards.small_features import STORED_AS

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExtractJob:
    """Runs a detector over the images of a manifest; see `jobs.job.Job`."""

    settings: ExtractSettings
    manifest: Manifest
    command = "extract"

    @property
    def worker(self) -> Callable[[ExtractSettings], Worker]:
        """Builds a worker from the settings."""
        return Worker

    @property
    def on_gpu(self) -> bool:
        """Whether a worker uses a GPU if one is available."""
        return self.settings.detector.device != "cpu"

    @property
    def retry_failed(self) -> Sequence[str] | None:
        """Reasons of the failed rows to try again; None without `--retry-failed`."""
        return self.settings.retry_failed

    def prepare(self, folder: Folder, *, dry: bool = False) -> AbstractContextManager[None]:
        """Do nothing: workers read the manifest itself."""
        return nullcontext()

    def plan(self, description: Description) -> DatasetInfo:
        """Return what the output folder is to hold; it holds no shard yet."""
        return plan_dataset(self.settings, self.manifest, description)

    def finished(self, folder: Folder) -> None:
        """Write the side files of other tools, unless they exist."""
        write_side_files(folder)

    def summarise(self, info: DatasetInfo) -> int:
        """Log the content of the data set; return 1 if it has no samples."""
        return summarise(self.settings, info)

    def worker_here(self) -> Worker:
        """Return a worker of this machine, which may lack a cluster's GPU."""
        settings = self.settings
        if settings.backend == "ray":
            settings = replace(settings, detector=replace(settings.detector, device="auto"))
        return Worker(settings)

    def measure(self, worker: ShardWorker, planned: DatasetInfo, pending: Sequence[int]) -> Measure:
        """Measure the cost of rows spread over the manifest."""
        count = min(SAMPLE_ROWS, planned.rows)
        rows = [number * planned.rows // count for number in range(count)]
        device = planned.fingerprint_fields.get("extractor", {}).get("device") if self.on_gpu else None
        return measure_rows(worker, rows, planned.storage, where=f", on the {device}" if device else "")

    def like(self, existing: DatasetInfo, planned: DatasetInfo) -> tuple[DatasetInfo, DatasetInfo]:
        """Return the plan with the device of the data set, which may differ on a cluster."""
        return existing, planned if self.settings.backend == "local" else with_device_of(existing, planned)


def plan_dataset(settings: ExtractSettings, manifest: Manifest, description: Description) -> DatasetInfo:
    """Return what the output folder is to hold; it holds no shard yet."""
    detector = settings.detector
    rows = min(manifest.rows, settings.limit or manifest.rows)
    return DatasetInfo(
        storage=settings.format,
        shard_size=settings.shard_size,
        shard_starts=split_starts(manifest, rows, settings.shard_size) if settings.one_split_per_shard else None,
        rows=rows,
        limit=settings.limit,
        manifest=str(settings.manifest.resolve()),
        manifest_hash=manifest.hash,
        fields=describe_fields(
            feature_dim=description.feature_dim,
            top_classes=min(detector.top_classes, len(description.class_names)) if description.soft_labels else 0,
            objects=bool(description.class_names),
            object_boxes=settings.selection.saved_box == "both",
            attributes=bool(description.attribute_names),
            feature_dtype=STORED_AS[settings.feature_dtype],
        ),
        feature_dim=description.feature_dim,
        class_names=description.class_names,
        attribute_names=description.attribute_names,
        fingerprint=fingerprint_digest(description.fingerprint),
        fingerprint_fields=description.fingerprint,
        software=description.software,
    )


def with_device_of(there: DatasetInfo, planned: DatasetInfo) -> DatasetInfo:
    """Return the plan with the device of the existing data set."""
    was, now = there.fingerprint_fields, planned.fingerprint_fields
    fields = {name: value for name, value in now.items() if name != "cpus_per_worker"}
    if "cpus_per_worker" in was:
        fields["cpus_per_worker"] = was["cpus_per_worker"]
    device = was.get("extractor", {}).get("device", now["extractor"]["device"])
    return replace(planned, fingerprint_fields={**fields, "extractor": {**now["extractor"], "device": device}})


def summarise(settings: ExtractSettings, info: DatasetInfo) -> int:
    """Log the content of the data set; return 1 if it has no samples."""
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(info.totals.failures.items()))
    logger.info(
        "%s: %d samples%s; check with: vilbert verify %s --deep",
        settings.output,
        info.totals.samples,
        f", {sum(info.totals.failures.values())} failures ({reasons})" if reasons else "",
        settings.output,
    )
    if private := info.totals.failures.get("private_address"):
        logger.warning(
            "%s at private addresses, which are not fetched by default. If you trust the manifest, run the same "
            "command with --allow-private-addresses --retry-failed private_address",
            "1 image is" if private == 1 else f"{private} images are",
        )
    if info.totals.samples == 0:
        logger.error("every row failed; the reasons are in %s/failures/", settings.output)
        return 1
    return 0
