"""The errors of the stages: what is wrong, where, and what to do."""

from __future__ import annotations

import errno
import re
from functools import partial
from pathlib import Path
from typing import Any

READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
"""What the system says of a file that may not be written: `OSError.errno`."""


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or its own name where it says nothing."""
    return (str(error).strip() or repr(error)).splitlines()[0]


class ShardError(Exception):
    """A data set that cannot be written or read as asked; says what, where and what to do."""


class UnsupportedFormatError(ShardError):
    """A file of a format number that this version does not know."""


class RefusedError(ShardError):
    """An output folder that is not this run's to write to."""


class MissingError(RefusedError):
    """An input that does not exist, such as a folder whose name was misspelt."""


class FingerprintError(RefusedError):
    """An output folder that holds the results of other settings than those asked for."""


class LockedError(RefusedError):
    """An output folder that another process is writing to."""


class CorruptShardError(ShardError):
    """A file of the data set that is not what its format says it must be."""

    def __init__(
        self,
        problem: str,
        *,
        path: Path,
        offset: int | None = None,
        key: str | None = None,
        remedy: str | None = None,
    ) -> None:
        """Say `problem` of the file at `path`; offset counts its bytes, key names the sample, where they are known."""
        place = "".join(
            [
                re.sub(r"^([a-z][a-z0-9+.-]+:)/(?=[^/])", r"\1//", str(path)),  # a Path makes one slash of a URL's two
                f", byte {offset}" if offset is not None else "",
                f", key {key!r}" if key is not None else "",
            ]
        )
        self.problem = problem
        self.path = path
        self.offset = offset
        self.key = key
        self.remedy = remedy or _remedy(path)
        super().__init__(f"{place}: {problem}; {self.remedy}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Let the error travel between processes; exceptions by default only take their positional arguments along."""
        again = partial(
            CorruptShardError, self.problem, path=self.path, offset=self.offset, key=self.key, remedy=self.remedy
        )
        return again, ()


def _remedy(path: Path) -> str:
    record = path.with_suffix(".json")
    again = "run the same `vilbert extract` or `vilbert convert` again: it rewrites this shard"
    return f"delete {path.name} and {record.name} and {again}"


class TrainingError(Exception):
    """A run that cannot go on; says at which step, why, and what to do."""


class NonFiniteError(TrainingError):
    """A loss or a gradient that is not a number."""


class LoaderError(TrainingError):
    """A data loading process that died or no longer moves."""


class OutOfMemoryError(TrainingError):
    """A step that needs more memory than the device or the machine has."""


class LostPeerError(TrainingError):
    """Another process of the group that failed or died."""


class StoppedError(Exception):
    """The worker was told to stop; its unfinished shards leave nothing behind."""


class DeviceLostError(ShardError):
    """The GPU failed so that this process cannot use it any more; another process may."""
