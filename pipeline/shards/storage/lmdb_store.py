"""Shards as LMDB files: one value per sample, and the value of the key `__meta__`, which defines the order.

The bytes depend on the samples only. LMDB's own file also depends on how it was built (freed pages, the number of
transactions), so it is built separately and copied in compact form.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import lmdb
from lmdb.verify import VerifyError, verify

from vilbert.pipeline.errors import CorruptShardError, ShardError, UnsupportedFormatError
from vilbert.pipeline.shards.canonical import decode_json, encode_json
from vilbert.pipeline.shards.keys import is_key
from vilbert.pipeline.shards.sample import FORMATS, SCALES, Sample, field_names
from vilbert.pipeline.shards.storage.atomic import temporary_path
from vilbert.pipeline.shards.storage.closing import Closing
from vilbert.pipeline.shards.storage.lmdb_environments import environments
from vilbert.pipeline.shards.storage.part import Part
from vilbert.pipeline.shards.storage.raw import RawSample
from vilbert.pipeline.shards.storage.tensors import (
    decode_part,
    decode_tensor_metadata,
    decode_tensors,
    encode_tensors,
    raw_metadata,
)

_Decoded = TypeVar("_Decoded")

META_KEY = "__meta__"
"""Key of the order. No sample has it, because `keys.is_key` refuses it."""
_FIRST_MAP_BYTES = 64 << 20
_BATCH_BYTES = 64 << 20
_DATA_FORMAT = 0  # LMDB 0.9's, which every LMDB reads; 1.0's is closed to older ones


class LmdbWriter:
    """One new LMDB file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._build_path = temporary_path(path)
        self._keys: list[str] = []
        self._fields: list[str] = []
        self._batch: list[tuple[bytes, bytes]] = []
        self._batch_bytes = 0
        with _as_os_error():
            self._env: lmdb.Environment = lmdb.open(
                str(self._build_path), subdir=False, lock=False, sync=False, metasync=False, readahead=False,
                map_size=_FIRST_MAP_BYTES, lib_version=_DATA_FORMAT,
            )  # fmt: skip

    def add(self, sample: Sample) -> None:
        """Append a sample."""
        self._fields = self._fields or list(sample.arrays())
        self._add(sample.key, encode_tensors(sample))

    def add_raw(self, sample: RawSample) -> None:
        """Append a sample of another LMDB shard."""
        value = bytes(sample.content)
        self._fields = self._fields or list(decode_tensors(sample.key, value, path=self._path).arrays())
        self._add(sample.key, value)

    def add_run(self, chunks: Iterable[memoryview]) -> None:
        """Refuse: members of a tar cannot be copied into LMDB."""
        raise ShardError(f"{self._path}: an LMDB shard stores single samples")

    def _add(self, key: str, value: bytes) -> None:
        self._keys.append(key)
        self._batch.append((key.encode(), value))
        self._batch_bytes += len(value)
        if self._batch_bytes >= _BATCH_BYTES:
            with _as_os_error():
                self._write_batch()

    def _write_batch(self) -> None:
        while True:
            try:
                with self._env.begin(write=True) as transaction:
                    for key, value in self._batch:
                        transaction.put(key, value, overwrite=False)
                break
            except lmdb.MapFullError:  # the transaction is undone; do it again in a larger map
                self._env.set_mapsize(2 * self._env.info()["map_size"])
        self._batch, self._batch_bytes = [], 0

    def finish(self) -> tuple[int, str]:
        """Write the order, fsync and close the file; return its size and the hex digest of its SHA-256."""
        # The dtype of features is not among the facts listed here: a value says its own.
        usual = not self._fields or tuple(self._fields) == field_names(attributes="attribute_ids" in self._fields)
        number = 3 if SCALES in self._fields else 1 if usual else 2
        meta = {"format": number, "count": len(self._keys), "fields": self._fields, "keys": self._keys}
        self._batch.append((META_KEY.encode(), encode_json(meta)))
        with self._path.open("xb+") as file, _as_os_error():
            self._write_batch()
            self._env.copyfd(file.fileno(), compact=True)
            os.fsync(file.fileno())
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.tell()
        self._discard_build()
        return size, digest

    def abort(self) -> None:
        """Delete the unfinished file."""
        self._discard_build()
        self._path.unlink(missing_ok=True)

    def _discard_build(self) -> None:
        self._env.close()
        self._build_path.unlink(missing_ok=True)


@contextlib.contextmanager
def _as_os_error() -> Iterator[None]:
    """Convert LMDB's errors, such as a full disk, to OSError."""
    try:
        yield
    except lmdb.Error as error:
        raise OSError(error.code, str(error)) from error


