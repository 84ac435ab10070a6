"""A plain USTAR archive that is hashed while it is written sequentially."""

from __future__ import annotations

from pathlib import Path

from vilbert.pipeline.shards.storage.atomic import HashingFile
from vilbert.pipeline.shards.storage.ustar import BLOCK, RECORD, padding, ustar_header


class HashedTar:
    """One new tar file."""

    def __init__(self, path: Path) -> None:
        self._file = HashingFile(path)

    def add_member(self, name: str, content: bytes) -> None:
        """Append a member."""
        self._file.write(ustar_header(name, len(content)) + content + bytes(padding(len(content))))

    def finish(self) -> tuple[int, str]:
        """Finish the archive, fsync and close it; return its size and the hex digest of its SHA-256."""
        end = self._file.bytes + 2 * BLOCK
        self._file.write(bytes(2 * BLOCK + -end % RECORD))
        self._file.sync()
        self._file.close()
        return self._file.bytes, self._file.sha256

    def abort(self) -> None:
        """Close the file and delete it."""
        self._file.discard()
