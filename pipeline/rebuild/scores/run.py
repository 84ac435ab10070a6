"""Compute the scores of a data set shard by shard, then write them as a column.

The values of a shard are kept in DIR/.plan/ as soon as they are complete, so an interrupted run resumes behind its last
finished shard. Near-duplicate groups need the hashes of all samples, so the column is written when all shards are
there; writing it takes little time, and begins anew where it was interrupted.
"""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vilbert.extractors.decode import DecodeSettings
from vilbert.manifests.manifest import Manifest
from vilbert.manifests.record import ImageRecord
from vilbert.manifests.uri import ImageReader
from vilbert.pipeline.errors import CorruptShardError, RefusedError, ShardError
from vilbert.pipeline.extract.base_rows import KEPT, KeptImages, base_rows, original_manifest
from vilbert.pipeline.extract.fetching.fetcher import Fetcher
from vilbert.pipeline.extract.prepare import Prepared, prepare
from vilbert.pipeline.rebuild.scores.hamming import near_groups
from vilbert.pipeline.rebuild.scores.score import SCORES, Score, Scored
from vilbert.pipeline.rebuild.scores.settings import ScoreSettings
from vilbert.pipeline.shards.canonical import decode_json, encode_json
from vilbert.pipeline.shards.columns.add import add_column
from vilbert.pipeline.shards.columns.info import ColumnInfo, read_column
from vilbert.pipeline.shards.columns.layout import check_column_name, column_folder
from vilbert.pipeline.shards.columns.values_file import ValuesFile
from vilbert.pipeline.shards.dataset import DatasetInfo, fingerprint_digest, read_info
from vilbert.pipeline.shards.failures import FailureRow
from vilbert.pipeline.shards.location.folder import LocalFolder
from vilbert.pipeline.shards.location.layout import DATASET_FILE, PLAN_FOLDER, data_path, record_path
from vilbert.pipeline.shards.parallel import map_shards, worker_count
from vilbert.pipeline.shards.record import ShardRecord, read_each_record, read_record
from vilbert.pipeline.shards.storage.atomic import write_atomic
from vilbert.pipeline.shards.storage.store import open_shard
from vilbert.pipeline.terminal import counted
from vilbert.plugins import PluginError

logger = logging.getLogger(__name__)

PROBLEM = "problem"
"""Field of a sample whose image cannot be read or is another one now: the reason, as in failures/."""
GROUP_FIELDS = ("duplicates", "duplicate_of", "first_of_duplicates")
"""Number of samples of the near-duplicate group, this one included; key of its first sample; whether it is this one."""
DECODING = DecodeSettings(allow_truncated=True, min_side=1, max_aspect=1e9)
"""Images that were decoded for the detector: looser limits than any that it had."""
_ARRAYS = ("boxes", "object_ids", "object_scores")
_PLACE_BITS = 32
DECODED_AHEAD = 8
"""Images that are decoded before they are needed; one may have 150 MB."""


@dataclass(frozen=True, kw_only=True)
class ScoreTask:
    """What a process needs to score a shard."""

    settings: ScoreSettings
    home: Path
    """Where the values of finished shards are kept."""


