"""How annotation files are read: JSON objects a line, fields of their types, and errors that name the place."""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from vilbert.manifests.captions import storable
from vilbert.manifests.readers.repeated_keys import RepeatedKeys
from vilbert.manifests.record import ManifestError
from vilbert.pipeline.errors import RefusedError
from vilbert.untrusted.documents import parse_json

T = TypeVar("T")

_KINDS = {str: "text", int: "a whole number", list: "a list", dict: "an object"}


class AbsentError(RefusedError):
    """A file, or a split of one, that is not there."""


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raise what stops the block from reading a file as RefusedError, naming the file."""
    try:
        yield
    except OSError as error:
        kind = AbsentError if isinstance(error, FileNotFoundError) else RefusedError
        raise kind(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from error
    except ManifestError as error:
        raise RefusedError(str(error)) from error


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (file and line, object) of a file with a JSON object a line; blank lines are passed over.

    Raises RefusedError where the file cannot be read, a line is anything else, or the file is empty.
    """
    number = rows = 0
    with reading(path), path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip() or line.strip() == BOM_UTF8:
                continue
            where = f"{path}:{number}"
            try:
                row = parse_json(line, allow_surrogates=True)
            except ValueError as error:
                raise RefusedError(f"{where}: not valid JSON ({error}); is the download complete?") from error
            if not isinstance(row, dict):
                raise RefusedError(f"{where}: not a JSON object but {row!r:.80}")
            rows += 1
            yield where, row
    if not rows:
        raise RefusedError(f"{path}: contains no entry; is the download complete?")


def field(row: Mapping[str, Any], name: str, kind: type[T], where: str) -> T:
    """Return row[name], of type str, int, list or dict; raise RefusedError naming the place where it is anything else.

    Text comes with U+FFFD for lone surrogates, which no tokenizer takes.
    """
    if isinstance(row, RepeatedKeys):
        raise RefusedError(f"{where}: key {row.key!r:.80} appears twice; remove one")
    if name not in row:
        raise RefusedError(f"{where}: {name} is missing; is this the published file?")
    value = row[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise RefusedError(f"{where}: {name} is {value!r:.80}, not {_KINDS[kind]}")
    return storable(value) if isinstance(value, str) else value  # type: ignore[return-value]  # a str is a T here


def label_field(row: Mapping[str, Any], name: str, labels: Mapping[str, T], split: str, where: str) -> T | None:
    """Return what the text in row[name] stands for; None where it is absent from a test split, whose labels are secret.

    Raises RefusedError for a text that is not among `labels`.
    """
    if row.get(name) is None and split.startswith("test"):
        return None
    text = field(row, name, str, where)
    if text not in labels:
        raise RefusedError(f"{where}: {name} is {text!r:.80}, not one of {', '.join(map(repr, labels))}")
    return labels[text]


def split_file(folder: Path, name: str, split: str, published: Mapping[str, str]) -> Path:
    """Return the file of a split, `name` with the split for {}; otherwise the one under the published split's name.

    published: what the data set calls a split that others call otherwise, as `dev` for `val`.
    """
    path = folder / name.format(split)
    return path if path.exists() or split not in published else folder / name.format(published[split])
