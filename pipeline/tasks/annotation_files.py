"""Read annotation files: JSON lines and typed fields, with errors that name the place."""

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
    """A file or a split does not exist."""


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Convert read errors inside the block to RefusedError naming the file."""
    try:
        yield
    except OSError as error:
        kind = AbsentError if isinstance(error, FileNotFoundError) else RefusedError
        raise kind(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from error
    except ManifestError as error:
        raise RefusedError(str(error)) from error


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (`file:line`, object) for a file with one JSON object per line; blank lines are skipped.

    Raises:
        RefusedError: The file cannot be read or is empty, or a line is not a JSON object.
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
                raise RefusedError(f"{where}: expected a JSON object, found {row!r:.80}")
            rows += 1
            yield where, row
    if not rows:
        raise RefusedError(f"{path}: contains no entry; is the download complete?")


def field(row: Mapping[str, Any], name: str, kind: type[T], where: str) -> T:
    """Return `row[name]` if it has the type `kind` (str, int, list or dict); lone surrogates become U+FFFD.

    Raises:
        RefusedError: The field is missing or has another type; the message contains `where`.
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
    """Return the label for the text in `row[name]`; None if a test split has no labels.

    Raises:
        RefusedError: The text is not among `labels`.
    """
    if row.get(name) is None and split.startswith("test"):
        return None
    text = field(row, name, str, where)
    if text not in labels:
        raise RefusedError(f"{where}: {name} is {text!r:.80}, not one of {', '.join(map(repr, labels))}")
    return labels[text]


def split_file(folder: Path, name: str, split: str, published: Mapping[str, str]) -> Path:
    """Return the file of a split: `name` with the split for {}, otherwise the one under the published split's name.

    Args:
        folder: Folder of the annotation files.
        name: File name with `{}` in place of the split.
        split: The split.
        published: Published name of a split that has another name there, such as `dev` for `val`.
    """
    path = folder / name.format(split)
    return path if path.exists() or split not in published else folder / name.format(published[split])
