"""The job of `vilbert convert`: shards from the rows of other data sets."""

from __future__ import annotations

import dataclasses
import logging
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from vilbert.pipeline import __version__
from vilbert.pipeline.errors import FingerprintError, RefusedError
from vilbert.pipeline.jobs.done import find_done
from vilbert.pipeline.jobs.measure import Measure
from vilbert.pipeline.jobs.plan import differences, has_dataset, require_same
from vilbert.pipeline.jobs.worker import Description, ShardWorker
from vilbert.pipeline.rebuild.convert.baked_columns import other_columns
from vilbert.pipeline.rebuild.convert.measure import measure_conversion
from vilbert.pipeline.rebuild.convert.outcome import (
    Outcome,
    describe_outcome,
    described,
    mixed_fingerprints,
    nameless,
    place_name,
    source_entry,
)
from vilbert.pipeline.rebuild.convert.plan import Plan, find_plan, make_plan, remove_plan
from vilbert.pipeline.rebuild.convert.planning import plan_rows
from vilbert.pipeline.rebuild.convert.settings import ConvertSettings
from vilbert.pipeline.rebuild.convert.sources import OpenSources
from vilbert.pipeline.rebuild.convert.worker import ConvertWorker
from vilbert.pipeline.rebuild.dataset_source import DatasetSource
from vilbert.pipeline.shards.dataset import ConvertStep, DatasetInfo, encode_dataset, fingerprint_digest, read_info
from vilbert.pipeline.shards.index.write import write_side_files
from vilbert.pipeline.shards.location.folder import Folder, LocalFolder, open_folder
from vilbert.pipeline.shards.location.layout import DATASET_FILE, PLAN_FOLDER
from vilbert.pipeline.shards.location.scratch import scratch_folder
from vilbert.pipeline.terminal import counted

logger = logging.getLogger(__name__)


class _Base(NamedTuple):
    """The data set that is appended to, in its previous state."""

    rows: int
    starts: tuple[int, ...]
    steps: tuple[ConvertStep, ...]