def write_scores(settings: ScoreSettings) -> int:
    """Write the column; return 0, or 1 where images are needed and none could be read.

    Raises:
        RefusedError: The data set is not complete, a score cannot be computed, or the column has other values.
        ShardError: A shard is damaged.
    """
    check_column_name(settings.column)
    folder = LocalFolder(settings.directory)
    info = read_info(folder)
    if not info.complete or info.records_sha256 is None:
        raise RefusedError(f"{folder.name}: is not complete; run the command that writes it again until it is")
    scores = build_scores(settings)
    facts = describe_scores(settings, scores)
    with folder.exclusive_writer():
        if _is_there(folder, info, settings.column, facts):
            logger.info("%s: column %s is there with these scores", folder.name, settings.column)
            return 0
        home = folder.path / PLAN_FOLDER / f"score-{settings.column}-{fingerprint_digest(facts)[:16]}"
        _prepare_home(home, settings.column)
        records = list(read_each_record(folder, range(info.shards)))
        alone = any(score.uses_model for score in scores.values())
        workers = 1 if alone else worker_count(settings.num_workers, info.totals.bytes)
        todo = [record.shard for record in records if record.samples and not _values_path(home, record.shard).exists()]
        task = ScoreTask(settings=settings, home=home)
        for _ in map_shards(partial(score_shard, task), todo, workers=workers, label="score"):
            pass
        values = Values(home, records, facts, distance=settings.duplicate_distance)
        column = add_column(folder, settings.column, values.file, missing="error")
        shutil.rmtree(home)
        _remove_if_empty(home.parent)
    return _summarise(folder, column, values, needs_images=any(it.needs_images for it in scores.values()))


def build_scores(settings: ScoreSettings) -> dict[str, Score]:
    """Return the scores of `--scores` by name; RefusedError where one cannot be built or two give the same field."""
    built: dict[str, Score] = {}
    owners: dict[str, str] = dict.fromkeys((PROBLEM, *GROUP_FIELDS), "vilbert score")
    for name in settings.scores:
        try:
            built[name] = SCORES.load(name)(settings)
        except PluginError as error:
            raise RefusedError(f"--scores: {error}") from error
        for field in built[name].fields:
            if field in owners or not field.isidentifier():
                other = owners.get(field, "expected a Python identifier")
                raise RefusedError(f"--scores {name}: gives a field {field!r:.40} ({other}); rename it")
            owners[field] = name
    return built


def describe_scores(settings: ScoreSettings, scores: dict[str, Score]) -> dict[str, Any]:
    """Return, as JSON values, all that the values of the column depend on beside the data set."""
    facts: dict[str, Any] = {
        "scores": {
            name: {**score.fingerprint(), **({"source": source} if (source := SCORES.source(name)) else {})}
            for name, score in scores.items()
        }
    }
    if "phash" in scores:
        facts["duplicate_distance"] = settings.duplicate_distance
    if any(score.uses_model for score in scores.values()):
        facts["batch_size"] = settings.batch_size  # sums are taken in another order, which can change a last bit
    return facts


def _is_there(folder: LocalFolder, info: DatasetInfo, name: str, facts: dict[str, Any]) -> bool:
    """Say whether the column is complete; RefusedError where it has other values."""
    column = column_folder(folder, name)
    found = read_column(column)
    if found is None and column.read(DATASET_FILE) is None:
        return False
    whole = {**facts, "base": info.records_sha256, "missing": "error"}
    if found is not None and found.fingerprint == fingerprint_digest(whole):
        return True
    raise RefusedError(
        f"{folder.name}: has a column {name} with other values; drop it first: vilbert column drop {folder.name} "
        f"--column {name}; or give another --column"
    )


def _prepare_home(home: Path, column: str) -> None:
    """Make the folder of finished shards, and delete those of other settings."""
    home.mkdir(parents=True, exist_ok=True)
    for other in home.parent.glob(f"score-{column}-*"):
        if other != home and len(other.name) == len(home.name):
            shutil.rmtree(other)


def _remove_if_empty(path: Path) -> None:
    if not any(path.iterdir()):
        path.rmdir()


def _values_path(home: Path, shard: int) -> Path:
    return home / f"{shard:06d}.jsonl"


@lru_cache(maxsize=1)
def _scores_of(settings: ScoreSettings) -> dict[str, Score]:
    """Return the scores of this process, which are built once."""
    return build_scores(settings)


