"""`vilbert convert`: rebuild shards from data sets and published features."""

from __future__ import annotations

from pathlib import Path

from vilbert.pipeline.errors import MissingError
from vilbert.pipeline.jobs.run import run_job
from vilbert.pipeline.rebuild.convert.job import ConvertJob
from vilbert.pipeline.rebuild.convert.settings import ConvertSettings


def convert(settings: ConvertSettings) -> int:
    """Write the missing shards; return 0, 1 if no sample is left, or 130 if interrupted.

    Raises:
        MissingError: A source does not exist; nothing is written then.
    """
    for place in (*settings.sources, settings.add_fields_from):
        if isinstance(place, Path) and not place.exists():
            raise MissingError(f"{place}: no such file or folder")
    job = ConvertJob(settings)
    if settings.dry_run:
        from vilbert.pipeline.jobs.dry_run import dry_run

        return dry_run(job)
    return run_job(job)
