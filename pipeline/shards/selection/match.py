"""Match selections to data sets by the content of the data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.shards.selection.file import Selection, SelectionFile


def open_selections(paths: Sequence[Path]) -> dict[str, SelectionFile]:
    """Read the footers of the files of `--selection`; return them by the hash of their data set's records.

    Raises:
        RefusedError: A file cannot be read, or two belong to the same data set.
    """
    found: dict[str, SelectionFile] = {}
    for path in paths:
        file = SelectionFile.open(path)
        if file.records_sha256 in found:
            raise RefusedError(
                f"--selection: {found[file.records_sha256].path} and {path} belong to the same data set; give one file "
                "for each"
            )
        found[file.records_sha256] = file
    return found


def require_their_data(files: Mapping[str, SelectionFile], data: Mapping[str, str]) -> None:
    """Raise RefusedError if a selection belongs to none of the data sets.

    Args:
        files: The result of `open_selections`.
        data: Name of each data set for messages, by the hash of its records.
    """
    for content, file in files.items():
        if content not in data:
            raise RefusedError(
                f"--selection {file.path}: belongs to another data set than {', '.join(data.values())}, or to an older "
                "state of it; select again with `vilbert select`"
            )


def read_selection(
    path: Path | None, records_sha256: str | None, samples: Sequence[int], name: str
) -> Selection | None:
    """Return the selection for a command that reads a single data set; None without a path.

    Args:
        path: Path of the file.
        records_sha256: Hash of the records of the data set.
        samples: Number of samples of each shard.
        name: Name of the data set for messages.

    Raises:
        RefusedError: The file cannot be read, or belongs to another data set.
    """
    if path is None:
        return None
    file = SelectionFile.open(path)
    require_their_data({file.records_sha256: file}, {records_sha256 or "": name})
    return file.load(samples)