class ConvertJob:
    """Rebuilds shards; see `jobs.job.Job`."""

    command = "convert"
    on_gpu = False
    retry_failed: Sequence[str] | None = None

    def __init__(self, settings: ConvertSettings) -> None:
        self.settings = settings
        self._outcome: Outcome
        self._existing: DatasetInfo | None = None
        self._base = _Base(0, (), ())
        self._plan: Plan | None = None
        self._scratch: Path | None = None
        """Output folder of a dry run."""
        self._dry_plan: Path | None = None
        """The scratch folder, if it contains the plan."""

    @property
    def worker(self) -> Callable[[ConvertSettings], ConvertWorker]:
        """Build a worker from the settings."""
        return ConvertWorker

    @contextmanager
    def prepare(self, folder: Folder, *, dry: bool = False) -> Iterator[None]:
        """Plan the rows of the output, unless the folder has a plan or nothing is left to do."""
        with ExitStack() as stack:
            self._existing = read_info(folder) if has_dataset(folder) else None
            self._scratch = stack.enter_context(scratch_folder()) if dry else None
            begins = self._existing is None or not self._existing.complete or self.settings.append
            if begins and not dry and isinstance(folder, LocalFolder):
                (folder.path / PLAN_FOLDER).mkdir(exist_ok=True)
            with OpenSources(self.settings, verify=False) as opened:
                self._outcome = describe_outcome(self.settings, opened)
                if mixed := mixed_fingerprints(opened):
                    logger.warning("the sources were extracted with different settings: %s", mixed)
                for place, source in zip(self.settings.sources, opened.sources, strict=True):
                    if left := other_columns(source, self.settings.columns):
                        logger.warning(
                            "%s: its columns are not copied: %s; --columns stores columns in the samples",
                            place_name(place),
                            ", ".join(left),
                        )
                if self.settings.append:
                    self._require_same(folder)
                    self._base = self._find_base()
                elif self._existing is not None and not dry:
                    # Before a plan replaces that of the data set, which other tasks (--shared) may be reading.
                    require_same(self._existing, self._planned(), folder.name)
                if dry or not self._is_done(folder):
                    self._make_plan(folder, opened)
            if self.settings.append and not dry and not self._is_extended:
                folder.write(DATASET_FILE, encode_dataset(self._planned()))
            yield

    @property
    def _is_extended(self) -> bool:
        """Whether the data set in the output folder was started or extended by this command."""
        existing = self._existing
        steps_before = 1 if self.settings.append else 0
        if existing is None or len(existing.converted) <= steps_before:
            return False
        return nameless(existing.converted[-1]) == nameless(self._outcome.step)

    def _is_done(self, folder: Folder) -> bool:
        """Return whether the folder contains the complete output of this command."""
        existing = self._existing
        if existing is None or not existing.complete or not self._is_extended:
            return False
        return not find_done(folder, existing).pending()

    def _make_plan(self, folder: Folder, opened: OpenSources) -> None:
        request = fingerprint_digest(
            {
                "step": nameless(self._outcome.step),
                "shard_size": self.settings.shard_size,
                "base": [self._base.rows, *map(nameless, self._base.steps)],
            }
        )
        self._plan = find_plan(folder, request)
        if self._plan is not None:
            return
        with ExitStack() as stack:
            existing = None
            if self.settings.append:
                shards = len(self._base.starts)
                existing = stack.enter_context(DatasetSource(self.settings.output, shards=shards, verify=False))

            def build(home: Path) -> Plan:
                lacking = [bool(groups) for groups in self._outcome.added]
                plan = plan_rows(
                    home,
                    opened.sources,
                    self.settings,
                    request,
                    donor=opened.donor,
                    lacking=lacking,
                    existing=existing,
                )
                return dataclasses.replace(plan, base_rows=self._base.rows)

            self._plan = make_plan(folder if self._scratch is None else open_folder(self._scratch), build)
        self._dry_plan = self._scratch
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in self._plan.dropped.items())
        kept = f"{self._plan.kept:,} of {counted(self._plan.rows, 'row')}"
        logger.info("planned: %s%s", kept, f"; dropped: {reasons}" if reasons else "")

    def _require_same(self, folder: Folder) -> None:
        """Raise an error if the sources cannot be appended to the data set in the output folder."""
        existing, settings, outcome = self._existing, self.settings, self._outcome
        if existing is None:
            raise RefusedError(f"--append: {folder.name} holds no data set; run without it first")
        if existing.storage != settings.format or existing.shard_size != settings.shard_size:
            raise RefusedError(
                f"--append: {folder.name} has {existing.shard_size} rows per shard in {existing.storage} files; give "
                f"--shard-size {existing.shard_size} --format {existing.storage}"
            )
        if not existing.complete and not self._is_extended:
            raise RefusedError(f"--append: {folder.name} is not complete; run the command that writes it again first")
        was = {"fingerprint_fields": existing.fingerprint_fields, "fields": existing.fields}
        now = {"fingerprint_fields": outcome.fingerprint, "fields": outcome.fields}
        if lines := "\n  ".join(differences(was, now)):
            known = "sources" not in outcome.fingerprint or settings.importing.origin is not None
            hint = "" if known else ". Files of one detector can be appended if each is imported with the same --origin"
            raise FingerprintError(
                f"--append: {folder.name} has a different fingerprint from the sources:\n  {lines}\n"
                f"To merge them, write a new data set: vilbert convert {folder.name} SOURCE ... --output NEW{hint}"
            )
        if (existing.class_names, existing.attribute_names) != (outcome.class_names, outcome.attribute_names):
            raise FingerprintError(f"--append: {folder.name} has different class or attribute names from the sources")

    def _find_base(self) -> _Base:
        """Return the previous state of the data set that is appended to, also if an interrupted run extended it."""
        existing = self._existing
        assert existing is not None
        extended = self._is_extended
        rows = existing.rows - (existing.converted[-1]["rows"] if extended else 0)
        starts = tuple(start for shard in range(existing.shards) if (start := existing.shard_rows(shard)[0]) < rows)
        steps = existing.converted[:-1] if extended else existing.converted
        if not steps:
            with DatasetSource(self.settings.output, shards=len(starts), verify=False) as source:
                entry = source_entry(place_name(self.settings.output), source)
            steps = ({"rows": rows, "sources": [{**entry, "rows": rows}], "operations": {}},)
        return _Base(rows, starts, steps)

    def plan(self, description: Description) -> DatasetInfo:
        """Return the planned content of the output folder.

        Raises:
            FingerprintError: The workers found other sources than this process, such as other copies.
        """
        if lines := "; ".join(differences(described(self._outcome), description.fingerprint)):
            raise FingerprintError(f"the workers see different sources from this process: {lines}")
        return self._planned()

    def _planned(self) -> DatasetInfo:
        outcome, base, settings = self._outcome, self._base, self.settings
        steps = (*base.steps, outcome.step)
        if self._plan is not None:
            rows = base.rows + self._plan.rows
            starts = (*base.starts, *(base.rows + start for start in self._plan.starts))
            regular = starts == tuple(range(0, rows, settings.shard_size))
            shard_starts = None if regular else starts
        else:  # nothing is left to do, or the plan is not made yet
            assert self._existing is not None
            rows, shard_starts = self._existing.rows, self._existing.shard_starts
            if not settings.append and (len(self._existing.converted) > 1 or not self._is_extended):
                # Refused: it was appended to since, or is of other sources or settings.
                rows, shard_starts = int(outcome.step["rows"]), None
        return DatasetInfo(
            storage=settings.format,
            shard_size=settings.shard_size,
            shard_starts=shard_starts,
            rows=rows,
            manifest="",
            manifest_hash=fingerprint_digest({"converted": [nameless(step) for step in steps]}),
            fields=outcome.fields,
            feature_dim=int(outcome.fields["features"]["shape"][1]),
            class_names=outcome.class_names,
            attribute_names=outcome.attribute_names,
            fingerprint=fingerprint_digest(outcome.fingerprint),
            fingerprint_fields=outcome.fingerprint,
            software={"vilbert-pipeline": __version__, "python": platform.python_version()},
            converted=steps,
        )

    def worker_here(self) -> ConvertWorker:
        """Return a worker of this process, which writes into the scratch folder of the dry run."""
        return ConvertWorker(self.settings, scratch=self._scratch, plan=self._dry_plan)

    def measure(self, worker: ShardWorker, planned: DatasetInfo, pending: Sequence[int]) -> Measure:
        """Return the cost of a kept row."""
        assert isinstance(worker, ConvertWorker)
        return measure_conversion(worker, planned, pending)

    def like(self, existing: DatasetInfo, planned: DatasetInfo) -> tuple[DatasetInfo, DatasetInfo]:
        """Return both unchanged; a data set that will be appended to is not compared."""
        extends = self.settings.append and not self._is_extended
        return planned if extends else existing, planned

    def finished(self, folder: Folder) -> None:
        """Delete the plan and write the side files of other tools, unless they exist."""
        remove_plan(folder)
        write_side_files(folder)

    def summarise(self, info: DatasetInfo) -> int:
        """Log a summary of the data set; return 1 if it has no sample."""
        totals = info.totals
        counts = {"failures": totals.failures, "dropped": totals.dropped}
        told = "".join(
            f", {sum(some.values()):,} {what} ({', '.join(f'{count:,} {reason}' for reason, count in some.items())})"
            for what, some in counts.items()
            if some
        )
        name = self.settings.output
        held = counted(totals.samples, "sample")
        logger.info("%s: %s%s; check with: vilbert verify %s --deep", name, held, told, name)
        if totals.samples == 0:
            logger.error("no sample is left: all of %s failed or were dropped", counted(info.rows, "row"))
            return 1
        return 0
