"""What the index takes from one shard: a row for each sample, and columns over its samples, captions and regions.

Features are not read. Shapes: S samples, N regions and C captions of the shard, B boxes shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from vilbert.documents import is_digest
from vilbert.pipeline.browse.columns import SCORE_STEPS, SHOWN_BOXES
from vilbert.pipeline.errors import CorruptShardError
from vilbert.pipeline.shards.location.layout import StorageFormat, data_path
from vilbert.pipeline.shards.storage.atomic import write_atomic
from vilbert.pipeline.shards.storage.store import ShardReader, open_shard, read_captions
from vilbert.pipeline.shards.storage.tar_store import TarReader

SHOWN_CAPTION = 160
"""Characters of a caption that the grid shows."""
MAX_WORDS = 2**16 - 2
"""Of a caption that are counted."""
NO_HASH = 0
"""Stands for an image whose sha256 is not known."""


class SampleRow(NamedTuple):
    """The text fields of a sample in the index."""

    place: int
    """In the shard, from 0."""
    key: str
    image_id: str
    caption: str
    """The beginning of the first caption."""
    searched: str
    """All captions."""


class ShardEntries(NamedTuple):
    """The index entries of one shard."""

    shard: int
    rows: list[SampleRow]
    splits: list[str]
    """Names by number."""
    problem: str | None
    """Reason why the shard cannot be read; it then has no rows."""


def read_entries(
    directory: Path,
    parts: Path,
    storage: StorageFormat,
    fields: tuple[str, ...],
    samples: Mapping[int, int],
    shard: int,
) -> ShardEntries:
    """Read a shard, write its columns into the folder `parts`, and return its rows.

    fields: the arrays that the data set has. samples: how many the record of each shard states.
    """
    try:
        rows, columns, splits = _read(data_path(directory, shard, storage), fields, samples[shard])
    except CorruptShardError as error:
        return ShardEntries(shard, [], [], str(error))
    write_atomic(part_path(parts, shard), save(columns))
    return ShardEntries(shard, rows, splits, None)


def part_path(parts: Path, shard: int) -> Path:
    """Return where a shard's columns lie until all shards are read."""
    return parts / f"{shard:06d}.safetensors"


def _read(
    path: Path, fields: tuple[str, ...], samples: int
) -> tuple[list[SampleRow], dict[str, NDArray[Any]], list[str]]:
    wanted = tuple(
        name for name in ("boxes", "object_ids", "object_scores", "attribute_ids", "object_boxes") if name in fields
    )
    rows: list[SampleRow] = []
    figures: list[tuple[int, int, int, int, int]] = []
    hashes: list[int] = []
    words: list[int] = []
    splits: dict[str, int] = {}
    with open_shard(path, verify=False) as reader:
        keys = reader.keys()
        if len(keys) != samples:
            raise CorruptShardError(f"holds {len(keys)} samples, its record says {samples}", path=path)
        whole, documents = _read_all(reader, wanted)
        for place, (key, meta) in enumerate(zip(keys, documents, strict=True)):
            captions = read_captions(reader, place, meta)
            searched = "\n".join(captions)
            shown = captions[0][:SHOWN_CAPTION] if captions else ""
            rows.append(SampleRow(place, key, meta["image_id"], shown, searched))
            split = splits.setdefault(str(meta.get("split", "")), len(splits))
            figures.append((meta["num_boxes"], meta["width"], meta["height"], split, len(captions)))
            words += [min(len(caption.split()), MAX_WORDS) for caption in captions]
            digest = meta.get("sha256")
            hashes.append(int(str(digest)[:16], 16) if is_digest(digest) else NO_HASH)
    names = ("boxes", "width", "height", "split", "captions")
    table = np.array(figures, np.int64).reshape(len(rows), len(names)).astype(np.uint32)
    columns: dict[str, NDArray[Any]] = dict(zip(names, np.ascontiguousarray(table.T), strict=True))
    columns["image_hash"] = np.array(hashes, np.uint64)
    columns["caption_words"] = np.array(words, np.uint16)
    columns |= _region_columns(whole, columns["boxes"].astype(np.int64))
    return rows, columns, list(splits)


def _read_all(reader: ShardReader, fields: tuple[str, ...]) -> tuple[dict[str, NDArray[Any]], list[dict[str, Any]]]:
    """Return arrays [N, ...] of all regions of a shard, none without samples, and the metadata of each sample."""
    if isinstance(reader, TarReader) and (joined := reader.joined_arrays(fields)) is not None:
        documents = [reader.metadata(place) for place in range(len(reader))]
        if [document["num_boxes"] for document in documents] == joined[1]:
            boxes = joined[0].get("boxes", np.empty((0, 4)))
            if boxes.shape[1] == 4:
                return joined[0], documents
    parts = [reader.read(place, fields) for place in range(len(reader))]
    found = {name: np.concatenate([part.arrays[name] for part in parts]) for name in fields if parts}
    return found, [part.metadata for part in parts]


def _region_columns(arrays: dict[str, NDArray[Any]], counts: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """Return what the index stores of regions; counts: [S] the regions of each sample."""
    # The names belong to the refined boxes, where these are stored beside the proposals.
    boxes = arrays.get("object_boxes", arrays.get("boxes", np.empty((0, 4), np.float32)))
    starts = np.cumsum(counts) - counts
    sample = np.repeat(np.arange(len(counts)), counts)  # [N]
    columns: dict[str, NDArray[Any]] = {}
    order = np.arange(len(boxes))
    if "object_scores" in arrays:
        scores = np.nan_to_num(arrays["object_scores"].astype(np.float64), nan=0.0)
        columns["object_scores"] = np.clip(np.floor(scores * SCORE_STEPS), 0, SCORE_STEPS - 1).astype(np.uint8)
        order = np.lexsort((-scores, sample))
    for name in ("object_ids", "attribute_ids"):
        if name in arrays:
            columns[name] = arrays[name].astype(np.uint16)
    place = np.arange(len(boxes)) - np.repeat(starts, counts)  # [N] rank of each region of `order` in its sample
    best = place < SHOWN_BOXES
    shown = np.zeros((len(counts), SHOWN_BOXES, 4), np.uint16)
    pixels = np.nan_to_num(boxes[order[best]], nan=0.0)
    shown[sample[best], place[best]] = np.clip(np.rint(pixels), 0, 2**16 - 1)
    columns["shown_boxes"] = shown
    if "object_ids" in arrays:
        objects = np.zeros((len(counts), SHOWN_BOXES), np.uint16)
        objects[sample[best], place[best]] = arrays["object_ids"][order[best]]
        columns["shown_objects"] = objects
    return columns
