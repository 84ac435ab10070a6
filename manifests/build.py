"""The command `vilbert manifest`: convert sources in published formats to one manifest and a report of issues."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path

from vilbert.manifests.atomic import publish, temporary_name
from vilbert.manifests.grouped import group_by_split
from vilbert.manifests.manifest import Manifest
from vilbert.manifests.orientation import may_keep_stored_pixels
from vilbert.manifests.record import ManifestError
from vilbert.manifests.report import Report
from vilbert.manifests.settings import ManifestSettings
from vilbert.manifests.sources import read_batches, source_kinds
from vilbert.manifests.unique import write_unique

__all__ = ["ManifestSettings", "build_manifest"]

log = logging.getLogger(__name__)


def build_manifest(settings: ManifestSettings) -> int:
    """Write the manifest and its report, log a summary, and return 0.

    Raises:
        ManifestError: A source cannot be read. No manifest is left behind.
    """
    output = settings.output
    if output.exists() and not settings.overwrite:
        raise ManifestError(f"--output {output} exists; choose another name, or replace it with --overwrite")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ManifestError(f"--output {output}: cannot create its folder: {error.strerror}") from None
    report = Report()
    draft, grouped = (temporary_name(output.with_suffix(suffix)) for suffix in (".draft", ".grouped"))
    try:
        keep_first = settings.duplicate_ids == "first"
        orientation = may_keep_stored_pixels(settings.exif_orientation, (kind for _, kind in source_kinds(settings)))
        batches = read_batches(settings, report)
        manifest = write_unique(batches, draft, report, keep_first=keep_first, orientation=orientation)
        if not manifest.rows:
            sources = ", ".join(map(str, settings.sources))
            raise ManifestError("\n".join([f"no rows in {sources}", *report.lines()]))
        if settings.group_by_split:
            manifest = group_by_split(manifest, grouped, orientation=orientation)
            publish(grouped, draft)
        _write_report(settings, manifest, report)
        publish(draft, output)
    except OSError as error:
        raise ManifestError(f"{error.filename or output}: {error.strerror or error}") from error
    finally:
        draft.unlink(missing_ok=True)
        grouped.unlink(missing_ok=True)
    for line in report.lines():
        log.warning("%s", line)
    log.info("%s: %s rows, hash %s", output, f"{manifest.rows:,}", manifest.hash[:16])
    return 0


def report_path(output: Path) -> Path:
    """Return the path of a manifest's report."""
    return output.with_suffix(".report.json")


def _write_report(settings: ManifestSettings, manifest: Manifest, report: Report) -> None:
    path = report_path(settings.output)
    content = {
        "manifest": {"file": settings.output.name, "rows": manifest.rows, "hash": manifest.hash},
        **report.to_json(),
        "settings": dataclasses.asdict(settings),
    }
    temporary = temporary_name(path)
    text = json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n"
    # Paths that are not UTF-8 contain lone surrogates, which JSON writes as escapes such as `\udcff`.
    temporary.write_bytes(text.encode("utf-8", "backslashreplace"))
    publish(temporary, path)
