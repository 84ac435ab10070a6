"""Disk errors with advice for the user."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vilbert.pipeline.errors import OutputError

GO_ON = "free space or fix the problem, then run the same command again to resume from the last checkpoint"


@contextmanager
def explain_disk_errors(path: Path) -> Iterator[None]:
    """Convert an OSError of the block to one that names `path` and says what to do.

    Python names a file that cannot be opened, but not one that cannot be written to, as on a full disk.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise OSError(f"{path}: {error}; {GO_ON}") from error
        raise OSError(error.errno, f"{error.strerror}; {GO_ON}", str(path)) from error


def require_folder_of(option: str, path: Path | None) -> None:
    """Raise OutputError if the folder of a file that an option names does not exist."""
    if path is not None and not path.parent.is_dir():
        raise OutputError(f"{option} {path}: the folder {path.parent} does not exist")
