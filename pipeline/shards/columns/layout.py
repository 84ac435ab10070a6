"""Paths of the files of a column: DIR/columns/NAME/ has the layout of a data set, with column.json or dataset.json.

Shard 3 of column `dino` is DIR/columns/dino/shards/000003.tar. It belongs to the same rows as shard 3 of the data set.
"""

from __future__ import annotations

import re

from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.shards.location.folder import Folder, LocalFolder, open_folder
from vilbert.pipeline.shards.location.layout import DATASET_FILE
from vilbert.pipeline.shards.location.remote_folder import RemoteFolder
from vilbert.pipeline.shards.sample import FIELDS, IMAGE_MEMBER
from vilbert.pipeline.urls import join

COLUMNS_FOLDER = "columns"
COLUMN_FILE = "column.json"
BASE = "base"
"""Name of the data set's own arrays in options."""
MAX_NAME = 20
"""Maximum length of a column name: `KEY.NAME.json` must fit into the 100 bytes of a USTAR member name."""
_NAME = re.compile(rf"[a-z][a-z0-9_]{{0,{MAX_NAME - 1}}}")
_TAKEN = {*FIELDS, IMAGE_MEMBER, "json", BASE}


def check_column_name(name: str, option: str = "--column") -> None:
    """Raise RefusedError, naming the option, if a column name is invalid."""
    if not _NAME.fullmatch(name):
        raise RefusedError(
            f"{option} {name!r:.60}: give a name of at most {MAX_NAME} of a-z, 0-9 and _ that begins with a letter"
        )
    if name in _TAKEN:
        raise RefusedError(f"{option} {name}: is the name of an array of the data set; choose another")


def column_folder(folder: Folder, name: str) -> Folder:
    """Return the folder of a column, which need not exist."""
    if isinstance(folder, LocalFolder):
        return LocalFolder(folder.path / COLUMNS_FOLDER / name)
    assert isinstance(folder, RemoteFolder)
    return open_folder(join(folder.url, COLUMNS_FOLDER, name))


def column_names(folder: Folder) -> list[str]:
    """Return the names of the columns of a data set, finished or not, sorted."""
    inside = (name for name, size in folder.entries(COLUMNS_FOLDER) if size is None and _NAME.fullmatch(name))
    return sorted(name for name in inside if is_column(column_folder(folder, name)))


def is_column(folder: Folder) -> bool:
    """Return whether a folder contains a column, finished or not."""
    return bool({COLUMN_FILE, DATASET_FILE, "shards"} & {name for name, _ in folder.entries("")})
