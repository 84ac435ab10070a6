"""Find repeated values in a long column with little memory: 8 bytes per row on disk, read in chunks.

Equal values have equal hashes, so only rows whose 64-bit hash occurs twice can repeat a value. Only these are compared
in full.
"""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vilbert.manifests.manifest import Manifest

_HASHES_AT_A_TIME = 1 << 24  # 128 MB


class Repeats:
    """The hashes of a column's values in row order, in a temporary file in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  closed by __exit__
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, values: Iterable[str]) -> None:
        """Append values."""
        hashes = array("q", map(hash, values))  # salted by Python, so that no file can provoke collisions
        hashes.tofile(self._file)
        self._count += len(hashes)

    def _chunks(self) -> Iterator[NDArray[np.int64]]:
        import numpy as np

        self._file.seek(0)
        while len(chunk := np.frombuffer(self._file.read(8 << 20), np.int64)):
            yield chunk

    def repeated(self) -> NDArray[np.int64]:
        """Return the repeated hashes, sorted, with one entry for each occurrence after the first."""
        import numpy as np

        parts = -(-self._count // _HASHES_AT_A_TIME) or 1
        found = []
        for part in range(parts):
            chosen = [chunk if parts == 1 else chunk[chunk % parts == part] for chunk in self._chunks()]
            hashes = np.concatenate([np.empty(0, np.int64), *chosen])
            hashes.sort()
            found.append(hashes[1:][hashes[1:] == hashes[:-1]])
        return np.sort(np.concatenate(found))

    def rows(self, hashes: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """Yield, in ascending chunks, the numbers of the rows whose hash is in `hashes` (sorted)."""
        import numpy as np

        start = 0
        for chunk in self._chunks() if len(hashes) else ():
            at = np.minimum(hashes.searchsorted(chunk), len(hashes) - 1)
            yield np.flatnonzero(hashes[at] == chunk) + start
            start += len(chunk)


def later_rows(manifest: Manifest, column: str, repeats: Repeats) -> Iterator[tuple[int, str, int]]:
    """Yield (row, value, first row) of every row that repeats an earlier row's value, compared in full."""
    first: dict[str, int] = {}
    for rows in repeats.rows(repeats.repeated()):
        for row, value in manifest.values(column, rows):
            if (earlier := first.setdefault(value, row)) != row:
                yield row, value, earlier