def score_shard(task: ScoreTask, shard: int) -> int:
    """Write the values of a shard's samples, a line each; return their number."""
    settings = task.settings
    folder = LocalFolder(settings.directory)
    info = read_info(folder)
    record = read_record(record_path(folder.path, shard))
    scores = _scores_of(settings)
    lines: list[bytes] = []
    with closing(Images(folder, info, settings)) as images:
        pixels = images.read(record) if any(score.needs_images for score in scores.values()) else None
        samples = _samples(folder, info, record, pixels)
        while batch := list(islice(samples, settings.batch_size)):
            inputs = [scored for _, scored, _ in batch]
            found = [score.score(inputs) for score in scores.values()]
            for (image_id, scored, problem), *parts in zip(batch, *found, strict=True):
                values = {name: value for part in parts for name, value in part.items()}
                if problem:
                    values[PROBLEM] = problem
                lines.append(encode_json({"image_id": image_id, "key": scored.key, "value": values}))
    write_atomic(_values_path(task.home, shard), b"\n".join(lines) + b"\n")
    return len(lines)


def _samples(
    folder: LocalFolder,
    info: DatasetInfo,
    record: ShardRecord,
    pixels: Iterator[NDArray[np.uint8] | FailureRow] | None,
) -> Iterator[tuple[str, Scored, str]]:
    """Yield image id, what scores are computed from, and the reason for which there is no image, of each sample."""
    wanted = [name for name in _ARRAYS if name in info.fields]
    with open_shard(data_path(folder.path, record.shard, info.storage), verify=False) as reader:
        for number, key in enumerate(reader.keys()):
            arrays, metadata = reader.read(number, wanted)
            image = None if pixels is None else next(pixels)
            captions = metadata.get("captions") or []
            if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
                problem = f"captions is {captions!r:.100}, expected an array of strings"
                raise CorruptShardError(problem, path=reader.path, key=key)
            yield (
                metadata["image_id"],
                Scored(
                    key=key,
                    captions=tuple(captions),
                    width=metadata["width"],
                    height=metadata["height"],
                    boxes=arrays["boxes"],
                    object_ids=arrays.get("object_ids"),
                    object_scores=arrays.get("object_scores"),
                    pixels=None if isinstance(image, FailureRow) else image,
                ),
                image.reason if isinstance(image, FailureRow) else "",
            )


class Images:
    """The images of a data set: the bytes that it keeps, or what lies where they were; read ahead by threads."""

    def __init__(self, folder: LocalFolder, info: DatasetInfo, settings: ScoreSettings) -> None:
        """Take a complete data set."""
        self._folder, self._info = folder, info
        self._kept = KeptImages(folder.path) if info.fingerprint_fields.get("keep_images") else None
        self._manifest: Manifest | None = original_manifest(info)
        self._fetcher = Fetcher(settings.fetching, ImageReader(), max_bytes=DECODING.max_bytes)
        self._decoders = ThreadPoolExecutor(1, thread_name_prefix="decode")

    def read(self, record: ShardRecord) -> Iterator[NDArray[np.uint8] | FailureRow]:
        """Yield the pixels of each sample of a shard, [H, W, 3] RGB, or why there are none."""
        rows = islice(base_rows(self._folder, self._info, record, self._manifest), record.samples)
        numbered = list(enumerate(rows, record.rows[0]))
        with self._fetcher.ahead(
            numbered, self._prepare, self._decoders, window=DECODED_AHEAD, beat=_nothing
        ) as prepared:
            for item in prepared:
                yield item.image.pixels if isinstance(item, Prepared) else item

    def _prepare(self, item: tuple[int, ImageRecord], read: Callable[[], bytes]) -> Prepared | FailureRow:
        row, record = item
        if self._kept is not None:
            read = partial(self._kept.read, row, record.uri.removeprefix(KEPT))
        return prepare(row, record, DECODING, read, of_dataset=True)

    def close(self) -> None:
        """Stop the threads."""
        self._fetcher.stop()
        self._decoders.shutdown(wait=False, cancel_futures=True)


def _nothing() -> None:
    """Take a sign of life that nobody watches."""


