"""The SQLite database of an index: its tables, and how it is opened."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from vilbert.pipeline.errors import ShardError

VERSION = 3
"""Of the index; another one is rebuilt."""
DATABASE = "index.sqlite"
TABLES = {
    "meta": "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    "shards": "CREATE TABLE shards (shard INTEGER PRIMARY KEY, splits TEXT NOT NULL, problem TEXT)",
    "samples": (
        "CREATE TABLE samples (number INTEGER PRIMARY KEY, shard INTEGER NOT NULL, place INTEGER NOT NULL, "
        "key TEXT NOT NULL, image_id TEXT NOT NULL, caption TEXT NOT NULL)"
    ),
    "failures": (
        "CREATE TABLE failures (row INTEGER PRIMARY KEY, reason TEXT NOT NULL, image_id TEXT NOT NULL, "
        "uri TEXT NOT NULL, detail TEXT NOT NULL)"
    ),
    # Without a copy of the texts: the index answers which samples match, and shards have the captions.
    "captions": "CREATE VIRTUAL TABLE captions USING fts5(text, content='', columnsize=0)",
}
INDEXES = {
    "samples_by_key": "CREATE INDEX samples_by_key ON samples (key)",
    "samples_by_image": "CREATE INDEX samples_by_image ON samples (image_id)",
    "shards_with_problems": "CREATE INDEX shards_with_problems ON shards (shard) WHERE problem IS NOT NULL",
    "failures_by_reason": "CREATE INDEX failures_by_reason ON failures (reason, row)",
}
"""Made when all rows are there."""
WORDS_IN_MEMORY = 256 << 20
"""Bytes of words that FTS5 holds before it writes them; a transaction ends before."""
_OWN = "captions_"  # how the tables of FTS5 itself begin


def open_for_building(folder: Path) -> sqlite3.Connection:
    """Open the database of an unfinished index, with its tables; a kill loses at most the last transaction."""
    database = sqlite3.connect(folder / DATABASE, isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = OFF")
    database.execute("PRAGMA cache_size = -200000")
    if not database.execute("SELECT name FROM sqlite_master").fetchone():
        for statement in TABLES.values():
            database.execute(statement)
        database.execute("INSERT INTO captions (captions, rank) VALUES ('hashsize', ?)", (WORDS_IN_MEMORY,))
    return database


def open_for_reading(folder: Path) -> sqlite3.Connection:
    """Open the database of a finished index.

    Raises ShardError if it has other tables than this software makes: a data set may come with an index from
    elsewhere, and views or triggers in it could run code of SQLite's.
    """
    path = folder / DATABASE
    try:
        database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False)
        database.execute("PRAGMA trusted_schema = OFF")
        database.execute("PRAGMA cell_size_check = ON")
        database.execute("PRAGMA query_only = ON")
        found = {
            name: text
            for name, text in database.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")
            if not name.startswith(_OWN)
        }
    except sqlite3.Error as error:
        raise ShardError(f"{path}: cannot be read ({error}); delete {folder}") from error
    if found != {**TABLES, **INDEXES}:
        database.close()
        raise ShardError(f"{path}: is not an index of this version; delete {folder}")
    return database
