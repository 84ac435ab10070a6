"""`--not-in OTHER`: samples whose image is also in another data set, a manifest or a list of ids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vilbert.documents import is_digest
from vilbert.manifests.exclusion import read_ids
from vilbert.manifests.manifest import Manifest
from vilbert.manifests.record import ManifestError
from vilbert.pipeline.errors import RefusedError, ShardError
from vilbert.pipeline.rebuild.dataset_source import is_dataset
from vilbert.pipeline.rebuild.scores.hamming import nearest
from vilbert.pipeline.rebuild.select.rows import find_phash_column, scan_rows
from vilbert.pipeline.rebuild.select.values import ValueColumns
from vilbert.pipeline.shards.checks.shard import key_hash
from vilbert.pipeline.shards.dataset import read_info
from vilbert.pipeline.shards.keys import sample_key
from vilbert.pipeline.shards.location.folder import Place, open_folder

Reason = Literal["id", "hash", "near"]
"""The same image id, the same bytes (SHA-256), or a similar perceptual hash."""
REASONS: tuple[Reason, ...] = ("id", "hash", "near")
PARQUET = b"PAR1"
_BATCH = 65_536


@dataclass(kw_only=True, eq=False)
class Other:
    """Identifiers of the images that must not be selected. E images."""

    name: str
    """The argument, for messages."""
    ids: list[str]
    """[E]."""
    sha256: NDArray[np.uint64] | None
    """[E] first 64 bits of the hash of each image's bytes, 0 if unknown; None for a list of ids."""
    phash: NDArray[np.uint64] | None
    """[P] perceptual hashes, or None."""
    phash_rows: NDArray[np.int64]
    """[P] indices of their images."""


class Leak(NamedTuple):
    """A sample that is excluded, and the image that is the reason."""

    row: int
    reason: Reason
    other: int
    """Index of the image."""
    distance: int
    """Number of bits in which perceptual hashes differ; 0 for other reasons."""


def read_other(place: Place, reasons: Sequence[Reason]) -> Other:
    """Read the identifiers of the images that must not be selected.

    Args:
        place: A data set (folder or URL), a manifest, or a file of ids (one per line, .json or .npy).
        reasons: The criteria.

    Raises:
        RefusedError: It lacks the data for a criterion; the message says how to add it.
        ShardError: It does not exist, or is damaged.
    """
    if is_dataset(place):
        return _read_dataset(place, reasons)
    if isinstance(place, str):
        raise RefusedError(f"--not-in {open_folder(place).name}: holds no data set")
    try:
        if not place.is_file():
            raise ShardError(f"--not-in {place}: is not a data set, manifest or file of ids")
        with place.open("rb") as file:
            is_manifest = file.read(len(PARQUET)) == PARQUET
        other = _read_manifest(place) if is_manifest else _of_ids(place)
    except ManifestError as error:
        raise RefusedError(str(error).replace("--exclude-ids", "--not-in")) from None
    except OSError as error:
        raise RefusedError(f"--not-in {place}: cannot be read ({error.strerror})") from None
    what = "manifest" if is_manifest else "list of ids"
    for reason, there in (("hash", other.sha256), ("near", other.phash)):
        if reason in reasons and there is None:
            raise RefusedError(
                f"--not-in {place}: a {what} without {'SHA-256' if reason == 'hash' else 'perceptual hash'} of images; "
                f"give a data set, or leave {reason} out of --by"
            )
    return other


def _read_dataset(place: Place, reasons: Sequence[Reason]) -> Other:
    folder = open_folder(place)
    info = read_info(folder)
    if not info.complete:
        raise RefusedError(f"--not-in {folder.name}: is not complete; run the command that writes it again until it is")
    columns = ValueColumns(folder, info)
    phash = require_phash(columns) if "near" in reasons else None
    ids: list[str] = []
    sha256, hashes, rows = [], [], []
    for some in scan_rows(folder, info, columns, phash=phash):
        rows.append(len(ids) + np.flatnonzero(some.has_phash))
        ids += some.table.column("image_id").to_pylist()
        sha256.append(some.sha256)
        hashes.append(some.phash[some.has_phash])
    if not ids:
        raise RefusedError(f"--not-in {folder.name}: holds no sample")
    known = np.concatenate(sha256)
    if "hash" in reasons:
        require_sha256(known, folder.name)
    return Other(
        name=folder.name,
        ids=ids,
        sha256=known,
        phash=None if phash is None else np.concatenate(hashes),
        phash_rows=np.concatenate(rows),
    )