class Values:
    """The values of all samples, with near-duplicate groups, for `add_column`. Those of two shards are in memory."""

    def __init__(self, home: Path, records: Sequence[ShardRecord], facts: dict[str, Any], *, distance: int) -> None:
        """Read the values of all shards once.

        Args:
            home: Where they are.
            records: Of all shards.
            facts: What the values depend on.
            distance: Bits in which the hashes of near-duplicates differ at most.
        """
        self._home = home
        self._starts = np.cumsum([0, *(record.samples for record in records)])
        self._shard = lru_cache(maxsize=2)(self._read_shard)
        places: dict[str, int] = {}
        hashes: list[NDArray[np.uint64]] = []
        known: list[NDArray[np.bool_]] = []
        keys: list[str] = []
        failures: Counter[str] = Counter()
        for record in records:
            lines = self._shard(record.shard) if record.samples else []
            if len(lines) != record.samples:
                raise ShardError(f"{_values_path(home, record.shard)}: is damaged; delete {home} and run again")
            for number, line in enumerate(lines):
                places[line["image_id"]] = record.shard << _PLACE_BITS | number
            keys += [line["key"] for line in lines] if "phash" in facts["scores"] else []
            failures.update(line["value"][PROBLEM] for line in lines if PROBLEM in line["value"])
            some = [line["value"].get("phash") for line in lines]
            known.append(np.array([text is not None for text in some], bool))
            hashes.append(np.array([int(text or "0", 16) for text in some], np.uint64))
        self.failures = failures
        """Samples without an image, by reason."""
        self._keys = keys
        self._groups = self._sizes = np.empty(0, np.int64)
        if keys:
            self._groups = _find_groups(np.concatenate(hashes), np.concatenate(known), distance)
            self._sizes = np.bincount(self._groups, minlength=len(keys))
        self.file = ValuesFile(member="json", places=places, read=self._value, facts=facts)
        """What the column is written from."""

    @property
    def duplicate_groups(self) -> int:
        """Groups of at least two near-duplicates."""
        return int((self._sizes > 1).sum())

    def _read_shard(self, shard: int) -> list[dict[str, Any]]:
        path = _values_path(self._home, shard)
        try:
            return [dict(decode_json(line)) for line in path.read_bytes().splitlines()]
        except (OSError, ValueError, TypeError) as error:
            raise ShardError(f"{path}: is damaged ({error}); delete {self._home} and run again") from error

    def _value(self, place: int) -> dict[str, Any]:
        shard, number = place >> _PLACE_BITS, place & ((1 << _PLACE_BITS) - 1)
        value: dict[str, Any] = self._shard(shard)[number]["value"]
        if "phash" not in value:
            return value
        sample = int(self._starts[shard]) + number
        first = int(self._groups[sample])
        group = int(self._sizes[first]), self._keys[first], first == sample
        return {**value, **dict(zip(GROUP_FIELDS, group, strict=True))}


def _find_groups(hashes: NDArray[np.uint64], known: NDArray[np.bool_], distance: int) -> NDArray[np.int64]:
    """Return the first sample of the group of each; a sample whose hash is not known is a group of its own."""
    groups = np.arange(len(hashes))
    rows = np.flatnonzero(known)
    groups[rows] = rows[near_groups(hashes[rows], distance)]
    return groups


def _summarise(folder: LocalFolder, column: ColumnInfo, values: Values, *, needs_images: bool) -> int:
    """Log what was written; return 1 where images are needed and none could be read."""
    failed, groups = values.failures, values.duplicate_groups
    logger.info(
        '%s: column %s has scores of %s%s; select with: vilbert select %s --where "%s..." --output FILE',
        folder.name,
        column.name,
        counted(column.samples, "sample"),
        f", {counted(groups, 'group')} of near-duplicates" if groups else "",
        folder.name,
        f"{column.name}.",
    )
    if failed:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(failed.items()))
        logger.warning(
            "%s: images of %s could not be read (%s); they have %s.%s in place of scores",
            folder.name,
            counted(sum(failed.values()), "sample"),
            reasons,
            column.name,
            PROBLEM,
        )
    return 1 if needs_images and sum(failed.values()) == column.samples else 0
