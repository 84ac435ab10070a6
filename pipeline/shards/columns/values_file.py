"""Read values by image id from a user's file: Parquet, .npy with a list of ids, or JSON lines.

Ids are held in memory and values are read on access, so the file may be in any order.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.shards.columns.info import Member
from vilbert.pipeline.shards.storage.verified import file_sha256
from vilbert.untrusted.arrays import map_npy
from vilbert.untrusted.documents import parse_json, read_json

OPEN_GROUPS = 4
"""Number of row groups of a Parquet file that are cached in memory."""
MAX_LINE_BYTES = 64 << 20
_STORED = {"float64": "float32", "float32": "float32", "float16": "float16", "uint16": "uint16"}
"""Mapping from dtypes in the file to dtypes in the column."""


@dataclass(frozen=True, kw_only=True)
class ValuesFile:
    """An opened file of values."""

    member: Member
    """Storage of the values."""
    places: dict[str, Any]
    """Positions of the values by image id."""
    read: Callable[[Any], Any]
    """Function that returns the value at a position: an array of a stored dtype, a JSON value, or None for null."""
    facts: dict[str, Any]
    """Facts that identify the values: the file's SHA-256 and how it is read."""

    def get(self, image_id: str) -> Any:
        """Return the value of an image, or None."""
        return self.read(self.places[image_id]) if image_id in self.places else None


def open_values(path: Path, *, ids: Path | None, id_column: str, value_column: str | None) -> ValuesFile:
    """Open a file of values, by its suffix.

    Args:
        path: `.parquet`, `.npy`, or `.jsonl`.
        ids: For .npy: the image ids of its rows, one per line, or a JSON list.
        id_column: The Parquet column or JSON field that holds the image id.
        value_column: The column or field of the value; None takes the only other one, or all others as one object.

    Raises:
        RefusedError: The file cannot be read. The message gives the reason.
    """
    opened = {".parquet": _open_parquet, ".jsonl": _open_lines}.get(path.suffix)
    for file in (path, *([ids] if ids is not None else [])):
        if not file.is_file():
            raise RefusedError(f"{file}: no such file")
    if (ids is None) == (path.suffix == ".npy"):
        need = (
            "needs the image ids of its rows: give --ids FILE" if ids is None else "takes no --ids, it has ids itself"
        )
        raise RefusedError(f"{path}: {need}")
    facts = {"sha256": file_sha256(path), "kind": path.suffix[1:]}
    try:
        if path.suffix == ".npy" and ids is not None:
            return _open_npy(path, ids, {**facts, "ids_sha256": file_sha256(ids)})
        if opened is None:
            raise RefusedError(f"{path}: give a file that ends in .parquet, .npy or .jsonl")
        return opened(path, id_column, value_column, {**facts, "id_column": id_column, "value_column": value_column})
    except (ValueError, OSError) as error:  # from all three readers, including pyarrow
        raise RefusedError(f"{path}: cannot be read ({str(error).splitlines()[0]:.300})") from error


def _index(path: Path, pairs: Iterable[tuple[Any, Any]]) -> dict[str, Any]:
    """Return positions by image id. Raise RefusedError for duplicate ids and ids that are not strings or integers."""
    places: dict[str, Any] = {}
    for image_id, place in pairs:
        if type(image_id) not in (str, int):
            raise RefusedError(f"{path}: {image_id!r:.80} is not an image id; ids are strings or integers")
        name = str(image_id)
        if name in places:
            raise RefusedError(f"{path}: image id {name!r:.80} appears twice; keep one value for each image")
        places[name] = place
    return places


def _open_npy(path: Path, ids: Path, facts: dict[str, Any]) -> ValuesFile:
    array = map_npy(path)
    try:
        names = read_json(ids) if ids.suffix == ".json" else ids.read_text(encoding="utf-8").splitlines()
    except ValueError as error:
        raise RefusedError(f"{ids}: cannot be read ({error}); give one id per line as UTF-8, or a .json list") from None
    if not isinstance(names, list) or array.ndim == 0 or len(names) != len(array):
        count = len(names) if isinstance(names, list) else "no list of"
        raise RefusedError(
            f"{path}: has the shape {list(array.shape)}, {ids} has {count} ids: give one id for each row"
        )
    member: Member = "npy" if array.ndim in (2, 3) and array.dtype.name in _STORED else "json"
    if member == "npy":
        return ValuesFile(
            member=member, places=_index(ids, zip(names, range(len(names)), strict=True)), facts=facts,
            read=lambda row: _stored(array[row]),
        )  # fmt: skip
    if array.ndim > 2 or array.dtype.kind not in "fiubU":
        raise RefusedError(
            f"{path}: has the shape {list(array.shape)} and dtype {array.dtype}, which a column cannot store"
        )
    places = _index(ids, zip(names, range(len(names)), strict=True))
    return ValuesFile(member=member, places=places, facts=facts, read=lambda row: array[row].tolist())


