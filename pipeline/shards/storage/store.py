"""Open a shard for reading or writing, in either storage."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from vilbert.pipeline.errors import CorruptShardError, ShardError
from vilbert.pipeline.shards.location.layout import StorageFormat
from vilbert.pipeline.shards.sample import Sample
from vilbert.pipeline.shards.storage.part import Part
from vilbert.pipeline.shards.storage.raw import RawSample
from vilbert.pipeline.shards.storage.verified import compare_with_record


class ShardReader(Protocol):
    """The samples of one shard by position. IndexError out of range, CorruptShardError for damage."""

    path: Path

    def __len__(self) -> int: ...

    def keys(self) -> tuple[str, ...]:
        """Return the keys in the order of the manifest."""

    def __getitem__(self, index: int) -> Sample: ...

    def __iter__(self) -> Iterator[Sample]: ...

    def read(self, index: int, fields: Sequence[str], *, stored: bool = False) -> Part:
        """Return the named arrays and the metadata of a sample; other arrays are neither read nor checked.

        stored: return features of one byte per value as they are, with their `feature_scales`.
        """

    def metadata(self, index: int) -> dict[str, Any]:
        """Return the metadata of a sample, its KEY.json, without reading its arrays."""

    def raw(self, index: int) -> RawSample:
        """Return a sample as it is stored."""

    def close(self) -> None:
        """Close the file; arrays that were returned stay valid."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class SampleWriter(Protocol):
    """A new file of samples."""

    def add(self, sample: Sample) -> None:
        """Append a sample."""

    def add_raw(self, sample: RawSample) -> None:
        """Append a sample of another shard with the same storage."""

    def add_run(self, chunks: Iterable[memoryview]) -> None:
        """Append the bytes of samples of another tar shard; only supported by tar."""

    def finish(self) -> tuple[int, str]:
        """Finish, fsync and close the file; return its size and the hex digest of its SHA-256."""

    def abort(self) -> None:
        """Delete the unfinished file."""


def open_shard(path: str | os.PathLike[str], *, verify: bool = True) -> ShardReader:
    """Open a shard.

    Args:
        path: A .tar or .lmdb file of a data set's shards/ folder.
        verify: Read the whole file and compare its SHA-256 with the record beside it, if there is one; once per process
            unless the file changes. False checks the structure only (names, sizes, order), so changes within arrays are
            not detected.

    Raises:
        CorruptShardError: The file is damaged.
        ShardError: It cannot be opened.
    """
    path = Path(path)
    reader = _open(path)
    if verify:
        try:
            compare_with_record(path)
        except BaseException:
            reader.close()
            raise
    return reader


def _open(path: Path) -> ShardReader:
    try:
        match path.suffix:
            case ".tar":
                from vilbert.pipeline.shards.storage.tar_store import TarReader

                return TarReader(path)
            case ".lmdb":
                from vilbert.pipeline.shards.storage.lmdb_store import LmdbReader

                return LmdbReader(path)
    except OSError as error:
        raise ShardError(f"{path}: cannot be opened ({error.strerror}); check the path and its permissions") from error
    raise ShardError(f"{path}: a shard ends in .tar or .lmdb; give one of a data set's shards/ folder")


def create_shard(path: Path, storage: StorageFormat) -> SampleWriter:
    """Create a new file of samples at `path`, whatever its suffix; FileExistsError if it exists."""
    if storage == "tar":
        from vilbert.pipeline.shards.storage.tar_store import TarWriter

        return TarWriter(path)
    from vilbert.pipeline.shards.storage.lmdb_store import LmdbWriter

    return LmdbWriter(path)


def read_captions(reader: ShardReader, index: int, metadata: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the captions of a sample's metadata, none if it has no such field.

    Raises:
        CorruptShardError: They are not an array of strings.
    """
    captions = metadata.get("captions") or []
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        problem = f"captions is {captions!r:.100}, expected an array of strings"
        raise CorruptShardError(problem, path=reader.path, key=reader.keys()[index])
    return tuple(captions)
