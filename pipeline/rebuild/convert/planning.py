"""Decide for every source row whether it is kept, in one pass over keys and metadata; no feature is read."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vilbert.pipeline.errors import RefusedError, ShardError
from vilbert.pipeline.rebuild.convert.baked_columns import BakedColumns
from vilbert.pipeline.rebuild.convert.duplicates import KeyHashes
from vilbert.pipeline.rebuild.convert.joined import Joined, build_joined
from vilbert.pipeline.rebuild.convert.plan import JOINED_FILE, REASONS, ROWS_FILE, Plan, order_rows
from vilbert.pipeline.rebuild.convert.selection import read_selection
from vilbert.pipeline.rebuild.convert.settings import ConvertSettings
from vilbert.pipeline.rebuild.dataset_source import DatasetSource
from vilbert.pipeline.rebuild.source import Scanned, Source, scan_source
from vilbert.pipeline.rebuild.where import WhereError
from vilbert.pipeline.shards.checks.shard import key_hash
from vilbert.pipeline.shards.failures import FailureRow
from vilbert.pipeline.shards.keys import sample_key

logger = logging.getLogger(__name__)

BATCH = 4096
LOG_SECONDS = 30.0
CODES = {reason: code for code, reason in enumerate(REASONS)}
MAX_SPLITS = 1 << 16


def plan_rows(
    home: Path,
    sources: Sequence[Source],
    settings: ConvertSettings,
    request: str,
    *,
    donor: Source | None = None,
    lacking: Sequence[bool] = (),
    existing: Source | None = None,
) -> Plan:
    """Write rows.bin and joined.sqlite into a folder, and return the plan.

    Args:
        home: An empty folder.
        sources: The sources, in order.
        settings: Settings of the command.
        request: Digest that identifies the plan.
        donor: The source of `--add-fields-from`.
        lacking: Which sources take fields from it.
        existing: The data set that is appended to; its keys must not be repeated.

    Raises:
        RefusedError: The settings do not match the sources.
        ShardError: Two samples have the same id, or nothing is kept.
    """
    donor_keys = () if donor is None else _keys(donor)
    build_joined(home / JOINED_FILE, settings.join, settings.join_fields, donor_keys)
    pass_over = _Pass(home, sources, settings, Joined(home / JOINED_FILE))
    try:
        pass_over.run(existing, lacking or [False] * len(sources))
        return pass_over.finish(request)
    finally:
        pass_over.close()


def _keys(source: Source) -> Iterator[tuple[str, int]]:
    for row, entry in enumerate(scan_source(source, metadata=False)):
        if isinstance(entry, Scanned):
            yield entry.key, row


class _Pass:
    """One pass over all rows, and its results."""

    def __init__(self, home: Path, sources: Sequence[Source], settings: ConvertSettings, joined: Joined) -> None:
        self._home, self._sources, self._settings, self._joined = home, sources, settings, joined
        self._selection = read_selection(settings)
        self._rows = sum(source.rows for source in sources)
        self._codes = np.lib.format.open_memmap(home / "codes.npy", mode="w+", dtype=np.uint8, shape=(self._rows,))
        self._splits: NDArray[np.uint16] | None = None
        if settings.one_split_per_shard:
            shape = (self._rows,)
            self._splits = np.lib.format.open_memmap(home / "splits.npy", mode="w+", dtype=np.uint16, shape=shape)
        self._split_numbers: dict[str, int] = {}
        self._keys: KeyHashes | None = None
        self._images = KeyHashes(home / "images") if self._selection.by_image else None
        self._found_ids = np.zeros(0 if self._selection.ids is None else len(self._selection.ids), bool)
        self._met_joined = 0
        self._logged = time.monotonic()

    def run(self, existing: Source | None, lacking: Sequence[bool]) -> None:
        """Read the keys and, if needed, the metadata of every row."""
        if self._is_identity(existing):
            return
        self._keys = KeyHashes(self._home / "keys")
        base = 0 if existing is None else existing.rows
        if existing is not None:
            for start, batch in _batches(scan_source(existing, metadata=self._images is not None)):
                self._note_existing(batch, start)
        begin = 0
        for source, lacks in zip(self._sources, lacking, strict=True):
            selected = self._selected(source)
            for start, batch in _batches(scan_source(source, metadata=self._selection.needs_metadata)):
                some = None if selected is None else selected[start : start + len(batch)]
                self._take(batch, begin + start, base, lacks=lacks, selected=some)
                self._log(begin + start)
            begin += source.rows
        self._drop_repeated(base)

    def _selected(self, source: Source) -> NDArray[np.bool_] | None:
        """Return which rows of a source are in `--selection`; None if no file belongs to this source."""
        if not isinstance(source, DatasetSource | BakedColumns):
            return None
        file = self._selection.files.get(source.content)
        return None if file is None else source.selected_rows(file)

    def _is_identity(self, existing: Source | None) -> bool:
        """Return whether no row can be dropped and no key repeated: a single data set that is kept completely."""
        chosen = self._selection
        selects = chosen.needs_metadata or chosen.ids is not None or chosen.add_fields or bool(chosen.files)
        ours = len(self._sources) == 1 and self._sources[0].description.format == "vilbert"
        return ours and not selects and existing is None

    def _note_existing(self, batch: Sequence[Scanned | FailureRow], start: int) -> None:
        samples = [(entry, start + place) for place, entry in enumerate(batch) if isinstance(entry, Scanned)]
        self._note_keys([entry for entry, _ in samples], np.array([row for _, row in samples], np.int64))

    def _note_keys(self, entries: Sequence[Scanned], rows: NDArray[np.int64]) -> None:
        assert self._keys is not None
        self._keys.add([entry.key for entry in entries], rows)
        if self._images is not None:
            self._images.add([_image_hash(entry) for entry in entries], rows)

    def _take(
        self,
        batch: Sequence[Scanned | FailureRow],
        start: int,
        base: int,
        *,
        lacks: bool,
        selected: NDArray[np.bool_] | None,
    ) -> None:
        """Decide on a batch of rows, except for repeated keys."""
        new_fields = self._new_fields(batch)
        donor_rows: dict[str, int] = {}
        if lacks:
            donor_rows = self._joined.donor_rows([entry.key for entry in batch if isinstance(entry, Scanned)])
        listed = self._listed(batch)
        kept: list[int] = []
        for place, entry in enumerate(batch):
            if selected is not None and not selected[place]:
                reason = "selection"
            elif listed is not None and not listed[place]:
                reason = "ids"
            elif isinstance(entry, FailureRow):
                reason = "failed" if self._selection.decides_by_metadata else ""
            else:
                reason = self._reason(entry, new_fields, start + place)
                if not reason and lacks and entry.key not in donor_rows:
                    reason = "no_fields"
                if not reason:
                    kept.append(place)
            if reason:
                self._codes[start + place] = CODES[reason]
        entries = [entry for place in kept if isinstance(entry := batch[place], Scanned)]
        self._note_keys(entries, np.array(kept, np.int64) + (base + start))

    def _new_fields(self, batch: Sequence[Scanned | FailureRow]) -> dict[str, dict[str, Any]]:
        if not self._selection.joins:
            return {}
        ids = [entry.metadata["image_id"] for entry in batch if isinstance(entry, Scanned) and entry.metadata]
        return self._joined.fields(ids)

    def _listed(self, batch: Sequence[Scanned | FailureRow]) -> NDArray[np.bool_] | None:
        """Return whether --ids has each row, None without it."""
        ids = self._selection.ids
        if ids is None:
            return None
        keys = (entry.key if isinstance(entry, Scanned) else sample_key(entry.image_id) for entry in batch)
        hashes = np.fromiter(map(key_hash, keys), np.uint64, len(batch))
        places = np.minimum(np.searchsorted(ids, hashes), len(ids) - 1)
        found: NDArray[np.bool_] = ids[places] == hashes
        self._found_ids[places[found]] = True
        return found

    def _reason(self, entry: Scanned, new_fields: dict[str, dict[str, Any]], row: int) -> str:
        """Return the reason why a sample is dropped by its own metadata; empty if it is kept."""
        metadata, chosen = entry.metadata, self._selection
        if metadata is None:
            return ""
        if chosen.joins:
            new = new_fields.get(metadata["image_id"])
            if new is None and chosen.drop_unjoined:
                return "not_joined"
            self._met_joined += new is not None
            metadata = metadata | (new or {})
        split = str(metadata.get("split", ""))
        if chosen.splits is not None and split not in chosen.splits:
            return "split"
        try:
            if chosen.where is not None and not chosen.where.selects(metadata):
                return "where"
        except WhereError as error:
            raise RefusedError(str(error)) from None
        if self._splits is not None:
            number = self._split_numbers.setdefault(split, len(self._split_numbers))
            if number >= MAX_SPLITS:
                raise RefusedError(f"--one-split-per-shard: more than {MAX_SPLITS:,} splits")
            self._splits[row] = number
        return ""

    def _drop_repeated(self, base: int) -> None:
        assert self._keys is not None

        def alive(rows: NDArray[np.int64]) -> NDArray[np.bool_]:
            counts: NDArray[np.bool_] = (rows < base) | (self._codes[np.maximum(rows - base, 0)] == 0)
            return counts

        if self._images is not None:
            for rows, _ in self._images.repeated(alive):
                self._codes[rows[rows >= base] - base] = CODES["duplicate_image"]
        for rows, firsts in self._keys.repeated(alive):
            new = rows >= base
            rows, firsts = rows[new] - base, firsts[new] - base
            if len(rows) and self._settings.deduplicate != "id":
                raise ShardError(self._name_repeated(int(rows[0]), int(firsts[0])))
            self._codes[rows] = CODES["duplicate_id"]

    def _name_repeated(self, row: int, first: int) -> str:
        where = [self._place(place) for place in (first, row)]
        return (
            f"the image id {where[1][0]!r:.100} is there twice: in {where[0][1]} and in {where[1][1]}; keep the first "
            "with --deduplicate id, or convert fewer sources"
        )

    def _place(self, row: int) -> tuple[str, str]:
        """Return the key and the source of a row, for a message."""
        if row < 0:
            return "", "the data set that is appended to"
        starts = list(accumulate((source.rows for source in self._sources), initial=0))
        number = next(i for i, stop in enumerate(starts[1:]) if row < stop)
        sample = next(iter(self._sources[number].read(row - starts[number], row - starts[number] + 1)))
        image_id = sample.image_id if isinstance(sample, FailureRow) else str(sample.meta["image_id"])
        return image_id, f"source {number + 1} ({self._settings.sources[number]}), row {row - starts[number]:,}"

    def _log(self, row: int) -> None:
        if time.monotonic() - self._logged >= LOG_SECONDS:
            self._logged = time.monotonic()
            logger.info("planning: %s of %s rows", f"{row:,}", f"{self._rows:,}")

    def finish(self, request: str) -> Plan:
        """Order the rows and return the plan."""
        counts = np.zeros(len(REASONS), np.int64)
        for start in range(0, self._rows, 1 << 20):
            counts += np.bincount(self._codes[start : start + (1 << 20)], minlength=len(REASONS))
        dropped = {reason: int(count) for reason, count in zip(REASONS, counts, strict=True) if reason and count}
        self._check(int(counts[0]), dropped)
        starts = order_rows(
            self._home / ROWS_FILE,
            self._codes,
            shard_size=self._settings.shard_size,
            shuffle_seed=self._settings.shuffle_seed,
            splits=self._splits,
            split_names=list(self._split_numbers),
        )
        return Plan(
            request=request,
            rows=self._rows,
            kept=int(counts[0]),
            dropped=dropped,
            starts=starts,
        )

    def _check(self, kept: int, dropped: dict[str, int]) -> None:
        """Raise an error if nothing is kept or no id of a file exists; warn if some ids do not exist."""
        if self._selection.ids is not None and (absent := len(self._found_ids) - int(self._found_ids.sum())):
            logger.warning("--ids: %s of %s ids are in no source", f"{absent:,}", f"{len(self._found_ids):,}")
        if self._selection.joins and not self._met_joined:
            raise ShardError(
                "--join: no image id of the sources is in the files; compare an image_id of `vilbert inspect SOURCE` "
                "with those of the files"
            )
        if not kept:
            reasons = ", ".join(f"{count:,} by {reason}" for reason, count in dropped.items())
            raise ShardError(f"no row is left, so nothing is written: {reasons or 'the sources have no rows'} dropped")

    def close(self) -> None:
        """Close and delete the temporary files of the pass."""
        self._joined.close()
        for name in ("codes.npy", "splits.npy"):
            (self._home / name).unlink(missing_ok=True)
        for name in ("keys", "images"):
            shutil.rmtree(self._home / name, ignore_errors=True)


def _image_hash(entry: Scanned) -> str:
    sha256 = (entry.metadata or {}).get("sha256")
    if not isinstance(sha256, str):
        raise RefusedError(
            f"--deduplicate image: sample {entry.key} has no sha256 of its image; use --deduplicate id, or extract "
            "with `vilbert extract`, which records it"
        )
    return sha256


def _batches(entries: Iterator[Scanned | FailureRow]) -> Iterator[tuple[int, list[Scanned | FailureRow]]]:
    start = 0
    while batch := list(islice(entries, BATCH)):
        yield start, batch
        start += len(batch)
