"""The files of a folder that holds one or two per image, in the order of their names."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from vilbert.manifests.regular_file import open_regular
from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.rebuild.formats.importers.imported_source import MAX_ROW_BYTES
from vilbert.pipeline.rebuild.formats.importers.lmdb_values import PackedKeys
from vilbert.pipeline.rebuild.formats.importers.published_image import RowError


class FolderFiles:
    """Files by index. Sub-folders are searched, links to folders are not followed."""

    def __init__(self, folder: Path, accept: Callable[[str], bool]) -> None:
        """List the files whose names are accepted.

        Raises:
            ShardError: The folder cannot be listed.
        """
        self.folder = folder

        def refuse(error: OSError) -> None:
            raise ShardError(f"{error.filename}: cannot be listed ({error.strerror or error})") from error

        names = []
        for place, folders, files in os.walk(folder, onerror=refuse):
            folders.sort()
            inside = os.path.relpath(place, folder)
            names += [os.path.normpath(os.path.join(inside, name)) for name in files if accept(name)]
        self._names = PackedKeys(os.fsencode(name) for name in sorted(names))

    def __len__(self) -> int:
        return len(self._names)

    def name(self, row: int) -> str:
        """Return a file's path inside the folder; characters that UTF-8 cannot encode are escaped."""
        return self._names[row].decode("utf-8", "backslashreplace")

    def read(self, row: int) -> bytes:
        """Return the bytes of a file; raise RowError if it cannot be read."""
        return read_file(self.folder / os.fsdecode(self._names[row]), self.name(row))

    def close(self) -> None:
        """Do nothing, because no file is open between rows."""

    def path(self, row: int) -> Path:
        """Return the path of a file."""
        return self.folder / os.fsdecode(self._names[row])


def read_file(path: Path, name: str) -> bytes:
    """Return the bytes of a regular file of at most `MAX_ROW_BYTES`; raise RowError if it is not one."""
    try:
        with open(path, "rb", opener=open_regular) as file:
            data = file.read(MAX_ROW_BYTES + 1)
    except OSError as error:
        raise RowError("broken_row", f"{name}: cannot be read ({error.strerror or error})") from error
    if len(data) > MAX_ROW_BYTES:
        raise RowError("broken_row", f"{name}: has more than {MAX_ROW_BYTES:,} bytes")
    return data


def first_file(folder: Path, accept: Callable[[str], bool]) -> Path | None:
    """Return the first file of a folder or its sub-folders whose name is accepted, or None."""
    try:
        for place, folders, files in os.walk(folder):
            folders.sort()
            if names := [name for name in files if accept(name)]:
                return Path(place, min(names))
    except OSError:
        pass
    return None


def only_inside(path: Path, *patterns: str) -> Path:
    """Return the file or folder inside a folder whose name matches a pattern, if there is exactly one.

    Some tools write a folder with additional files; users may name the folder or the file. If not exactly one name
    matches, the path itself is returned.
    """
    if not path.is_dir():
        return path
    try:
        found = {inside for pattern in patterns for inside in path.glob(pattern)}
    except OSError:
        return path
    return found.pop() if len(found) == 1 else path
