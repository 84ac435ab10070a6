"""A worker of a conversion, which makes a shard from positions of the plan, with Ray or without."""

from __future__ import annotations

import dataclasses
import platform
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vilbert.pipeline import __version__
from vilbert.pipeline.errors import StoppedError
from vilbert.pipeline.jobs.stall import Pulse
from vilbert.pipeline.jobs.worker import Description, ShardDone
from vilbert.pipeline.rebuild.convert.operations import DroppedError, add_fields
from vilbert.pipeline.rebuild.convert.outcome import describe_outcome, described, region_operations
from vilbert.pipeline.rebuild.convert.plan import FILES, Part, PlannedRows
from vilbert.pipeline.rebuild.convert.settings import ConvertSettings
from vilbert.pipeline.rebuild.convert.sources import OpenSources
from vilbert.pipeline.rebuild.dataset_source import DatasetSource
from vilbert.pipeline.shards.canonical import decode_json, encode_json
from vilbert.pipeline.shards.dataset import fingerprint_digest
from vilbert.pipeline.shards.failures import FailureRow
from vilbert.pipeline.shards.location.folder import open_folder
from vilbert.pipeline.shards.location.layout import shard_files
from vilbert.pipeline.shards.sample import REGION_FIELDS, Sample
from vilbert.pipeline.shards.storage.raw import RawRun, RawSample
from vilbert.pipeline.shards.storage.writer import Layout, ShardWriter

BATCH = 256
"""Number of rows whose joined values are looked up together."""

Outcome = Sample | RawSample | RawRun | FailureRow | str
"""The result of one or several rows; a string is the reason why a row is dropped."""


