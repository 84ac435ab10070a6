"""What a failed fetch had read is freed with it."""

from __future__ import annotations

import gc
import gzip
import io
import tracemalloc
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import urllib3

from vilbert.extractors.decode import ImageError
from vilbert.pipeline.extract.fetching.http_get import read_body
from vilbert.pipeline.extract.fetching.read_ahead import ReadAhead


class Response:
    """The part of urllib3's answers that `read_body` uses."""

    def __init__(self, packed: bytes) -> None:
        self._answer = urllib3.HTTPResponse(
            io.BytesIO(packed), headers={"Content-Encoding": "gzip"}, preload_content=False
        )
        self.headers = self._answer.headers

    def read1(self, size: int) -> bytes:
        return self._answer.read1(size)


def test_a_gzip_bomb_takes_no_more_than_the_largest_image() -> None:
    packed = gzip.compress(bytes(200_000_000), 1)
    sizes: list[int] = []
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match="too_large"):
            read_body(Response(packed), 1_000_000, sizes.append)  # type: ignore[arg-type]
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
    assert max(sizes) <= 1_000_000


class Body(bytearray):
    """Bytes that can be watched."""


@pytest.mark.slow
def test_no_half_read_body_outlives_its_fetch(tmp_path: Path) -> None:
    alive: list[weakref.ref[Any]] = []

    def fetch(_item: int, _share: Any) -> bytes:
        body = Body(1000)
        alive.append(weakref.ref(body))
        try:
            raise ConnectionError(body)
        except ConnectionError as error:
            raise ImageError("connection") from error

    counted: list[int] = []

    def decode(_item: int, read: Any) -> str:
        gc.collect()
        counted.append(sum(ref() is not None for ref in alive))
        with pytest.raises(ImageError, match="connection"):
            read()
        return "failed"

    with (
        ThreadPoolExecutor(1) as decoders,
        ReadAhead(
            range(20), fetch=fetch, is_remote=lambda _: True, read=lambda _: b"", decode=decode, decoders=decoders,
            decoded_ahead=1, fetch_threads=1, fetched_ahead=20, fetched_bytes=1000,
        ) as rows,
    ):  # fmt: skip
        assert list(rows) == ["failed"] * 20
    assert max(counted) <= 1  # at most the body of the fetch that is under way
