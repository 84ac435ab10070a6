"""Images behind fsspec's URLs: the same limits and reasons as over http."""

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.asyn import AsyncFileSystem

from vilbert.extractors.decode import ImageError
from vilbert.manifests.uri import ImageReader
from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.extract.fetching.fetcher import Fetcher, host_or_bucket
from vilbert.pipeline.extract.fetching.settings import FetchSettings

MAX_BYTES = 3_000_000


class ObjectStore(AsyncFileSystem):
    """An object store whose objects are named after what befalls their reader."""

    protocol = "teststore"
    asked: ClassVar[list[str]] = []

    async def _info(self, path: str, **_: Any) -> dict[str, Any]:
        self.asked.append(path)
        if path.endswith("missing"):
            raise FileNotFoundError(path)
        if path.endswith("forbidden"):
            raise PermissionError("Access Denied")
        if path.endswith("slow"):
            await asyncio.sleep(30)
        if path.endswith("flaky") and self.asked.count(path) < 3:
            raise ConnectionResetError("by peer")
        if path.endswith("down"):
            raise ConnectionRefusedError("refused")
        return {"name": path, "type": "file", "size": {"large": MAX_BYTES + 1, "empty": 0}.get(path[-5:], 5)}

    async def _cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        if path.endswith("swollen"):  # between being asked for its size and being read
            return bytes(MAX_BYTES + 1)
        return b"" if path.endswith("empty") else b"12345"


@pytest.fixture(autouse=True)
def protocols() -> Iterator[None]:
    fsspec.register_implementation("teststore", ObjectStore, clobber=True)
    fsspec.register_implementation("nodriver", "package_that_is_not_there.FileSystem", clobber=True)
    yield
    for name in ("teststore", "nodriver"):
        fsspec.registry.get(name) and fsspec.core.get_filesystem_class(name).clear_instance_cache()
    ObjectStore.asked.clear()


def fetcher(**changes: Any) -> Fetcher:
    return Fetcher(
        FetchSettings(**{"fetch_timeout": 0.5, "backoff": 0.01, **changes}), ImageReader(), max_bytes=MAX_BYTES
    )


def reason(uri: str, **changes: Any) -> str:
    with pytest.raises(ImageError) as error:
        fetcher(**changes).read(uri)
    return error.value.reason


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("missing", "missing_file"),
        ("forbidden", "unreadable"),
        ("slow", "timeout"),
        ("down", "connection"),
        ("large", "too_large"),
        ("swollen", "too_large"),
    ],
)
def test_each_failure_of_an_object_store_has_its_reason(name: str, expected: str) -> None:
    begun = time.monotonic()
    assert reason(f"teststore://bucket/{name}", retries=0) == expected
    assert time.monotonic() - begun < 2


def test_passing_failures_are_tried_again() -> None:
    assert fetcher(retries=2).read("teststore://bucket/flaky") == b"12345"
    assert reason("teststore://bucket/down", retries=2) == "connection"
    assert sum(path.endswith("down") for path in ObjectStore.asked) == 3
    assert reason("teststore://bucket/missing", retries=2) == "missing_file"
    assert sum(path.endswith("missing") for path in ObjectStore.asked) == 1


def most_at_once(uris: list[str], **changes: Any) -> int:
    """Fetch all side by side and return how many were being read at a time."""
    reading, most, lock = 0, 0, threading.Lock()

    async def cat(self: ObjectStore, path: str, **_: Any) -> bytes:
        nonlocal reading, most
        with lock:
            reading += 1
            most = max(most, reading)
        await asyncio.sleep(0.05)
        with lock:
            reading -= 1
        return b"12345"

    shared = fetcher(fetch_timeout=30.0, **changes)
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(len(uris)) as threads:
        patch.setattr(ObjectStore, "_cat_file", cat)
        assert list(threads.map(shared.read, uris)) == [b"12345"] * len(uris)
    return most


def test_a_bucket_gets_so_many_requests_at_a_time_and_another_one_as_many() -> None:
    uris = [f"teststore://{bucket}/{number}" for number in range(12) for bucket in ("one", "other")]
    assert most_at_once(uris[::2], per_store=3) == 3
    assert most_at_once(uris, per_store=3) == 6


