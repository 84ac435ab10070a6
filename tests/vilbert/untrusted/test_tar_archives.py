"""Archives of weights are unpacked, and those that unpack to far more than their size are refused on the way."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import resource
import tarfile
from pathlib import Path

import pytest

from vilbert.untrusted.tar_archives import ArchiveError, is_tar, open_tar


def tar(members: dict[str, bytes], **headers: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT, pax_headers=headers) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_members_are_read_in_their_order(tmp_path: Path, pack) -> None:
    (tmp_path / "a.tar").write_bytes(pack(tar({"a": b"1", "b": b"22"})))
    with open_tar(tmp_path / "a.tar") as archive:
        contents = [(member.name, archive.extractfile(member).read()) for member in archive]
    assert contents == [("a", b"1"), ("b", b"22")]


@pytest.mark.parametrize(
    "content",
    [tar({"a": bytes(400_000_000), "b": b"2"}), tar({"b": b"2"}, comment="a" * 200_000_000)],
    ids=["a huge member before it", "a huge header"],
)
def test_an_archive_that_unpacks_to_far_more_is_refused_on_the_way(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(content, 1))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert is_tar(tmp_path / "a.tar.gz")
    with pytest.raises(ArchiveError, match="far more than its size"), open_tar(tmp_path / "a.tar.gz") as archive:
        for _ in archive:
            pass
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_an_archive_cut_short_is_an_archive_error(tmp_path: Path, pack) -> None:
    whole = pack(tar({"a": bytes(range(256)) * 10}))
    for length in range(1, len(whole) - 1, max(1, len(whole) // 30)):
        (tmp_path / "a.tar").write_bytes(whole[:length])
        try:
            with open_tar(tmp_path / "a.tar") as archive:
                for member in archive:
                    archive.extractfile(member).read()
        except ArchiveError:
            continue


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04" + bytes(600), b"\x80\x02}.", b"\x1f\x8b nothing"])
def test_other_files_are_no_archives(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    assert not is_tar(tmp_path / "a")
