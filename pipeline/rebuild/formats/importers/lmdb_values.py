"""The values of a published LMDB by index, in the order of its list of keys.

LMDB's library trusts the file. `lmdb.verify` first checks its pages in Python, so that a damaged or hostile file is
refused before the library reads it. It reads one page of each value, which takes about a minute for a terabyte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import lmdb
import numpy as np
from lmdb.verify import VerifyError, verify

from vilbert.manifests.regular_file import open_regular
from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.rebuild.formats.importers.imported_source import MAX_ROW_BYTES
from vilbert.pipeline.rebuild.formats.importers.published_image import RowError
from vilbert.pipeline.shards.storage.lmdb_environments import environments

_MAGIC = (0xBEEFC0DE).to_bytes(4, "little")
_MAGIC_AT = (16, 24)
"""Its offset in the first page of LMDB 0.9 and 1.0."""
_verified: dict[Path, tuple[int, int, int]] = {}
"""Size, time and inode of the files that this process has verified."""


def data_file(path: Path) -> Path:
    """Return the file of an environment, which may be a folder."""
    return path / "data.mdb" if path.is_dir() else path


def is_lmdb(path: Path) -> bool:
    """Return whether a file, or the data.mdb of a folder, begins like an LMDB file, in either byte order."""
    try:
        with open(data_file(path), "rb", opener=open_regular) as file:
            head = file.read(64)
    except OSError:
        return False
    return any(head[at : at + 4] in (_MAGIC, _MAGIC[::-1]) for at in _MAGIC_AT)


def open_lmdb(path: Path) -> LmdbFile:
    """Open an environment read-only, without its lock file.

    Raises:
        ShardError: It cannot be read, or `lmdb.verify` finds it damaged or of another byte order.
    """
    file = data_file(path)
    try:
        with open(file, "rb", opener=open_regular) as opened:
            head = opened.read(64)
        if any(head[at : at + 4] == _MAGIC[::-1] for at in _MAGIC_AT):
            raise ShardError(
                f"{path}: an LMDB of another byte order: copy it with mdb_dump on a machine of the byte order that "
                "wrote "
                "it, and mdb_load here"
            )
        status = file.stat()
        identity = (status.st_size, status.st_mtime_ns, status.st_ino)
        if _verified.get(file) != identity:
            problems = verify(str(file), subdir=False)  # type: ignore[no-untyped-call]
            if problems:
                raise ShardError(f"{path}: a damaged LMDB: {'; '.join(problems[:3])}: get it again")
            _verified[file] = identity
        return LmdbFile(path, file)
    except VerifyError as error:
        raise ShardError(f"{path}: not an LMDB, or truncated: {error}") from error
    except OSError as error:
        raise ShardError(f"{path}: cannot be read ({error.strerror or error})") from error
    except lmdb.Error as error:
        raise ShardError(f"{path}: LMDB cannot open it: {error}") from error


class LmdbFile:
    """An open environment. Do not share it between threads or use it after a fork."""

    def __init__(self, path: Path, file: Path) -> None:
        self.path = path
        self._identity, self._environment = environments.acquire(file)

    @property
    def entries(self) -> int:
        """Number of values, including lists of keys."""
        return int(self._environment.stat()["entries"])

    def get(self, key: bytes) -> bytes | None:
        """Return the value of a key, or None; raise RowError if it is too large."""
        try:
            with self._environment.begin(buffers=True) as transaction:
                value = transaction.get(key) if 0 < len(key) <= self._environment.max_key_size() else None
                if value is None:
                    return None
                if len(value) > MAX_ROW_BYTES:
                    raise RowError("broken_row", f"its value has {len(value):,} bytes")
                return bytes(value)
        except lmdb.Error as error:
            raise RowError("broken_row", f"LMDB cannot read it: {error}") from error

    def first(self, skip: Iterable[bytes]) -> tuple[bytes, bytes] | None:
        """Return the first key and value except the given keys, or None."""
        with self._environment.begin() as transaction:
            for key in transaction.cursor().iternext(values=False):
                if key not in skip:
                    value = transaction.get(key) or b""
                    return bytes(key), bytes(value) if len(value) <= MAX_ROW_BYTES else b""
        return None

    def keys(self, listed: list[bytes] | None, skip: tuple[bytes, ...]) -> PackedKeys:
        """Return the keys of all rows in the order of a list of keys, or in LMDB's order without one.

        Raises:
            ShardError: The list has a key twice or without a value, or lacks a value, because the conversion that wrote
                the file was interrupted.
        """
        with self._environment.begin() as transaction:
            if listed is None:
                return PackedKeys(key for key in transaction.cursor().iternext(values=False) if key not in skip)
            cursor = transaction.cursor()
            longest = self._environment.max_key_size()
            absent = [key for key in listed if not 0 < len(key) <= longest or not cursor.set_key(key)]
            rows = self.entries - sum(1 for key in skip if cursor.set_key(key))
        if absent:
            raise ShardError(
                f"{self.path}: its list of keys names {len(absent):,} keys without a value, the first "
                f"{absent[0]!r:.80}: it was not written completely"
            )
        repeated = len(listed) - len(np.unique(np.fromiter(map(hash, listed), np.int64, len(listed))))
        if repeated or rows != len(listed):
            raise ShardError(
                f"{self.path}: its list of keys has {len(listed):,} keys, {repeated:,} of them repeated, and there are "
                f"{rows:,} values: it was not written completely, or by two programs"
            )
        return PackedKeys(listed)

    def close(self) -> None:
        """Close the environment if no other reader of this process uses it."""
        environments.release(self._identity)


class PackedKeys:
    """Keys by index, stored in their own bytes plus 8 bytes each."""

    def __init__(self, keys: Iterable[bytes]) -> None:
        packed = bytearray()
        ends = [0]
        for key in keys:
            packed += key
            ends.append(len(packed))
        self._packed = bytes(packed)
        self._ends = np.array(ends, np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, row: int) -> bytes:
        return self._packed[int(self._ends[row]) : int(self._ends[row + 1])]


class LmdbRows:
    """The rows of an environment: a value per key."""

    def __init__(
        self, file: LmdbFile, read_list: Callable[[LmdbFile], list[bytes] | None], skip: tuple[bytes, ...]
    ) -> None:
        """Find the keys.

        Args:
            file: Closed with this object, and if this raises.
            read_list: Returns the list of keys in the file, None if it has none.
            skip: Keys that are not rows.
        """
        self.file = file
        try:
            self._keys = file.keys(read_list(file), skip)
        except BaseException:
            file.close()
            raise

    def __len__(self) -> int:
        return len(self._keys)

    def key(self, row: int) -> bytes:
        """Return the key of a row."""
        return self._keys[row]

    def name(self, row: int) -> str:
        """Return the key of a row as text; characters that UTF-8 cannot encode are escaped."""
        return self._keys[row].decode("utf-8", "backslashreplace")

    def read(self, row: int) -> bytes:
        """Return the value of a row; raise RowError if it cannot be read."""
        value = self.file.get(self._keys[row])
        if value is None:
            raise RowError("broken_row", f"key {self._keys[row]!r:.80} has no value any more")
        return value

    def close(self) -> None:
        """Release the file."""
        self.file.close()
