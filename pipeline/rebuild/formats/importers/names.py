"""Names of classes and attributes for files that have numbers only."""

from __future__ import annotations

from pathlib import Path

from vilbert.pipeline.errors import RefusedError

_MAX_NAMES_BYTES = 16 << 20


def read_names(path: Path, option: str) -> tuple[str, ...]:
    """Return the lines of a text file of names; several names of one class, "a,b", are not separated.

    Raises:
        RefusedError: It cannot be read, or has an empty line; the message names the option.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_NAMES_BYTES + 1)
        lines = data.decode("utf-8-sig").splitlines()
    except OSError as error:
        raise RefusedError(f"--{option} {path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise RefusedError(f"--{option} {path}: not UTF-8 at byte {error.start}") from error
    names = tuple(line.strip() for line in lines)
    if not names or len(data) > _MAX_NAMES_BYTES or not all(names):
        raise RefusedError(f"--{option} {path}: expected one name per line, no line empty")
    return names


def class_names(path: Path | None, count: int) -> tuple[str, ...]:
    """Return the names of `count` classes, the background first: from a file, else numbers.

    Raises:
        RefusedError: The file has another number of names, with or without the background as its first line.
    """
    if path is None:
        return ("background", *(f"class {number}" for number in range(1, count)))
    names = read_names(path, "class-names")
    if names[0].lower() not in ("background", "__background__"):
        names = ("background", *names)
    return ("background", *names[1:])


def attribute_names(path: Path | None, count: int) -> tuple[str, ...]:
    """Return the names of `count` attributes: from a file, else numbers."""
    if path is None:
        return tuple(f"attribute {number}" for number in range(count))
    return read_names(path, "attribute-names")