class ConvertWorker:
    """Reads rows of the sources and writes shards. Its methods may be called from several threads."""

    def __init__(self, settings: ConvertSettings, *, scratch: Path | None = None, plan: Path | None = None) -> None:
        """Store the settings.

        Args:
            settings: Settings of the command.
            scratch: For a dry run, the folder for the shards instead of the output folder. The SHA-256 of the sources'
                shards is then not compared: a dry run needs few rows of many shards and would read them all.
            plan: Folder with `.plan/`, if it is not the output folder.
        """
        self._verify = scratch is None
        self._settings = settings
        self._folder = open_folder(scratch or settings.output)
        self._plan = plan
        self._operations = region_operations(settings)
        self._stop = threading.Event()
        self._idle: list[Opened] = []
        self._stack = ExitStack()
        self._lock = threading.Lock()
        self._rows_done: dict[int, int] = {}
        self._beats = 1

    def start(self) -> Description:
        """Open the sources and return the description of the result. Raises what `describe_outcome` raises."""
        opened = OpenSources(self._settings, verify=self._verify)
        self._outcome = outcome = describe_outcome(self._settings, opened)
        self._fingerprint = fingerprint_digest(outcome.fingerprint)
        self._idle.append(Opened(opened))
        joins = bool(self._settings.join)
        self._copies = [
            isinstance(source, DatasetSource)
            and source.info.storage == self._settings.format
            and not (joins and source.info.storage == "lmdb")
            and not self._operations.change_arrays(source.description.fields)
            and not groups
            and "images" not in self._settings.drop_fields
            for source, groups in zip(opened.sources, outcome.added, strict=True)
        ]
        """Whether each source's stored bytes can be copied to the output."""
        self._completes = joins or any(outcome.added)
        """Whether samples take values from other files, so that each is decoded."""
        return Description(
            fingerprint=described(outcome),
            feature_dim=int(outcome.fields["features"]["shape"][1]),
            class_names=outcome.class_names,
            soft_labels="class_ids" in outcome.fields,
            attribute_names=outcome.attribute_names,
            software={"vilbert-pipeline": __version__, "python": platform.python_version()},
        )

    def make_shard(self, shard: int, rows: tuple[int, int], retry: bool = False) -> ShardDone:
        """Write the shard of the rows [start, stop) of the data set and return its content."""
        begun = time.monotonic()
        with ExitStack() as stack:
            opened = stack.enter_context(self.opened())
            stack.callback(self._forget, shard)
            base = opened.planned.plan.base_rows
            part = opened.planned.part(rows[0] - base, rows[1] - base)
            directory = stack.enter_context(self._folder.building())
            writer = stack.enter_context(ShardWriter(directory, shard=shard, format=self._settings.format))
            failures: list[FailureRow] = []
            dropped = Counter(part.dropped)
            layout = self._layout()
            place = 0
            for outcome in self._outcomes(opened, part):
                if isinstance(outcome, str):
                    dropped[outcome] += 1
                elif isinstance(outcome, FailureRow):
                    failures.append(dataclasses.replace(outcome, row=int(part.places[place] + base)))
                elif isinstance(outcome, Sample):
                    writer.add(outcome)
                elif isinstance(outcome, RawSample):
                    writer.add_raw(outcome, layout=layout, split=_split(outcome))
                else:
                    writer.add_run(outcome, layout=layout)
                rows_of_it = len(outcome.keys) if isinstance(outcome, RawRun) else 1
                place += rows_of_it
                self._rows_done[shard] = self._rows_done.get(shard, 0) + rows_of_it
                self._beats += 1
            assert place == len(part.rows)
            record = writer.commit(rows=rows, failures=failures, fingerprint=self._fingerprint, dropped=dropped)
            self._folder.publish(directory, shard_files(shard, self._settings.format))
        return ShardDone(record, time.monotonic() - begun, 0.0)

    def try_rows(self, rows: Sequence[int]) -> list[Sample | FailureRow]:
        """Return the results of some rows that are not dropped, without writing them."""
        made = []
        with self.opened() as opened:
            base = opened.planned.plan.base_rows
            for row in rows:
                part = opened.planned.part(row - base, row - base + 1)
                outcomes = self._outcomes(opened, part, copies=False)
                made += [outcome for outcome in outcomes if isinstance(outcome, Sample | FailureRow)]
        return made

    def pulse(self) -> Pulse:
        """Return the worker's heartbeat."""
        return Pulse(sum(self._rows_done.copy().values()), self._beats)

    def stop(self, *, hung: bool = False) -> None:
        """Make every running `make_shard` raise StoppedError at its next row."""
        self._stop.set()
        with self._lock:
            idle, self._idle = self._idle, []
        for opened in idle:
            opened.close()

    def is_preparing(self) -> bool:
        """Return False: the only threads are those of `make_shard`."""
        return False

    @contextmanager
    def opened(self) -> Iterator[Opened]:
        """Provide sources and a plan that no other thread uses."""
        with self._lock:
            opened = self._idle.pop() if self._idle else None
        opened = opened or Opened(OpenSources(self._settings, verify=self._verify))
        opened.open_plan(self._settings, self._plan)
        try:
            yield opened
        except BaseException:
            opened.close()
            raise
        with self._lock:
            if not self._stop.is_set():
                self._idle.append(opened)
                return
        opened.close()

    def _forget(self, shard: int) -> None:
        self._rows_done.pop(shard, None)

    def _layout(self) -> Layout:
        fields = self._outcome.fields.items()
        layout = tuple((name, tuple(field["shape"][1:]), str(field["dtype"])) for name, field in fields)
        return (*layout, ("image", (), "uint8")) if self._outcome.images else layout

    def _outcomes(self, opened: Opened, part: Part, *, copies: bool = True) -> Iterator[Outcome]:
        """Yield the result of each kept row, in order."""
        for start in range(0, len(part.rows), BATCH):
            read = self._read(opened, part.rows[start : start + BATCH], copies=copies)
            if not self._completes:
                yield from (self._change(outcome) for _, outcome in read)
                continue
            batch = [(source, outcome) for source, outcome in read if not isinstance(outcome, RawRun)]
            joined = opened.planned.joined
            ids = [_image_id(outcome) for _, outcome in batch if not isinstance(outcome, FailureRow)]
            fields = joined.fields(ids) if self._settings.join else {}
            donor_rows = joined.donor_rows([one.key for _, one in batch if isinstance(one, Sample)])
            for source, outcome in batch:
                yield self._change(self._complete(opened, source, outcome, fields, donor_rows))

    def _complete(
        self,
        opened: Opened,
        source: int,
        outcome: Sample | RawSample | FailureRow,
        fields: Mapping[str, dict[str, Any]],
        donor_rows: Mapping[str, int],
    ) -> Outcome:
        """Return a row with the values of other files for its image."""
        if isinstance(outcome, FailureRow):
            return outcome
        new = fields.get(_image_id(outcome))
        if isinstance(outcome, RawSample):
            return outcome if new is None else outcome._replace(metadata=_merged(outcome.metadata, new))
        if new is not None:
            outcome = dataclasses.replace(outcome, meta=outcome.meta | new)
        donor, groups = opened.sources.donor, self._outcome.added[source]
        if donor is None or not groups:
            return outcome
        row = donor_rows[outcome.key]
        other = next(iter(donor.read(row, row + 1)))
        if isinstance(other, FailureRow):
            return "no_fields"
        try:
            return add_fields(outcome, other, groups)
        except DroppedError as error:
            return error.reason

    def _change(self, outcome: Outcome) -> Outcome:
        """Return a row after the operations on its regions."""
        if self._stop.is_set():
            raise StoppedError
        if not isinstance(outcome, Sample):
            return outcome
        try:
            return self._operations.apply(outcome)
        except DroppedError as error:
            return error.reason

    def _read(
        self, opened: Opened, rows: NDArray[np.int64], *, copies: bool
    ) -> Iterator[tuple[int, Sample | RawSample | RawRun | FailureRow]]:
        """Yield (index of the source, row) of source rows; consecutive rows are read with one call.

        Unchanged rows are returned as runs if the storage allows it.
        """
        sources = np.searchsorted(opened.starts, rows, side="right") - 1
        runs = np.flatnonzero((np.diff(rows) != 1) | (np.diff(sources) != 0)) + 1
        for begin, end in zip([0, *runs.tolist()], [*runs.tolist(), len(rows)], strict=True):
            if begin == end:
                continue
            number = int(sources[begin])
            source = opened.sources.sources[number]
            start = int(rows[begin] - opened.starts[number])
            stop = start + end - begin
            if copies and self._copies[number] and isinstance(source, DatasetSource):
                together = self._settings.format == "tar" and not self._completes
                read = source.read_runs(start, stop) if together else source.read_raw(start, stop)
                yield from ((number, row) for row in read)
            else:
                yield from ((number, row) for row in source.read(start, stop))


