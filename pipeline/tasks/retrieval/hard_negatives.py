"""Find hard negatives: for each image, the nearest images by the mean of their region features.

Retrieval training uses captions of such images. Source: script/generate_pool.py of facebookresearch/vilbert-multi-task,
the Euclidean distance of mean features. There each image is its own nearest neighbour, which the reader skips; here it
is left out.

All pairwise distances are approximated by blocked float32 matrix products. Candidates that may be among the k nearest,
with an allowance for rounding, are then measured exactly. The result therefore does not depend on block size, threads
or machine.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vilbert.documents import Digest, List, document, from_json
from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.shards.canonical import encode_json
from vilbert.pipeline.shards.storage.atomic import write_atomic
from vilbert.pipeline.train.data.order import Order
from vilbert.pipeline.train.run.disk import explain_disk_errors
from vilbert.untrusted.arrays import parse_npy
from vilbert.untrusted.documents import read_json

if TYPE_CHECKING:
    from vilbert.pipeline.train.data.corpus import Corpus

NEIGHBOURS = 100
_SAMPLES_AT_ONCE = 512
_EXACT_AT_ONCE = 4096


@document
class NamesFile:
    """The content of hard-negatives-KEY.json."""

    key: Digest
    """Hash of the data sets, the images and k."""
    sha256: Digest
    """SHA-256 of the file of arrays."""
    image_ids: List[str]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class HardNegatives:
    """The nearest images of each image."""

    image_ids: tuple[str, ...]
    """[N]."""
    nearest: NDArray[np.int32]
    """[N, k] indices into image_ids, nearest first."""


def mean_features(corpus: Corpus, only: Collection[str] | None = None) -> tuple[list[str], NDArray[np.float32]]:
    """Return the ids of a corpus's images in natural order, and the means of their region features, float32 [N, D].

    Args:
        corpus: The data sets.
        only: Ids of the images to use; None: all. An image without regions has zeros; an unreadable one is left out.

    Raises:
        RefusedError: No image remains.
    """
    order = Order(corpus.shard_sizes, seed=0, shuffle=False)
    ids: list[str] = []
    means: list[NDArray[np.float32]] = []
    for start in range(0, order.epoch_size, _SAMPLES_AT_ONCE):
        places = order.at(np.arange(start, min(start + _SAMPLES_AT_ONCE, order.epoch_size)))
        for example in corpus.read(places):
            if example is not None and (only is None or example.image_id in only):
                ids.append(example.image_id)
                regions = max(len(example.boxes), 1)
                means.append(example.features.sum(0, dtype=np.float64).astype(np.float32) / np.float32(regions))
    if not ids:
        raise RefusedError(
            "none of the requested images is in the data sets: give the data sets of the task's training images"
        )
    return ids, np.stack(means)


def nearest(means: NDArray[np.float32], k: int = NEIGHBOURS, *, block: int = 512) -> NDArray[np.int32]:
    """Return the k nearest other images of each image by Euclidean distance, nearest first.

    Args:
        means: float32 [N, D].
        k: Number of neighbours. Ties are ordered by index.
        block: Images per block; a block needs 2 x 4 x block x N bytes.

    Returns:
        int32 [N, k].

    Raises:
        ValueError: There are fewer than k other images, or means are not finite.
    """
    count = len(means)
    if not 1 <= k < count:
        raise ValueError(f"k {k}: expected 1 to {count - 1} for {count} images")
    if not np.isfinite(means).all():
        raise ValueError("means hold NaN or infinities: some image's features are damaged")
    rows = torch.from_numpy(np.ascontiguousarray(means, dtype=np.float32))
    centred = rows - rows.mean(0)  # shorter vectors reduce the rounding error of distances
    squares = centred.square().sum(1)
    found = np.empty((count, k), dtype=np.int32)
    # Bound of the float32 error: rounding grows with the root of the number of terms; a factor of 8 is never reached.
    slack = 8 * torch.finfo(torch.float32).eps * max(means.shape[1], 1) ** 0.5
    for start in range(0, count, block):
        stop = min(start + block, count)
        numbers = torch.arange(start, stop)
        distances = torch.addmm(squares[None], centred[start:stop], centred.T, alpha=-2)  # without the row's own square
        distances[numbers - start, numbers] = torch.inf
        farthest = distances.topk(k, dim=1, largest=False).values[:, -1]
        limits = farthest + slack * (squares[start:stop] + squares.max())
        for number, candidates in zip(range(start, stop), distances <= limits[:, None], strict=True):
            found[number] = _closest(rows, number, candidates.nonzero()[:, 0], k)
    return found


def _closest(rows: Tensor, number: int, candidates: Tensor, k: int) -> NDArray[np.int32]:
    """Return the k closest candidates, given in ascending order, by exact distances."""
    parts = [candidates[start : start + _EXACT_AT_ONCE] for start in range(0, len(candidates), _EXACT_AT_ONCE)]
    exact = torch.cat([(rows[part].double() - rows[number].double()).square().sum(1) for part in parts])
    order = exact.sort(stable=True).indices[:k]
    return candidates[order].numpy().astype(np.int32)


def hard_negatives(
    corpus: Corpus, folder: Path, *, only: Collection[str] | None = None, k: int = NEIGHBOURS
) -> HardNegatives:
    """Return the nearest images of each image, from files of an earlier run with the same data or newly computed.

    They are stored as hard-negatives-KEY.npy and .json, written atomically; KEY depends on the data sets, the images
    and k.

    Args:
        corpus: The data sets.
        folder: Folder of the files.
        only: Ids of the images to use; None: all.
        k: Number of neighbours, reduced if there are fewer other images.
    """
    key = _key(corpus, only, k)
    arrays, names = (folder / f"hard-negatives-{key[:16]}.{suffix}" for suffix in ("npy", "json"))
    kept = _read(arrays, names, key)
    if kept is not None:
        return kept
    ids, means = mean_features(corpus, only)
    if len(ids) < 2:
        raise RefusedError(f"image {ids[0]} is the only one: hard negatives need two or more images")
    mined = HardNegatives(image_ids=tuple(ids), nearest=nearest(means, min(k, len(ids) - 1)))
    with explain_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        data = io.BytesIO()
        np.save(data, mined.nearest, allow_pickle=False)
        write_atomic(arrays, data.getvalue())
        digest = hashlib.sha256(data.getvalue()).hexdigest()
        write_atomic(
            names, encode_json({"key": key, "sha256": digest, "image_ids": ids}) + b"\n"
        )  # written last: marks the pair as complete
    return mined


def _key(corpus: Corpus, only: Collection[str] | None, k: int) -> str:
    sources = [[source.records_sha256, source.split] for source in corpus.sources]
    wanted = None if only is None else hashlib.sha256(encode_json(sorted(only))).hexdigest()
    return hashlib.sha256(encode_json({"sources": sources, "only": wanted, "k": k})).hexdigest()


def _read(arrays: Path, names: Path, key: str) -> HardNegatives | None:
    """Read the files; return None if they are missing, incomplete or have another key."""
    try:
        data, told = arrays.read_bytes(), from_json(NamesFile, read_json(names))
    except (FileNotFoundError, ValueError):
        return None
    if told.key != key or told.sha256 != hashlib.sha256(data).hexdigest():
        return None
    found: NDArray[np.int32] = parse_npy(io.BytesIO(data), len(data))
    return HardNegatives(image_ids=told.image_ids, nearest=found)
