"""Bytes behind uris: plain files, members of a tar read by many threads, and what is not there."""

from __future__ import annotations

import io
import os
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vilbert.manifests.uri import ImageReader, is_local, mask_credentials, protocols, tar_index, tar_uri


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    path = tmp_path / "00000.tar"
    with tarfile.open(path, "w") as file:
        for i in range(200):
            info = tarfile.TarInfo(f"part/{i:05d}.jpg")
            info.size = 700 + i
            file.addfile(info, io.BytesIO(bytes([i]) * info.size))
    return path


def test_threads_read_the_right_members(tar: Path) -> None:
    reader = ImageReader()
    order = [i * 37 % 200 for i in range(2000)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: reader.read(tar_uri(tar, f"part/{i:05d}.jpg")), order))
    assert found == [bytes([i]) * (700 + i) for i in order]


def test_limit(tar: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"0123456789")
    for uri in (str(tmp_path / "a.jpg"), f"file://{tmp_path}/a.jpg", f"FILE://{tmp_path}/a.jpg"):
        assert ImageReader().read(uri, 4) == b"0123"
        assert ImageReader().read(uri) == b"0123456789"
    assert ImageReader().read(tar_uri(tar, "part/00001.jpg"), 3) == b"\1\1\1"
    assert ImageReader().read(f"TAR://part/00001.jpg::{tar}", 3) == b"\1\1\1"
    assert len(ImageReader().read(tar_uri(tar, "part/00001.jpg"), 10_000)) == 701


def test_more_tars_than_indexes_are_kept(tar: Path, tmp_path: Path) -> None:
    reader, copies = ImageReader(), [tmp_path / f"copy{i}.tar" for i in range(20)]
    for copy in copies:
        copy.write_bytes(tar.read_bytes())
    for copy in copies * 2:
        assert reader.read(tar_uri(copy, "part/00009.jpg")) == bytes([9]) * 709


@pytest.mark.parametrize(
    "uri", ["{dir}/none.jpg", "tar://none.jpg::{tar}", "tar://a.jpg::{dir}/none.tar", "file://{dir}/none"]
)
def test_absent(tar: Path, tmp_path: Path, uri: str) -> None:
    with pytest.raises(FileNotFoundError):
        ImageReader().read(uri.format(tar=tar, dir=tmp_path))


def test_index_agrees_with_tarfile(tar: Path) -> None:
    with tarfile.open(tar) as file:
        assert tar_index(tar) == {member.name: (member.offset_data, member.size) for member in file}
    assert list(tar_index(tar, stop_at=lambda name: name == "part/00002.jpg")) == [
        f"part/{i:05d}.jpg" for i in range(3)
    ]


@pytest.mark.parametrize(
    ("uri", "named", "local"),
    [
        ("images/a.jpg", (), True),
        ("a::b.jpg", (), True),
        ("file:///images/a.jpg", ("file",), True),
        ("tar://a.jpg::/images/0.tar", ("tar",), True),
        ("tar://a.jpg::file:///images/0.tar", ("tar", "file"), False),
        ("tar://a.jpg::s3://bucket/0.tar", ("tar", "s3"), False),
        ("zip://a.jpg::simplecache::https://host/a.zip", ("zip", "simplecache", "https"), False),
        ("HTTPS://host/a.jpg?u=x://y::z", ("https",), False),
        ("s3://bucket/a.jpg", ("s3",), False),
    ],
)
def test_protocols(uri: str, named: tuple[str, ...], local: bool) -> None:
    assert protocols(uri) == named
    assert is_local(uri) == local


def test_a_file_url_of_a_device_is_refused() -> None:
    with pytest.raises(OSError, match="regular"):
        ImageReader().read("file:///dev/zero", 10)


@pytest.mark.parametrize("uri", ["{}", "file://{}", "tar://a.jpg::{}", "zip://a.jpg::{}", "zip://a.jpg::file://{}"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "/dev/zero"])
def test_a_pipe_device_or_folder_is_refused_at_once(tmp_path: Path, tar: Path, uri: str, kind: str) -> None:
    path = tmp_path / "pipe" if kind == "pipe" else tmp_path if kind == "folder" else Path(kind)
    if kind == "pipe":
        os.mkfifo(path)
    reader = ImageReader()
    with ThreadPoolExecutor(1) as pool, pytest.raises(OSError, match=r"not a regular file|directory"):
        pool.submit(reader.read, uri.format(path), 9).result(timeout=20)
    assert len(reader.read(tar_uri(tar, "part/00001.jpg"))) == 701


@pytest.mark.parametrize(
    ("uri", "clean"),
    [
        ("https://me:word@host/a.jpg", "https://host/a.jpg"),
        ("HTTP://me@host:80/a@b.jpg", "HTTP://host:80/a@b.jpg"),
        ("https://me:w@rd@host/a.jpg", "https://host/a.jpg"),
        ("zip://a@b.jpg::https://me:word@host/a.zip", "zip://a@b.jpg::https://host/a.zip"),
        ("sftp://me:word@host/a.jpg", "sftp://host/a.jpg"),
        ("cannot read https://me:word@host/a.jpg: gone", "cannot read https://host/a.jpg: gone"),
        (
            "https://b.s3.x/a?X-Amz-Date=1&X-Amz-Signature=ab12&x=1",
            "https://b.s3.x/a?X-Amz-Date=1&X-Amz-Signature=***&x=1",
        ),
        *(
            (f"https://h/a?x=1&{name}=ab12&y=2#z", f"https://h/a?x=1&{name}=***&y=2#z")
            for name in (
                "token",
                "api_key",
                "apikey",
                "key",
                "password",
                "Policy",
                "Key-Pair-Id",
                "access_token",
                "KEY",
            )
        ),
        ("https://h/a?monkey=1&keys=2&tokens=3", "https://h/a?monkey=1&keys=2&tokens=3"),
        ("https://x.blob.y/a?sv=1&sig=a%2Bb", "https://x.blob.y/a?sv=1&sig=***"),
        ("abfs://container@account.dfs.core.windows.net/a.jpg", "abfs://container@account.dfs.core.windows.net/a.jpg"),
        ("images/me@home/a.jpg", "images/me@home/a.jpg"),
        ("https://host/a.jpg?mail=me@host", "https://host/a.jpg?mail=me@host"),
        ("tar://a@b.jpg::/data/x.tar", "tar://a@b.jpg::/data/x.tar"),
    ],
)
def test_credentials_are_left_out_and_nothing_else(uri: str, clean: str) -> None:
    assert mask_credentials(uri) == clean
    assert mask_credentials(clean) == clean
