"""New LMDB environments of any size, written in transactions of limited size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import lmdb

from vilbert.pipeline.errors import ShardError

_FIRST_MAP_BYTES = 64 << 20
_BATCH_BYTES = 64 << 20
_DATA_FORMAT = 0  # LMDB 0.9's, which every LMDB reads; 1.0's is closed to older ones


class Put(Protocol):
    """Stores a value."""

    def __call__(self, key: bytes, value: bytes) -> None:
        """Store a value; ShardError if the key exists or is too long."""


@contextmanager
def new_lmdb(path: Path, *, subdir: bool) -> Iterator[Put]:
    """Provide a function that stores values in a new environment; all of them are in the file when the block ends.

    Args:
        path: Path of the environment.
        subdir: Create a folder with `data.mdb`, as `lmdb.open` does by default; else one file.

    Raises:
        OSError: An error of LMDB, such as a full disk.
    """
    with _as_os_error():
        environment = lmdb.open(
            str(path), subdir=subdir, lock=False, sync=False, metasync=False, readahead=False,
            map_size=_FIRST_MAP_BYTES, lib_version=_DATA_FORMAT,
        )  # fmt: skip
    batch: list[tuple[bytes, bytes]] = []
    size = 0

    def put(key: bytes, value: bytes) -> None:
        nonlocal size
        if not 0 < len(key) <= environment.max_key_size():
            raise ShardError(
                f"image id {key.decode(errors='replace')[:80]!r} is {len(key):,} bytes long; a key of an LMDB has 1 to "
                f"{environment.max_key_size()}"
            )
        batch.append((key, value))
        size += len(value)
        if size >= _BATCH_BYTES:
            _write(environment, batch)
            batch.clear()
            size = 0

    try:
        yield put
        _write(environment, batch)
        with _as_os_error():
            environment.sync(True)
    finally:
        environment.close()


def _write(environment: lmdb.Environment, batch: list[tuple[bytes, bytes]]) -> None:
    while True:
        try:
            with _as_os_error(), environment.begin(write=True) as transaction:
                for key, value in batch:
                    if not transaction.put(key, value, overwrite=False):
                        raise ShardError(f"two samples have the key {key.decode(errors='replace')[:200]!r}")
            return
        except lmdb.MapFullError:  # the transaction is undone; do it again in a larger map
            environment.set_mapsize(2 * environment.info()["map_size"])


@contextmanager
def _as_os_error() -> Iterator[None]:
    """Convert LMDB's errors to OSError, except a full map, which is enlarged."""
    try:
        yield
    except lmdb.MapFullError:
        raise
    except lmdb.Error as error:
        raise OSError(error.code, str(error)) from error
