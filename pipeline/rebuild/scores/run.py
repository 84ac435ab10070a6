"""Compute the scores of a data set shard by shard, then write them as a column.

The values of a shard are stored in DIR/.plan/ as soon as they are complete, so an interrupted run resumes after its
last finished shard. Near-duplicate groups need the hashes of all samples, so the column is written when all shards are
finished; writing it takes little time and starts again after an interruption.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vilbert.pipeline.errors import RefusedError, ShardError
from vilbert.pipeline.rebuild.scores.images import Images
from vilbert.pipeline.rebuild.scores.score import SCORES, Score, Scored
from vilbert.pipeline.rebuild.scores.settings import ScoreSettings
from vilbert.pipeline.rebuild.scores.values import GROUP_FIELDS, PROBLEM, Values, values_path
from vilbert.pipeline.shards.canonical import encode_json
from vilbert.pipeline.shards.columns.add import add_column
from vilbert.pipeline.shards.columns.info import ColumnInfo, read_column
from vilbert.pipeline.shards.columns.layout import check_column_name, column_folder
from vilbert.pipeline.shards.dataset import DatasetInfo, fingerprint_digest, read_info
from vilbert.pipeline.shards.failures import FailureRow
from vilbert.pipeline.shards.location.folder import LocalFolder
from vilbert.pipeline.shards.location.layout import DATASET_FILE, PLAN_FOLDER, data_path, record_path
from vilbert.pipeline.shards.parallel import map_shards, worker_count
from vilbert.pipeline.shards.record import ShardRecord, read_each_record, read_record
from vilbert.pipeline.shards.storage.atomic import write_atomic
from vilbert.pipeline.shards.storage.store import open_shard, read_captions
from vilbert.pipeline.terminal import counted
from vilbert.plugins import PluginError

logger = logging.getLogger(__name__)

_ARRAYS = ("boxes", "object_ids", "object_scores")


@dataclass(frozen=True, kw_only=True)
class ScoreTask:
    """The input of a process that scores a shard."""

    settings: ScoreSettings
    home: Path
    """Folder of the values of finished shards."""


def write_scores(settings: ScoreSettings) -> int:
    """Write the column; return 0, or 1 if images are needed and none could be read.

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
            logger.info("%s: column %s already has these scores", folder.name, settings.column)
            return 0
        home = folder.path / PLAN_FOLDER / _home_name(settings.column, facts, info.records_sha256)
        _prepare_home(home, settings.column)
        records = list(read_each_record(folder, range(info.shards)))
        alone = any(score.uses_model for score in scores.values())
        workers = 1 if alone else worker_count(settings.num_workers, info.totals.bytes)
        todo = [record.shard for record in records if record.samples and not values_path(home, record.shard).exists()]
        task = ScoreTask(settings=settings, home=home)
        for _ in map_shards(partial(score_shard, task), todo, workers=workers, label="score"):
            pass
        values = Values(home, records, facts, distance=settings.duplicate_distance)
        column = add_column(folder, settings.column, values.file, missing="error")
        shutil.rmtree(home)
        _remove_if_empty(home.parent)
    return _summarise(folder, column, values, needs_images=any(it.needs_images for it in scores.values()))


def build_scores(settings: ScoreSettings) -> dict[str, Score]:
    """Return the scores of `--scores` by name; RefusedError if one cannot be built or two have the same field."""
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
    """Return, as JSON values, everything except the data set that the values of the column depend on."""
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
    """Return whether the column is complete; RefusedError if it has other values."""
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


def _home_name(column: str, facts: dict[str, Any], records_sha256: str) -> str:
    """Return the name of the folder of finished shards, which depends on the settings and the state of the data."""
    return f"score-{column}-{fingerprint_digest({**facts, 'base': records_sha256})[:16]}"


def _prepare_home(home: Path, column: str) -> None:
    """Create the folder of finished shards, and delete the folders of other settings."""
    home.mkdir(parents=True, exist_ok=True)
    for other in home.parent.glob(f"score-{column}-*"):
        if other != home and len(other.name) == len(home.name):
            shutil.rmtree(other)


def _remove_if_empty(path: Path) -> None:
    if not any(path.iterdir()):
        path.rmdir()


@lru_cache(maxsize=1)
def _scores_of(settings: ScoreSettings) -> dict[str, Score]:
    """Return the scores of this process, which are built once."""
    return build_scores(settings)


def score_shard(task: ScoreTask, shard: int) -> int:
    """Write the values of a shard's samples, one per line; return their number."""
    settings = task.settings
    folder = LocalFolder(settings.directory)
    info = read_info(folder)
    record = read_record(record_path(folder.path, shard))
    scores = _scores_of(settings)
    lines: list[bytes] = []
    with closing(Images(folder, info, settings.fetching)) as images:
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
    path = values_path(task.home, shard)
    try:
        write_atomic(path, b"\n".join(lines) + b"\n")
    except OSError as error:
        raise ShardError(
            f"{path}: cannot be written ({error.strerror or error}); free space or check the folder's permissions, "
            "then run the same command again to resume"
        ) from error
    return len(lines)


def _samples(
    folder: LocalFolder,
    info: DatasetInfo,
    record: ShardRecord,
    pixels: Iterator[NDArray[np.uint8] | FailureRow] | None,
) -> Iterator[tuple[str, Scored, str]]:
    """Yield for each sample the image id, the input of the scores, and the reason if there is no image."""
    wanted = [name for name in _ARRAYS if name in info.fields]
    with open_shard(data_path(folder.path, record.shard, info.storage), verify=False) as reader:
        for number, key in enumerate(reader.keys()):
            arrays, metadata = reader.read(number, wanted)
            image = None if pixels is None else next(pixels)
            yield (
                metadata["image_id"],
                Scored(
                    key=key,
                    captions=read_captions(reader, number, metadata),
                    width=metadata["width"],
                    height=metadata["height"],
                    boxes=arrays["boxes"],
                    object_ids=arrays.get("object_ids"),
                    object_scores=arrays.get("object_scores"),
                    pixels=None if isinstance(image, FailureRow) else image,
                ),
                image.reason if isinstance(image, FailureRow) else "",
            )


def _summarise(folder: LocalFolder, column: ColumnInfo, values: Values, *, needs_images: bool) -> int:
    """Log a summary; return 1 if images are needed and none could be read."""
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
            "%s: images of %s could not be read (%s); they have %s.%s instead of scores",
            folder.name,
            counted(sum(failed.values()), "sample"),
            reasons,
            column.name,
            PROBLEM,
        )
    return 1 if needs_images and sum(failed.values()) == column.samples else 0
