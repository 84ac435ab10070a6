"""Store scores on disk while they are computed, so that a killed evaluation can be resumed.

    FOLDER/scores.json      identity of the scores (model, captions, images); written first
    FOLDER/scores.npy       float32 [captions, images], NaN for scores that are not computed yet

The array is created complete, filled with NaN, and then written in place. Each value is written atomically, so every
value that is not NaN is valid regardless of the write order; a separate list of finished scores could only disagree
with it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vilbert.documents import from_json
from vilbert.pipeline.errors import FingerprintError, RefusedError
from vilbert.pipeline.shards.canonical import encode_json
from vilbert.pipeline.shards.storage.atomic import fsync_dir, temporary_path, write_atomic
from vilbert.pipeline.train.run.disk import explain_disk_errors
from vilbert.untrusted.documents import read_json

FORMAT = 1
IDENTITY, SCORES = "scores.json", "scores.npy"
_ROWS_AT_ONCE = 1024
_REMEDY = "delete the folder, or name another"


def open_scores(
    folder: Path, shape: tuple[int, int], identity: Mapping[str, Any]
) -> np.memmap[Any, np.dtype[np.float32]]:
    """Open the scores of a folder for writing and resume those of an earlier run; create them if they do not exist.

    Only one process per folder may write.

    Args:
        folder: The folder.
        shape: (captions, images).
        identity: What the scores depend on, as JSON values.

    Raises:
        FingerprintError: The folder's scores have another identity; the message names the differences.
        RefusedError: The files are not valid scores.
    """
    wanted = {**identity, "format": FORMAT, "shape": list(shape)}
    path = folder / SCORES
    with explain_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / IDENTITY).exists():
            _compare(folder, wanted)
        elif path.exists():
            raise RefusedError(
                f"{folder}: {SCORES} exists without {IDENTITY}, so it is unknown which model and images the scores "
                f"belong to; {_REMEDY}"
            )
        else:
            write_atomic(folder / IDENTITY, encode_json(wanted, indent=2) + b"\n")
        if not path.exists():
            _create(path, shape)
    try:
        np.lib.format.open_memmap(path, mode="r")  # rejects a truncated file, which r+ would fill with zeros
        scores = np.lib.format.open_memmap(path, mode="r+")
    except ValueError as error:
        raise RefusedError(f"{path}: cannot be read ({error}); {_REMEDY}") from error
    if scores.shape != shape or scores.dtype != np.float32:
        raise RefusedError(
            f"{path}: holds {scores.dtype} {list(scores.shape)}, expected float32 {list(shape)}; {_REMEDY}"
        )
    return scores


def save(scores: np.memmap[Any, np.dtype[np.float32]], folder: Path) -> None:
    """Flush the scores to disk."""
    with explain_disk_errors(folder / SCORES):
        scores.flush()


def _create(path: Path, shape: tuple[int, int]) -> None:
    temporary = temporary_path(path)
    try:
        scores: NDArray[np.float32] = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=shape)
        del scores
        row = np.full((min(_ROWS_AT_ONCE, shape[0]), shape[1]), np.nan, dtype=np.float32)
        with temporary.open(
            "r+b"
        ) as file:  # not through the memory map: a full disk would kill the process instead of raising
            file.seek(-shape[0] * shape[1] * row.itemsize, os.SEEK_END)
            for start in range(0, shape[0], len(row)):
                file.write(row[: shape[0] - start].tobytes())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_dir(path.parent)


def _compare(folder: Path, wanted: Mapping[str, Any]) -> None:
    path = folder / IDENTITY
    try:
        found = from_json(dict[str, Any], read_json(path))
    except ValueError as error:
        raise RefusedError(f"{path}: does not state the model and data of its scores ({error}); {_REMEDY}") from error
    differing = [name for name in sorted({*wanted, *found}) if wanted.get(name) != found.get(name)]
    if differing:
        told = ", ".join(f"{name} {found.get(name)!r}, not {wanted.get(name)!r}" for name in differing)
        raise FingerprintError(f"{folder}: contains scores of another model or other data ({told}); {_REMEDY}")
