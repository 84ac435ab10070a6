"""Select the files of a data set's folder to upload, their order, and their commits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

from vilbert.pipeline.shards.columns.layout import COLUMN_FILE, COLUMNS_FOLDER, column_folder, column_names
from vilbert.pipeline.shards.index.names import CARD_FILE, ENERGON_FOLDER, INDEX_FILE, ROOT_NAMES
from vilbert.pipeline.shards.location.folder import LocalFolder
from vilbert.pipeline.shards.location.layout import DATASET_FILE, FAILURES_FOLDER, SHARDS_FOLDER
from vilbert.pipeline.shards.record import read_records

COMMIT_FILES = 200
"""Maximum number of files per commit; the Hub is slow with larger commits."""
COMMIT_BYTES = 4 << 30
"""Maximum bytes per commit, except for a single larger file. An interrupted push hashes at most this much again."""
_LAST = (CARD_FILE, INDEX_FILE, DATASET_FILE)
"""Files that describe all others and are therefore uploaded last."""
_FOLDERS = (SHARDS_FOLDER, FAILURES_FOLDER, ENERGON_FOLDER)


def published_files(folder: LocalFolder) -> dict[str, int]:
    """Return the sizes of the files to upload by name, in upload order.

    These are shards, records, failures, side files and columns; locks, logs, journals and other files are excluded.
    """
    sizes = dict(_inside(folder, (*ROOT_NAMES, DATASET_FILE)))
    last = {name: sizes.pop(name) for name in _LAST if name in sizes}
    columns = (
        {f"{COLUMNS_FOLDER}/{name}/{file}": size for file, size in _inside(column, (COLUMN_FILE, DATASET_FILE))}
        for name, column in _columns(folder)
    )
    return {**sizes, **{name: size for column in columns for name, size in column.items()}, **last}


def known_digests(folder: LocalFolder) -> dict[str, str]:
    """Return the hex SHA-256 of the files of samples and columns by name, from their records."""
    places = [("", folder), *((f"{COLUMNS_FOLDER}/{name}/", column) for name, column in _columns(folder))]
    return {
        f"{prefix}{SHARDS_FOLDER}/{record.file}": record.sha256
        for prefix, place in places
        for record in read_records(place.path).values()
    }


def in_commits(sizes: dict[str, int]) -> Iterator[list[str]]:
    """Yield the file names of each commit. The last files have a separate commit."""
    names: list[str] = []
    size = 0
    for name in (name for name in sizes if name not in _LAST):
        if names and (len(names) == COMMIT_FILES or size + sizes[name] > COMMIT_BYTES):
            yield names
            names, size = [], 0
        names.append(name)
        size += sizes[name]
    yield from (group for group in (names, [name for name in sizes if name in _LAST]) if group)


def _columns(folder: LocalFolder) -> Iterator[tuple[str, LocalFolder]]:
    for name in column_names(folder):
        column = column_folder(folder, name)
        assert isinstance(column, LocalFolder)
        yield name, column


def _inside(folder: LocalFolder, wanted: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Yield (name, bytes) of the files in the folder of a data set or column; in its root only those in `wanted`."""
    root = (item for item in sorted(folder.entries("")) if item[0] in wanted)
    folders = ((f"{inner}/{name}", size) for inner in _FOLDERS for name, size in sorted(folder.entries(inner)))
    return ((name, size) for name, size in chain(folders, root) if size is not None)
