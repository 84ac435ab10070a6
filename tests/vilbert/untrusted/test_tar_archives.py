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
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vilbert.untrusted.tar_archives import ArchiveError, is_tar, open_tar


def tar(members: dict[str, bytes], **headers: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT, pax_headers=headers) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def long_names() -> bytes:
    """Return headers of long names, each of which has the next as its member."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 0
    return info.tobuf(tarfile.GNU_FORMAT) * 3000


LONG_NAMES = long_names()
SPARSE = tar({"a": b"1"}, **{"GNU.sparse.map": "0,1,99999999,0", "GNU.sparse.size": "99999999"})


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
    content = bytes(range(256)) * 10
    whole = pack(tar({"a": content}))
    refused = 0
    for length in range(1, len(whole) - 1, max(1, len(whole) // 30)):
        (tmp_path / "a.tar").write_bytes(whole[:length])
        try:
            with open_tar(tmp_path / "a.tar") as archive:
                members = [archive.extractfile(member).read() for member in archive]
        except ArchiveError:
            refused += 1
        else:  # what is cut off is the padding behind the last member
            assert members == [content]
    assert refused


PACKS = [bytes, gzip.compress, bz2.compress, lzma.compress]
WHOLE = tar({"a" * 150: bytes(range(256)), "b": b"22"}, comment="of all")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pack=st.sampled_from(PACKS), data=st.data())
def test_changed_bytes_give_members_or_an_archive_error(tmp_path: Path, pack, data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from([WHOLE, SPARSE])))
    outer = data.draw(st.booleans())
    packed = bytearray(pack(bytes(content))) if outer else content
    for _ in range(data.draw(st.integers(1, 4))):
        packed[data.draw(st.integers(0, min(len(packed), 2048) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "a.tar").write_bytes(bytes(packed) if outer else pack(bytes(packed)))
    try:
        with open_tar(tmp_path / "a.tar") as archive:
            for member in archive:
                if member.isreg() and not member.issparse():
                    archive.extractfile(member).read()
    except ArchiveError:
        return


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        pytest.param(tar({"a": b"1"}, **{"GNU.sparse.map": "0,x"}), ValueError, id="a map that is no numbers"),
        pytest.param(b"BZh9" + bytes(600), OSError, id="bz2"),
        pytest.param(LONG_NAMES, RecursionError, id="a long name of a long name"),
    ],
)
def test_what_the_standard_library_raises_is_an_archive_error(tmp_path: Path, content: bytes, cause: type) -> None:
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(ArchiveError) as error, open_tar(tmp_path / "a.tar") as archive:
        list(archive)
    assert isinstance(error.value.__cause__, cause)


def test_what_the_caller_raises_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(WHOLE)
    with pytest.raises(OSError, match="disk is full"), open_tar(tmp_path / "a.tar"):
        raise OSError("the disk is full")
    with pytest.raises(KeyError), open_tar(tmp_path / "a.tar"):
        raise KeyError("a")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04" + bytes(600), b"\x80\x02}.", b"\x1f\x8b nothing"])
def test_other_files_are_no_archives(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    assert not is_tar(tmp_path / "a")
