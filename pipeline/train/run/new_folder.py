"""Create an output folder that is deleted again if its block fails without a result."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vilbert.pipeline.errors import LockedError


@contextmanager
def new_folder(path: Path, *, is_used: Callable[[], bool]) -> Iterator[None]:
    """Make a folder, and those it lies in; where the block fails, remove again what was made here.

    is_used: whether the folder holds something by then that is worth keeping. A folder that was there before stays, and
    so does that of a block that is interrupted, or that finds the lock of another process.
    """
    made: list[Path] = []
    missing = [folder for folder in (*reversed(path.parents), path) if not folder.exists()]
    for folder in missing:
        with suppress(FileExistsError):
            folder.mkdir()  # which only one of two processes does
            made.append(folder)
    try:
        yield
    except LockedError:  # another process writes in it
        raise
    except Exception:
        if made and made[-1] == path and not is_used():
            shutil.rmtree(path, ignore_errors=True)
            for parent in reversed(made[:-1]):
                with suppress(OSError):  # something else is in it by now
                    parent.rmdir()
        raise
