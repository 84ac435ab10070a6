"""`vilbert verify`: check that a data set is complete and undamaged, or list its problems."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from pathlib import Path

from tyro.conf import Positional

from vilbert.manifests.manifest import Manifest
from vilbert.manifests.record import ManifestError
from vilbert.pipeline.errors import MissingError, ShardError
from vilbert.pipeline.shards.checks.columns import check_columns
from vilbert.pipeline.shards.checks.dataset import (
    check_duplicates,
    check_files,
    check_info,
    check_listed_sizes,
    check_manifest,
    check_presence,
    check_totals,
)
from vilbert.pipeline.shards.checks.findings import RESTORE, Finding
from vilbert.pipeline.shards.checks.shard import ShardTask, check_shard, problem_of
from vilbert.pipeline.shards.checks.side_files import check_side_files, side_files_there
from vilbert.pipeline.shards.dataset import DatasetInfo, read_info
from vilbert.pipeline.shards.location.folder import Folder, Place, not_a_dataset, open_folder, what_is_there
from vilbert.pipeline.shards.location.layout import DATASET_FILE, SHARDS_FOLDER, record_numbers
from vilbert.pipeline.shards.location.place_option import PlaceOption
from vilbert.pipeline.shards.parallel import map_shards, worker_count
from vilbert.pipeline.terminal import counted, print_lines
from vilbert.settings import NonNegativeInt, validated


@validated
class VerifySettings:
    """Verify that a data set is complete and undamaged, or list the problems and exit with status 1.

    The fast check compares records, sizes, counts, keys and failures. --deep also hashes every byte, parses every
    sample, checks its values, and compares all of it with the manifest in both directions.
    """

    directory: Positional[PlaceOption]
    """Folder of the data set, or its URL; with a URL, --deep downloads each shard once."""
    deep: bool = False
    """Read and hash every byte. Only this detects flipped bits in features."""
    manifest: Path | None = None
    """Manifest to compare with; default with --deep: the one that dataset.json names, if it exists."""
    num_workers: NonNegativeInt = 0
    """Worker processes; 0: one per core, none for a small data set."""
    json: bool = False
    """Print a JSON list of {code, where, what, remedy}; it is empty if no problem was found."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The result of a check."""

    findings: tuple[Finding, ...]
    """Findings about the data set, then about its shards in order."""
    proven: str
    """One line that describes what was verified; valid only without findings."""


def verify(settings: VerifySettings) -> int:
    """Check a data set, print the problems or what was verified, and return 1 or 0.

    Raises:
        MissingError: The folder does not exist.
    """
    folder = open_folder(settings.directory)
    if isinstance(error := not_a_dataset(folder), MissingError):
        raise error
    verdict = examine(
        settings.directory, deep=settings.deep, manifest=settings.manifest, num_workers=settings.num_workers
    )
    if settings.json:
        print(json.dumps([asdict(finding) for finding in verdict.findings], indent=2))
    else:
        problems = f"{folder.name}: problems: {len(verdict.findings)}"
        print_lines([*map(str, verdict.findings), problems if verdict.findings else verdict.proven])
    return 1 if verdict.findings else 0


def examine(directory: Place, *, deep: bool, manifest: Path | None = None, num_workers: int = 0) -> Verdict:
    """Check a data set. Raise ManifestError if `manifest` is given and cannot be read."""
    given = Manifest.open(manifest) if manifest is not None else None
    folder = open_folder(directory)
    if not any(name == DATASET_FILE and size is not None for name, size in folder.entries("")):
        what, _, remedy = what_is_there(folder).partition("; ")
        return Verdict(
            findings=(Finding(code="dataset-missing", where=folder.name, what=what, remedy=remedy),), proven=""
        )
    try:
        info = read_info(folder)
    except ShardError as error:
        damaged = Finding(code="dataset-damaged", where=DATASET_FILE, what=problem_of(error), remedy=RESTORE)
        return Verdict(findings=(damaged,), proven="")
    findings = [*check_info(folder, info), *check_files(folder, info)]
    compared = given
    if compared is None and deep:
        compared = recorded_manifest(info, findings)
    if compared is not None:
        findings += check_manifest(info, compared)
    same = compared is not None and compared.hash == info.manifest_hash
    side_files = side_files_there(folder)
    task = ShardTask(
        folder=folder,
        info=info,
        deep=deep,
        manifest=compared if same else None,
        side_files=frozenset(side_files),
    )
    listed = {name: size for name, size in folder.entries(SHARDS_FOLDER) if size is not None}
    present = [shard for shard in record_numbers(listed) if shard < info.shards]
    findings += check_presence(info, set(present))
    workers = worker_count(num_workers, sum(listed.values()))
    reports = list(map_shards(partial(check_shard, task), present, workers=workers, label="verify"))
    reports.sort(key=lambda report: report.shard)
    findings += chain.from_iterable(report.findings for report in reports)
    if folder.remote and not deep:
        findings += check_listed_sizes(reports, listed, info)
    if info.complete:
        findings += check_totals(info, reports)
        findings += check_side_files(folder, info, reports, side_files, deep=deep)
        findings += check_columns(folder, info, deep=deep, workers=workers)
    findings += check_duplicates(folder, info, reports)
    return Verdict(findings=tuple(findings), proven=proven(folder, info, deep=deep, manifest=compared))


def recorded_manifest(info: DatasetInfo, findings: list[Finding]) -> Manifest | None:
    """Return the manifest that dataset.json names, or None if it is missing or damaged (which adds a finding)."""
    if not Path(info.manifest).is_file():
        return None
    try:
        return Manifest.open(info.manifest)
    except ManifestError as error:
        remedy = "rebuild it, or name another copy with --manifest"
        findings.append(Finding(code="manifest-damaged", where=info.manifest, what=str(error), remedy=remedy))
        return None


def proven(folder: Folder, info: DatasetInfo, *, deep: bool, manifest: Manifest | None) -> str:
    """Return the line that describes what was verified for a data set without findings."""
    shards, samples = counted(info.shards, "shard"), counted(info.totals.samples, "sample")
    failed = counted(sum(info.totals.failures.values()), "failed row")
    if dropped := sum(info.totals.dropped.values()):
        failed += f" + {dropped:,} dropped"
    counts = ", counts, keys" if deep or not folder.remote else ""
    text = (
        f"{folder.name}: complete: {shards}, {samples} + {failed} = {counted(info.rows, 'row')}; "
        f"records, sizes{counts} and failures agree"
    )
    if deep:
        text += (
            f"; all {counted(info.totals.bytes, 'byte')} hashed, every sample parsed and within bounds, no key twice"
        )
    if manifest is not None:
        return text + (f"; row by row as {manifest.path}" if deep else f"; made from {manifest.path}")
    if deep and info.converted:
        sources = counted(sum(len(step["sources"]) for step in info.converted), "source")
        return text + f"; converted from {sources}, whose rows are all counted"
    if deep:
        return text + f"; not compared with a manifest ({info.manifest} is not there: name it with --manifest)"
    return text + "; --deep also reads every byte"
