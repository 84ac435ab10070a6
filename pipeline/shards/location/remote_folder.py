"""A data set's folder behind an fsspec URL: s3://…, gs://…, memory://…

An object store has no rename and does not need one, because uploads are atomic. A shard is built on the local disk and
its files are uploaded, the record last. Nothing here depends on the kind of store.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from vilbert.pipeline.errors import CorruptShardError, OutputError, RefusedError
from vilbert.pipeline.shards.location.lease import hold_lease
from vilbert.pipeline.shards.location.listing import Entry
from vilbert.pipeline.shards.location.retry import ask_again
from vilbert.pipeline.shards.location.scratch import scratch_folder
from vilbert.pipeline.urls import join, open_file_system, public_url

_TIMES = ("LastModified", "last_modified", "updated", "mtime", "created")
"""Keys of the modification time in s3fs, adlfs, gcsfs, and local and in-memory file systems."""
_FETCHES = 32
"""Number of files to download concurrently."""


@dataclass(frozen=True)
class RemoteFolder:
    """A folder behind a URL. It can be sent to another process, which opens its own connections."""

    url: str
    """URL of the folder; credentials should be set in the environment."""
    remote = True

    @property
    def name(self) -> str:
        """The URL without credentials."""
        return public_url(self.url)

    def make(self) -> None:
        """Raise OutputError for a URL that cannot be written to."""
        if self.url.startswith(("http://", "https://")):
            raise OutputError(f"--output {self.name}: cannot write to a web server; give a folder or s3://…")
        self._open("")

    def entries(self, under: str) -> Iterator[tuple[str, int | None]]:
        """Yield (name, bytes) of the entries of a subfolder, with None for folders; nothing if it does not exist."""
        return ((entry.name, entry.size) for entry in self.listing(under))

    def changed(self, name: str) -> int:
        """Return the modification time of an object; 0 if it does not exist or the time is unknown."""
        file_system, path = self._open(name)
        try:
            return _changed(ask_again(lambda: file_system.info(path), f"looking at {join(self.name, name)}"))
        except FileNotFoundError:
            return 0

    def listing(self, under: str, *, sweep: bool = False) -> Iterator[Entry]:
        """Yield the entries of a subfolder; nothing if it does not exist."""
        file_system, path = self._open(under)
        try:
            # One response has a thousand names; its memory is freed after it is processed.
            found = ask_again(lambda: file_system.ls(path, detail=True), f"listing {join(self.name, under)}")
        except FileNotFoundError:
            return
        for entry in found:
            name = str(entry["name"]).rstrip("/")
            if name != path.rstrip("/"):  # some stores keep an empty object for the folder itself
                size = entry["size"] if entry["type"] == "file" else None
                yield Entry(name.rpartition("/")[2], size, _changed(entry))

    @contextmanager
    def local(self, names: Sequence[str]) -> Iterator[Path]:
        """Provide a temporary folder with the named files that exist. Errors name damaged files by their URL."""
        with scratch_folder() as directory:
            for parent in {Path(name).parent for name in names}:
                (directory / parent).mkdir(parents=True, exist_ok=True)
            # File systems that are not asynchronous do not say that threads may share them.
            threads = min(_FETCHES, len(names)) if self._open("")[0].async_impl else 1
            with ThreadPoolExecutor(max(1, threads)) as pool:
                file_system, root = self._open("")
                list(pool.map(lambda name: self._fetch(file_system, root, name, directory), names))
            try:
                yield directory
            except CorruptShardError as error:
                if not error.path.is_relative_to(directory):
                    raise
                place = Path(self.name, error.path.relative_to(directory))
                raise CorruptShardError(
                    error.problem, path=place, offset=error.offset, key=error.key, remedy=error.remedy
                ) from error

    def _fetch(self, file_system: Any, root: str, name: str, directory: Path) -> None:
        with suppress(FileNotFoundError):
            ask_again(
                lambda: file_system.get_file(f"{root}/{name}", str(directory / name)),
                f"fetching {join(self.name, name)}",
            )

    def building(self) -> AbstractContextManager[Path]:
        """Provide a temporary folder."""
        return scratch_folder()

    def publish(self, built: Path, names: Sequence[str]) -> None:
        """Upload built files one after the other. An old last file (the record) is deleted first.

        An identical last file is kept: a worker that was presumed dead may return after its successor wrote it.
        """
        if self.read(names[-1]) not in (None, (built / names[-1]).read_bytes()):
            self.delete(names[-1])
        for name in names:
            self._upload(built / name, name)

    def write(self, name: str, data: bytes) -> None:
        """Upload a small file."""
        with scratch_folder() as directory:
            (directory / "file").write_bytes(data)
            self._upload(directory / "file", name)

    def create(self, name: str, data: bytes) -> bool:
        """Upload a small file unless it exists, and return whether this call created it. One concurrent call succeeds.

        This holds for stores with conditional writes. Other stores check for existence just before writing.
        """
        with scratch_folder() as directory:
            (directory / "file").write_bytes(data)
            try:
                self._upload(directory / "file", name, mode="create")
            except FileExistsError:
                return self.read(name) == data  # if a response was lost, the previous attempt wrote the file
            return True

    def read(self, name: str) -> bytes | None:
        """Return the content of a small file; None if it does not exist."""
        file_system, path = self._open(name)
        try:
            content = ask_again(lambda: file_system.cat_file(path), f"reading {join(self.name, name)}")
        except FileNotFoundError:
            return None
        return bytes(content)

    def delete(self, name: str) -> None:
        """Delete a file if it exists."""
        file_system, path = self._open(name)
        with suppress(FileNotFoundError):
            ask_again(lambda: file_system.rm_file(path), f"deleting {join(self.name, name)}")

    def exclusive_writer(self) -> AbstractContextManager[None]:
        """Hold the folder's lease."""
        return hold_lease(self)

    def sweep(self) -> None:
        """Do nothing: interrupted uploads leave no object, and the next temporary folder deletes old ones."""

    def _open(self, name: str) -> tuple[Any, str]:
        # Cached listings must not be used.
        file_system, root = open_file_system(self.url.rstrip("/"), use_listings_cache=False)
        return file_system, f"{root}/{name}" if name else root

    def _upload(self, path: Path, name: str, mode: str = "overwrite") -> None:
        """Upload a file, in parts if it is large, and check its size in the store."""
        file_system, target = self._open(name)
        size = path.stat().st_size

        def upload() -> None:
            file_system.put_file(str(path), target, **({"mode": mode} if mode != "overwrite" else {}))
            if (found := file_system.info(target)["size"]) != size:
                raise OSError(f"it has {found} bytes there, {size} here")

        try:
            ask_again(upload, f"uploading {join(self.name, name)}")
        except (FileNotFoundError, PermissionError, NotImplementedError) as error:
            raise RefusedError(
                f"{join(self.name, name)}: cannot be written ({error}); check that the bucket exists and that the "
                "credentials may write to it"
            ) from error


def _changed(entry: Mapping[str, Any]) -> int:
    """Return the time of an fsspec listing entry in nanoseconds, or 0 if it has no known time key."""
    for name in _TIMES:
        value = entry.get(name)
        if isinstance(value, str):
            with suppress(ValueError):
                value = datetime.fromisoformat(value)
        if isinstance(value, datetime):
            value = value.timestamp()
        if isinstance(value, (int, float)):
            return int(value * 1e9)
    return 0
