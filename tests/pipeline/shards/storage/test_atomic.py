"""A file that is hashed while it is written: its bytes do not depend on when the disk gets them."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from vilbert.pipeline.shards.storage import atomic
from vilbert.pipeline.shards.storage.atomic import HashingFile


@pytest.mark.parametrize("system", ["with advice", "without", "refuses"])
def test_early_writeback_changes_no_byte(system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ranges: list[tuple[int, int]] = []

    def advise(descriptor: int, start: int, size: int, advice: int) -> None:
        ranges.append((start, size))
        if system == "refuses":
            raise OSError(errno.EINVAL, "no advice here")

    if system == "without":
        monkeypatch.delattr(os, "posix_fadvise", raising=False)
    else:
        monkeypatch.setattr(os, "posix_fadvise", advise, raising=False)
        monkeypatch.setattr(os, "POSIX_FADV_DONTNEED", 4, raising=False)
    monkeypatch.setattr(atomic, "WRITEBACK_BYTES", 10)
    pieces = [bytes([number]) * 7 for number in range(9)]
    file = HashingFile(tmp_path / "file")
    for piece in pieces:
        file.write(piece)
    file.sync()
    file.close()
    assert (tmp_path / "file").read_bytes() == b"".join(pieces)
    assert file.sha256 == hashlib.sha256(b"".join(pieces)).hexdigest()
    assert ranges == ([] if system == "without" else [(0, 14), (14, 14), (28, 14), (42, 14)])