def _read_manifest(path: Path) -> Other:
    manifest = Manifest.open(path)
    ids: list[str] = []
    sha256 = np.zeros(manifest.rows, np.uint64)
    for start in range(0, manifest.rows, _BATCH):
        rows = np.arange(start, min(start + _BATCH, manifest.rows))
        ids += [str(image_id) for _, image_id in manifest.values("image_id", rows)]
        for row, digest in manifest.values("sha256", rows):
            if is_digest(digest):
                sha256[row] = int(digest[:16], 16)
    return Other(
        name=str(path),
        ids=ids,
        sha256=sha256 if sha256.any() else None,
        phash=None,
        phash_rows=np.empty(0, np.int64),
    )


def _of_ids(path: Path) -> Other:
    ids = sorted(read_ids(path))
    if not ids:
        raise RefusedError(f"--not-in {path}: holds no id")
    return Other(name=str(path), ids=ids, sha256=None, phash=None, phash_rows=np.empty(0, np.int64))


def require_phash(columns: ValueColumns) -> str:
    """Return a data set's column of perceptual hashes; RefusedError, with the remedy, if it has none."""
    column = find_phash_column(columns)
    if column is None:
        raise RefusedError(
            f"{columns.folder.name}: has no column of perceptual hashes, by which near-duplicates are found. Add one: "
            f"vilbert score {columns.folder.name} --column quality --scores phash; or compare less: --by id hash"
        )
    return column


def require_sha256(known: NDArray[np.uint64], name: str) -> None:
    """Raise RefusedError if a data set has no SHA-256 of any image."""
    if len(known) and not known.any():
        raise RefusedError(
            f"{name}: its samples have no SHA-256 of their images; leave hash out of --by (--by id near)"
        )


def find_leaks(
    ids: Sequence[str],
    sha256: NDArray[np.uint64],
    phash: NDArray[np.uint64],
    has_phash: NDArray[np.bool_],
    other: Other,
    *,
    reasons: Sequence[Reason],
    distance: int,
) -> Iterator[Leak]:
    """Yield the rows whose image is among the others, each once, with the first matching criterion.

    Args:
        ids: [S] image ids.
        sha256: [S] first 64 bits of the hash of each image's bytes; 0 if unknown.
        phash: [S] perceptual hashes.
        has_phash: [S] whether there is one.
        other: The images that must not be selected.
        reasons: The criteria.
        distance: Maximum number of bits in which perceptual hashes of near-duplicates differ.
    """
    left = np.ones(len(ids), bool)
    if "id" in reasons:
        yield from _equal("id", _id_hashes(ids), _id_hashes(other.ids), left)
    if "hash" in reasons and other.sha256 is not None:
        known = np.flatnonzero(other.sha256)
        for leak in _equal("hash", sha256, other.sha256[known], left & (sha256 != 0)):
            left[leak.row] = False
            yield leak._replace(other=int(known[leak.other]))
    if "near" in reasons and other.phash is not None:
        rows = np.flatnonzero(left & has_phash)
        indices, bits = nearest(phash[rows], other.phash, distance)
        for place in np.flatnonzero(indices >= 0).tolist():
            yield Leak(int(rows[place]), "near", int(other.phash_rows[indices[place]]), int(bits[place]))


def _equal(
    reason: Reason, ours: NDArray[np.uint64], theirs: NDArray[np.uint64], left: NDArray[np.bool_]
) -> Iterator[Leak]:
    """Yield the rows of `left` whose hash is among theirs, and remove them from `left`."""
    values, firsts = np.unique(theirs, return_index=True)
    if not len(values):
        return
    places = np.minimum(np.searchsorted(values, ours), len(values) - 1)
    rows = np.flatnonzero(left & (values[places] == ours))
    left[rows] = False
    for row in rows.tolist():
        yield Leak(row, reason, int(firsts[places[row]]), 0)


def _id_hashes(ids: Sequence[str]) -> NDArray[np.uint64]:
    return np.fromiter((key_hash(sample_key(image_id)) for image_id in ids), np.uint64, len(ids))
