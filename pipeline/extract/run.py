"""`vilbert extract`: run a detector over a manifest and write a complete data set."""

from __future__ import annotations

import logging

from vilbert.manifests.manifest import Manifest
from vilbert.pipeline.allocator import keep_freed_memory
from vilbert.pipeline.extract.job import ExtractJob
from vilbert.pipeline.extract.settings import ExtractSettings
from vilbert.pipeline.jobs.run import run_job

logger = logging.getLogger(__name__)


def extract(settings: ExtractSettings) -> int:
    """Write the shards that are not there yet; return 0, 1 where every row failed, or 130 where it was interrupted.

    Where a thread hangs in native code it does not return: it ends the process, with that status.
    """
    manifest = Manifest.open(settings.manifest)
    if manifest.rows == 0:
        logger.error("%s has no rows; nothing to extract", settings.manifest)
        return 1
    job = ExtractJob(settings, manifest)
    if settings.dry_run:
        from vilbert.pipeline.jobs.dry_run import dry_run

        return dry_run(job)
    if settings.backend == "local":
        keep_freed_memory()  # before any thread: one that had memory of its own would leave it to the worker's
    return run_job(job)
