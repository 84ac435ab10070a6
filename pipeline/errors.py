"""The errors of the stages. A message says what is wrong, where, and what to do.

    ShardError             a data set cannot be read or written
        RefusedError           input or options that cannot be used (exit status 2)
            MissingError           an input that does not exist
            OutputError            an output that must not be written to
                FingerprintError       it has the results of other settings
                LockedError            another process is writing to it
        CorruptShardError      a damaged file
        UnsupportedFormatError a file of a newer format
        DeviceLostError        a GPU that failed
    TrainingError          a run that cannot continue

Lower packages define their own: `ManifestError`, `ExtractorError`, `ImageError`, `CheckpointError`.
"""

from __future__ import annotations

import errno
import re
from functools import partial
from pathlib import Path
from typing import Any

READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
"""`OSError.errno` of a file without write permission."""


FULL = {
    "CPU": ("DefaultCPUAllocator", "std::bad_alloc"),
    "GPU": ("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED"),
}
"""In the messages of RuntimeErrors of PyTorch that mean that a device has no memory left and have no type."""


def out_of_memory_device(error: Exception) -> str | None:
    """Return the device that has no memory left, CPU or GPU; None if the error is another one."""
    import torch

    if isinstance(error, MemoryError):
        return "CPU"
    if isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, torch.AcceleratorError) and "out of memory" in str(error)
    ):
        return "GPU"
    if isinstance(error, RuntimeError):
        return next((device for device, texts in FULL.items() if any(text in str(error) for text in texts)), None)
    return None


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its repr if the message is empty."""
    return (str(error).strip() or repr(error)).splitlines()[0]


class ShardError(Exception):
    """A data set that cannot be read or written."""


class UnsupportedFormatError(ShardError):
    """A file with a format number that this version does not support."""


class RefusedError(ShardError):
    """Input or options that a command cannot use. The command line reports it with exit status 2."""


class MissingError(RefusedError):
    """An input that does not exist."""


class OutputError(RefusedError):
    """An output file or folder that a run must not write to."""


class FingerprintError(OutputError):
    """An output folder with the results of other settings."""


class LockedError(OutputError):
    """An output folder that another process is writing to."""


class CorruptShardError(ShardError):
    """A damaged file of a data set."""

    def __init__(
        self,
        problem: str,
        *,
        path: Path,
        offset: int | None = None,
        key: str | None = None,
        remedy: str | None = None,
    ) -> None:
        """Create the error of a file.

        Args:
            problem: What is wrong, as the predicate of a sentence about the file.
            path: The file.
            offset: Position in the file in bytes, if known.
            key: Key of the sample, if known.
            remedy: What to do; default: extract or convert the shard again.
        """
        place = "".join(
            [
                re.sub(r"^([a-z][a-z0-9+.-]+:)/(?=[^/])", r"\1//", str(path)),  # a Path joins the two slashes of a URL
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
        """Support pickling; by default only positional arguments of an exception are pickled."""
        again = partial(
            CorruptShardError, self.problem, path=self.path, offset=self.offset, key=self.key, remedy=self.remedy
        )
        return again, ()


def _remedy(path: Path) -> str:
    record = path.with_suffix(".json")
    again = "run the same `vilbert extract` or `vilbert convert` again: it rewrites this shard"
    return f"delete {path.name} and {record.name} and {again}"


class TrainingError(Exception):
    """A training run that cannot continue; the message contains the step."""


class NonFiniteError(TrainingError):
    """A loss or gradient is NaN or infinite."""


class LoaderError(TrainingError):
    """A data loading process died or made no progress."""


class OutOfMemoryError(TrainingError):
    """A step needs more memory than the device or machine has."""


class LostPeerError(TrainingError):
    """Another process of the group failed or died."""


class StoppedError(Exception):
    """The worker was asked to stop. Its unfinished shards are removed."""


class DeviceLostError(ShardError):
    """The GPU failed and cannot be used by this process again; a new process may succeed."""