def test_hosts_that_fsspec_talks_to_are_hosts_as_any(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vilbert.pipeline.extract.fetching.fetcher.ANY_HOST", {"teststore"})
    uris = [f"teststore://me@host:22/{number}" for number in range(12)]
    assert most_at_once(uris, per_host=2, allow_private_addresses=True) == 2


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("s3://Bucket/a/b.jpg", "bucket"),
        ("zip://a.jpg::s3://bucket/c.zip", "bucket"),
        ("sftp://me:word@Host:22/a.jpg", "host"),
        ("memory://a.jpg", "a.jpg"),
        ("zip://a.jpg::c.zip", ""),
        ("s3://", ""),
    ],
)
def test_what_is_limited_is_the_host_or_the_bucket(uri: str, name: str) -> None:
    assert host_or_bucket(uri) == name


def test_an_object_of_no_bytes() -> None:
    assert fetcher().read("teststore://bucket/empty") == b""


def test_a_file_system_that_cannot_be_interrupted() -> None:
    files = fsspec.filesystem("memory")
    files.pipe({"/fetch/a.jpg": b"picture", "/fetch/large.jpg": bytes(MAX_BYTES + 1)})
    assert fetcher().read("memory://fetch/a.jpg") == b"picture"
    assert reason("memory://fetch/none.jpg") == "missing_file"
    assert reason("memory://fetch/large.jpg") == "too_large"


@pytest.mark.parametrize("step", ["open", "read"])
def test_a_file_system_that_cannot_be_interrupted_has_its_time_too(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    files = fsspec.filesystem("memory")
    files.pipe({"/fetch/a.jpg": b"picture"})
    released = threading.Event()
    if step == "open":
        monkeypatch.setattr(type(files), "open", lambda *_, **__: released.wait(60))
    else:
        monkeypatch.setattr(type(files.store["/fetch/a.jpg"]), "read", lambda *_: released.wait(60), raising=False)
    begun = time.monotonic()
    assert reason("memory://fetch/a.jpg", retries=0) == "timeout"
    assert time.monotonic() - begun < 5
    released.set()


def test_files_and_members_of_tars_are_local(tmp_path: Path) -> None:
    (tmp_path / "a%20b.jpg").write_bytes(b"picture")
    assert fetcher().read(f"file://{tmp_path}/a%20b.jpg") == b"picture"
    assert reason(f"file://{tmp_path}/none.jpg") == "missing_file"
    assert reason("/dev/zero") == "unreadable"
    assert reason("file:///dev/zero") == "unreadable"


def test_a_missing_package_is_named_at_the_start_where_every_row_needs_it() -> None:
    with pytest.raises(RefusedError, match=r"nodriver://.*package_that_is_not_there"):
        fetcher().check(["nodriver://bucket/a.jpg", "zip://a.jpg::nodriver://bucket/a.zip"])


def test_a_missing_package_is_warned_of_at_the_start_where_some_rows_need_it(caplog: pytest.LogCaptureFixture) -> None:
    fetcher().check(["images/a.jpg", "nodriver://bucket/a.jpg"])
    assert "package_that_is_not_there" in caplog.text
    assert "--retry-failed unsupported_scheme" in caplog.text


@pytest.mark.parametrize(
    "uri",
    [
        "nodriver://bucket/a.jpg",
        "zip://a.jpg::nodriver://bucket/a.zip",
        "simplecache::teststore://bucket/a.jpg",
        "filecache::memory://a.jpg",
        "blockcache::memory://a.jpg",
        "zip://a.jpg::local:///a.zip",
        "local:///etc/passwd",
        "git://repository:a.jpg",
        "dir://a.jpg::memory://b",
    ],
)
def test_a_scheme_that_is_not_opened_costs_its_row_alone(uri: str) -> None:
    assert reason(uri) == "unsupported_scheme"
    if "nodriver" not in uri:
        with pytest.raises(OSError, match="not supported"):
            ImageReader().read(uri)


def test_a_slip_in_a_protocol_costs_its_row_alone() -> None:
    fetcher().check(["htp://host/a.jpg", "teststore://bucket/a.jpg"])
    assert reason("htp://host/a.jpg") == "bad_url"


@pytest.mark.parametrize(
    "uri",
    [
        "zip://a.jpg::http://127.0.0.1/a.zip",
        "simplecache::https://localhost/a.jpg",
        "ftp://10.0.0.5/a.jpg",
        "webhdfs://169.254.169.254/a.jpg",
        "zip://a.jpg::sftp://192.168.0.1/a.zip",
    ],
)
def test_what_is_fetched_by_fsspec_from_a_host_would_bypass_the_check_of_addresses(uri: str) -> None:
    assert reason(uri) == "private_address"