def _stored(array: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(array, dtype=_STORED[array.dtype.name])


def _open_parquet(path: Path, id_column: str, value_column: str | None, facts: dict[str, Any]) -> ValuesFile:
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    schema = file.schema_arrow
    columns = _choose(path, schema.names, id_column, value_column)
    dtype, levels = _array_type(schema.field(columns[0]).type) if len(columns) == 1 else (None, 0)
    groups: OrderedDict[int, Any] = OrderedDict()

    def pairs() -> Iterator[tuple[Any, tuple[int, int]]]:
        for group in range(file.num_row_groups):
            for row, name in enumerate(file.read_row_group(group, columns=[id_column]).column(0).to_pylist()):
                yield name, (group, row)

    def read(place: tuple[int, int]) -> Any:
        group, row = place
        if group not in groups:
            if len(groups) >= OPEN_GROUPS:
                groups.popitem(last=False)
            groups[group] = file.read_row_group(group, columns=columns)
        table = groups[group]
        if len(columns) > 1:
            return {name: table.column(name)[row].as_py() for name in columns}
        value = table.column(columns[0])[row].as_py()
        if dtype is None or value is None:
            return value
        return np.asarray(value, dtype) if value or levels == 1 else np.empty((0, 0), dtype)

    return ValuesFile(member="json" if dtype is None else "npy", places=_index(path, pairs()), read=read, facts=facts)


def _array_type(kind: Any) -> tuple[str | None, int]:
    """Return the stored dtype of an Arrow type (None unless numbers in one or two list levels), and the levels."""
    import pyarrow.types as types

    levels = 0
    while types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        kind, levels = kind.value_type, levels + 1
    names = {"halffloat": "float16", "float": "float32", "double": "float32", "uint16": "uint16"}
    return (names.get(str(kind)) if levels in (1, 2) else None), levels


def _open_lines(path: Path, id_column: str, value_column: str | None, facts: dict[str, Any]) -> ValuesFile:
    file = path.open("rb")
    fields: set[str] = set()  # over all lines: an optional field must not turn some objects into plain values

    def parse(line: bytes, number: int) -> dict[str, Any]:
        try:
            document = parse_json(line)
        except ValueError as error:
            raise RefusedError(f"{path}: line {number} cannot be read ({error})") from None
        if not isinstance(document, dict) or id_column not in document:
            raise RefusedError(
                f"{path}: line {number} is not an object with the field {id_column}: set it with --id-column"
            )
        return document

    def pairs() -> Iterator[tuple[Any, int]]:
        offset, number = 0, 0
        while line := file.readline(MAX_LINE_BYTES):
            number += 1
            if line.strip():
                document = parse(line, number)
                fields.update(document)
                yield document[id_column], offset
            offset += len(line)

    def read(offset: int) -> Any:
        file.seek(offset)
        document = parse(file.readline(MAX_LINE_BYTES), 0)
        rest = {name: value for name, value in document.items() if name != id_column}
        if value_column is not None:
            return rest.get(value_column)
        return rest if len(fields) > 2 else rest.get(next(iter(fields - {id_column})))

    places = _index(path, pairs())
    if places:
        _choose(path, sorted(fields), id_column, value_column)
    return ValuesFile(member="json", places=places, read=read, facts=facts)


def _choose(path: Path, names: list[str], id_column: str, value_column: str | None) -> list[str]:
    for name in (id_column, *([value_column] if value_column is not None else [])):
        if name not in names:
            listed = ", ".join(names[:20])
            raise RefusedError(
                f"{path}: has no column {name}: set it with --id-column or --value-column; it has {listed}"
            )
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise RefusedError(f"{path}: has several columns {twice!r:.60}; rename all but one")
    others = [name for name in names if name != id_column] if value_column is None else [value_column]
    if not others:
        raise RefusedError(f"{path}: has no column beside {id_column}")
    return others