class Opened:
    """Sources, and the plan, which is opened when it is needed."""

    def __init__(self, sources: OpenSources) -> None:
        self.sources = sources
        self.starts = np.fromiter(accumulate((one.rows for one in sources.sources), initial=0), np.int64)[:-1]
        self._stack = ExitStack()
        self._stack.callback(sources.close)
        self._planned: PlannedRows | None = None

    @property
    def planned(self) -> PlannedRows:
        """The open plan."""
        assert self._planned is not None
        return self._planned

    def open_plan(self, settings: ConvertSettings, plan: Path | None) -> None:
        """Open the plan in a folder, by default the output folder."""
        if self._planned is None:
            directory = plan
            if directory is None:
                directory = self._stack.enter_context(open_folder(settings.output).local(FILES))
            self._planned = PlannedRows(directory)
            self._stack.callback(self._planned.close)

    def close(self) -> None:
        """Release all files."""
        self._stack.close()


def _image_id(outcome: Sample | RawSample | FailureRow) -> str:
    if isinstance(outcome, FailureRow):
        return outcome.image_id
    if isinstance(outcome, RawSample):
        return str(decode_json(outcome.metadata)["image_id"])
    return str(outcome.meta["image_id"])


def _split(sample: RawSample) -> object:
    return decode_json(sample.metadata).get("split", "")


def _merged(metadata: bytes, new: Mapping[str, Any]) -> bytes:
    return encode_json(decode_json(metadata) | {name: new[name] for name in new if name not in REGION_FIELDS})