class LmdbReader(Closing):
    """The samples of an LMDB shard, in the order of the manifest. It can be used after a fork and pickled.

    Opening checks the structure of the file (`lmdb.verify`, which trusts none of its bytes) and its keys, and raises
    CorruptShardError if they are wrong. The content of a value is checked when its sample is read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._environment: lmdb.Environment | None = None
        try:
            problems = verify(str(path), subdir=False)  # type: ignore[no-untyped-call]
        except VerifyError as error:
            raise CorruptShardError(f"is not an LMDB file: {error}", path=path) from error
        if problems:
            raise CorruptShardError(f"damaged LMDB structure: {'; '.join(problems[:3])}", path=path)
        try:
            self._open()
            self._keys = self._read_keys()
        except lmdb.Error as error:
            self.close()
            raise CorruptShardError(f"LMDB cannot open it: {error}", path=path) from error
        except ShardError:
            self.close()
            raise

    def _open(self) -> None:
        self._identity, self._environment = environments.acquire(self.path)
        self._process = os.getpid()

    def _read_keys(self) -> tuple[str, ...]:
        keys = _parse_keys(self._get(META_KEY), self.path)
        with self._current_environment().begin() as transaction:
            stored = set(transaction.cursor().iternext(values=False))
        expected = {key.encode() for key in (*keys, META_KEY)}
        if stored != expected:
            named = min(stored ^ expected)
            raise CorruptShardError(
                f"its keys do not match the list in {META_KEY}; the first difference is {named!r}", path=self.path
            )
        return keys

    def _current_environment(self) -> lmdb.Environment:
        if self._environment is None:
            raise ShardError(f"{self.path}: the reader is closed; open the shard again")
        if self._process != os.getpid():
            self._open()
        return self._environment

    def _get(self, key: str) -> bytes:
        try:
            with self._current_environment().begin() as transaction:
                value: bytes | None = transaction.get(key.encode())
        except lmdb.Error as error:
            raise CorruptShardError(f"LMDB cannot read it: {error}", path=self.path, key=key) from error
        if value is None:
            raise CorruptShardError("has no value", path=self.path, key=key)
        return value

    def __len__(self) -> int:
        return len(self._keys)

    def keys(self) -> tuple[str, ...]:
        """Return the keys in the order of the manifest."""
        return self._keys

    def __getitem__(self, index: int) -> Sample:
        key = self._keys[index]
        return decode_tensors(key, self._get(key), path=self.path)

    def read(self, index: int, fields: Sequence[str], *, stored: bool = False) -> Part:
        """Return the named arrays and the metadata of a sample."""
        key = self._keys[index]
        return self._view(key, lambda value: decode_part(key, value, fields, path=self.path, stored=stored))

    def metadata(self, index: int) -> dict[str, Any]:
        """Return the metadata of a sample without reading its arrays."""
        key = self._keys[index]
        return self._view(key, lambda value: decode_tensor_metadata(key, value, path=self.path))

    def raw(self, index: int) -> RawSample:
        """Return a sample as it is stored."""
        key = self._keys[index]
        value = self._get(key)
        return RawSample(key, value, raw_metadata(key, value, path=self.path))

    def _view(self, key: str, decode: Callable[[memoryview], _Decoded]) -> _Decoded:
        """Decode a value in place; the result must not refer to it, because the view ends with the transaction."""
        try:
            with self._current_environment().begin(buffers=True) as transaction:
                value: memoryview | None = transaction.get(key.encode())
                if value is None:
                    raise CorruptShardError("has no value", path=self.path, key=key)
                return decode(value)
        except lmdb.Error as error:
            raise CorruptShardError(f"LMDB cannot read it: {error}", path=self.path, key=key) from error

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def close(self) -> None:
        """Close the file; arrays that were returned stay valid."""
        if self._environment is not None and self._process == os.getpid():
            environments.release(self._identity)
        self._environment = None

    def __reduce__(self) -> tuple[type[LmdbReader], tuple[Path]]:
        """Pickle as the arguments of `__init__`: the receiving process opens the file itself."""
        return LmdbReader, (self.path,)


def _parse_keys(value: bytes, path: Path) -> tuple[str, ...]:
    """Return the keys in the value of `__meta__`, in order."""
    try:
        meta = decode_json(value)
    except ValueError as error:
        raise CorruptShardError(f"is not JSON: {error}", path=path, key=META_KEY) from error
    if isinstance(meta, dict) and meta.get("format") not in FORMATS:
        raise UnsupportedFormatError(
            f"{path}: format {meta.get('format')!r}, this version reads {FORMATS[-1]}: update vilbert-pipeline"
        )
    match meta:
        case {"keys": list(keys), "count": count, "fields": list()} if (
            count == len(keys)
            and all(isinstance(key, str) and is_key(key) for key in keys)
            and len(set(keys)) == len(keys)
        ):
            return tuple(keys)
    raise CorruptShardError("does not list the keys", path=path, key=META_KEY)
