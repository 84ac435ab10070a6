"""List the members of a tar: the positions of their bytes, and the members that cannot be read."""

from __future__ import annotations

import os
import posixpath
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple

from vilbert.manifests.regular_file import open_regular

# Bytes checked after the end of the archive, which should be two zero blocks and padding to 10,240 bytes.
_TAIL = 1 << 20
# Maximum size of a long name or of PAX records, which tarfile reads at once.
_MAX_HEADER = 1 << 20
# Errors that tarfile raises for hostile headers, such as invalid numbers and nested extended headers.
_DAMAGE = (tarfile.TarError, ValueError, OverflowError, RecursionError, EOFError)


class TarListing(NamedTuple):
    """The content of a tar's headers."""

    places: dict[str, tuple[int, int]]
    """(offset, size) in the file by stored member name; the last of members with the same name, as for `tar -x`."""
    repeated: list[str]
    """Names of the members that are replaced by a later member of the same name."""
    unreadable: list[str]
    """Names of members without data: dangling links, devices, sparse files."""
    damage: str | None
    """Where and why the listing ends before the end of the file; None for a complete archive."""


def list_tar(path: Path | str, *, stop_at: Callable[[str], bool] | None = None) -> TarListing:
    """List the complete members before the first damaged header. Links to members of the same tar are followed.

    Args:
        path: The tar.
        stop_at: Stop after the first member whose name it accepts.
    """
    with open(path, "rb", opener=open_regular) as file:
        listing = _Listing(os.fstat(file.fileno()).st_size)
        try:
            headers: Any = _Headers(file)
            with tarfile.open(fileobj=headers, mode="r:") as tar:
                while (member := tar.next()) is not None:
                    tar.members = []  # type: ignore[attr-defined]  # tarfile would keep every header
                    if not listing.add(member, tar.offset):
                        break
                    if stop_at is not None and member.name in listing.places and stop_at(member.name):
                        return listing.finish(None)
        except _DAMAGE as error:
            return listing.finish(f"damaged header after byte {listing.position}: {str(error)[:80]}")
    return listing.finish(_check_end(path, listing.position, listing.size))


class _Headers:
    """A file from which tarfile reads only headers, so that no size in a header can exhaust memory."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek = file.seek
        self.tell = file.tell

    def read(self, size: int) -> bytes:
        if size > _MAX_HEADER:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self._file.read(size)


class _Listing:
    def __init__(self, size: int) -> None:
        self.size = size
        self.position = 0
        """Expected position of the next header."""
        self.places: dict[str, tuple[int, int]] = {}
        self._repeated: list[str] = []
        self._unreadable: list[str] = []
        self._links: list[tuple[str, str]] = []

    def add(self, member: tarfile.TarInfo, position: int) -> bool:
        """Add a member. Return whether another header can follow."""
        if position <= self.position:  # a negative size would loop forever
            return False
        self.position = position
        name = member.name
        if member.islnk() or member.issym():
            folder = "" if member.islnk() else posixpath.dirname(name)
            self._links.append((name, posixpath.join(folder, member.linkname)))
        elif member.isfile() and not member.issparse():
            if member.offset_data + member.size <= self.size:
                if name in self.places:
                    self._repeated.append(name)
                self.places[name] = (member.offset_data, member.size)
        elif not member.isdir():
            self._unreadable.append(name)
        return True

    def finish(self, damage: str | None) -> TarListing:
        places = {plain_name(name): place for name, place in self.places.items()} if self._links else {}
        for name, target in self._links:
            place = places.get(plain_name(target))
            if place is None:
                self._unreadable.append(name)
            else:
                if name in self.places:
                    self._repeated.append(name)
                self.places[name] = places[plain_name(name)] = place
        return TarListing(self.places, self._repeated, self._unreadable, damage)


def plain_name(name: str) -> str:
    """Return a member's name without a leading `./` and doubled slashes: `./a//b.jpg` is `a/b.jpg`."""
    if name[:1] in (".", "/") or "//" in name or "/." in name:
        return posixpath.normpath(name)
    return name


def _check_end(path: Path | str, position: int, size: int) -> str | None:
    """Check the end of the archive, where two zero blocks are expected. Return the problem, or None."""
    if position > size:
        return f"ends at byte {size}, inside its last member"
    with open(path, "rb") as file:
        file.seek(position)
        tail = file.read(_TAIL)
    if not tail:
        return f"ends at byte {size} without an end-of-archive marker"
    start = len(tail) - len(tail.lstrip(b"\0"))
    if start < 512:
        return f"damaged header at byte {position}"
    return f"more data at byte {position + start}, after the end of the archive" if start < len(tail) else None
