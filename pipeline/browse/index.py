"""A finished index: rows of SQLite by number or key, and columns in memory maps. Thread-safe."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vilbert.pipeline.browse.build import read_meta
from vilbert.pipeline.browse.columns import columns_of, read_columns
from vilbert.pipeline.browse.filters import FilterError
from vilbert.pipeline.browse.schema import open_for_reading
from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.shards.canonical import decode_json, encode_json
from vilbert.pipeline.shards.dataset import DatasetInfo
from vilbert.pipeline.shards.failures import FailureRow


class IndexedSample(NamedTuple):
    """A row of the index."""

    number: int
    """In the data set, from 0."""
    shard: int
    place: int
    """In the shard, from 0."""
    key: str
    image_id: str
    caption: str
    """The beginning of the first caption."""


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Raise ShardError where columns lead beyond each other, as those of a damaged index do."""
    try:
        yield
    except FilterError:
        raise
    except (IndexError, ValueError) as error:
        raise ShardError(f"{folder}: is damaged ({error}); delete it and start again") from error


class Index:
    """The index of one data set."""

    def __init__(self, folder: Path, info: DatasetInfo) -> None:
        """Open a finished index; raise ShardError if it is damaged."""
        self.folder = folder
        self._local = threading.local()
        self._open: list[sqlite3.Connection] = []
        meta = read_meta(folder)
        try:
            sizes, splits = (decode_json(meta[name].encode()) for name in ("sizes", "splits"))
            self.digest = str(meta["complete"])
            self.objects = bool(sizes["O"])
            self.attributes = bool(sizes["A"])
            columns = columns_of(objects=self.objects, attributes=self.attributes)
            self.columns: dict[str, NDArray[Any]] = read_columns(folder, columns, sizes)
            self.samples: int = sizes["N"]
            self.regions: int = sizes["R"]
            self.splits: list[str] = splits
        except (KeyError, TypeError, ValueError) as error:
            raise ShardError(f"{folder}: is not a complete index ({error!r}); delete it and run again") from error
        expected = {"object": info.class_names, "attribute": info.attribute_names}
        for kind, names in expected.items():
            if f"{kind}_starts" in self.columns and len(self.columns[f"{kind}_starts"]) != len(names) + 2:
                raise ShardError(f"{folder}: is the index of another data set; delete it and run again")
        self._note_shown()
        self.failure_counts: dict[str, int] = dict(
            self.rows("SELECT reason, count(*) FROM failures GROUP BY reason ORDER BY count(*) DESC, reason")
        )
        """Failed rows by reason, the most frequent first."""

    def restrict(self, numbers: NDArray[np.int64]) -> None:
        """Show only the samples of these numbers, as if no other had been read."""
        selected = np.zeros(self.samples, np.uint8)
        selected[numbers] = 1
        self.columns["present"] = self.columns["present"] & selected
        self._note_shown()

    def _note_shown(self) -> None:
        present = self.columns["present"].astype(np.bool_)
        self.complete = bool(present.all())
        """Whether every sample is shown; False if shards are damaged or a selection is active."""
        self.shown, self.hidden = (np.flatnonzero(those).astype(np.uint32) for those in (present, ~present))
        """Numbers of the samples that are shown, and of the others."""

    def _connection(self) -> sqlite3.Connection:
        found: sqlite3.Connection | None = getattr(self._local, "database", None)
        if found is None:
            found = self._local.database = open_for_reading(self.folder)
            self._open.append(found)
        return found

    def close(self) -> None:
        """Close the database."""
        for database in self._open:
            database.close()

    def rows(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return the rows of a statement; ShardError if the database is damaged."""
        try:
            return self._connection().execute(statement, values).fetchall()
        except sqlite3.DatabaseError as error:
            raise ShardError(f"{self.folder}: cannot be read ({error}); delete it and start again") from error

    def find(self, selector: str) -> IndexedSample | None:
        """Return the sample with a key or an image id, or None."""
        for statement in (
            "SELECT * FROM samples WHERE key = ? ORDER BY number LIMIT 1",
            "SELECT * FROM samples WHERE image_id = ? ORDER BY number LIMIT 1",
        ):
            if rows := self.rows(statement, (selector,)):
                return IndexedSample(*rows[0])
        return None

    def at(self, numbers: Sequence[int]) -> list[IndexedSample]:
        """Return the samples of some numbers, in their order."""
        wanted = encode_json([int(number) for number in numbers]).decode()
        rows = self.rows("SELECT * FROM samples WHERE number IN (SELECT value FROM json_each(?))", (wanted,))
        found = {row[0]: IndexedSample(*row) for row in rows}
        return [found[int(number)] for number in numbers if int(number) in found]

    def matching(self, expression: str, most: int | None) -> NDArray[np.int64] | None:
        """Return the numbers of the samples whose captions match an expression of FTS5, in order; None if over `most`.

        most: None for no limit.
        """
        # One text of all numbers: a row each would take several times as long.
        limit = self.samples if most is None else most + 1
        ((text,),) = self.rows(
            "SELECT group_concat(rowid) FROM (SELECT rowid FROM captions WHERE captions MATCH ? LIMIT ?)",
            (expression, limit),
        )
        numbers = _numbers_in(text)
        return numbers if most is None or len(numbers) <= most else None

    def matching_of(self, expression: str, numbers: NDArray[Any]) -> NDArray[np.int64]:
        """Return those of some samples whose captions match an expression of FTS5; each is looked up by its number."""
        ((text,),) = self.rows(
            "SELECT group_concat(c.rowid) FROM json_each(?) AS j CROSS JOIN captions AS c "
            "WHERE c.captions MATCH ? AND c.rowid = j.value",
            (encode_json(numbers.tolist()).decode(), expression),
        )
        return _numbers_in(text)

    def failed_rows(self, reason: str) -> NDArray[np.int64]:
        """Return the failed rows of a reason, ascending."""
        ((text,),) = self.rows(
            "SELECT group_concat(row) FROM (SELECT row FROM failures WHERE reason = ? ORDER BY row)", (reason,)
        )
        return _numbers_in(text)

    def failures_at(self, rows: Sequence[int]) -> list[FailureRow]:
        """Return the failed rows of some numbers, in their order."""
        wanted = encode_json([int(row) for row in rows]).decode()
        found = {
            row: FailureRow(row=row, reason=reason, image_id=image_id, uri=uri, detail=detail)
            for row, reason, image_id, uri, detail in self.rows(
                "SELECT * FROM failures WHERE row IN (SELECT value FROM json_each(?))", (wanted,)
            )
        }
        return [found[row] for row in rows if row in found]

    def failure(self, row: int) -> FailureRow | None:
        """Return the failed row with a number, or None."""
        found = self.failures_at([row])
        return found[0] if found else None

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with shards that could not be read."""
        for (problem,) in self.rows("SELECT problem FROM shards WHERE problem IS NOT NULL ORDER BY shard LIMIT 20"):
            yield problem


def _numbers_in(text: str | None) -> NDArray[np.int64]:
    return np.fromstring(text, np.int64, sep=",") if text else np.empty(0, np.int64)
