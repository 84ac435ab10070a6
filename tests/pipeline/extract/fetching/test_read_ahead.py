"""Rows fetched and decoded ahead: in their order, within their memory, and never stuck."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vilbert.pipeline.errors import StoppedError
from vilbert.pipeline.extract.fetching.memory_budget import MemoryBudget, NoRoomError, Share
from vilbert.pipeline.extract.fetching.read_ahead import ReadAhead


@pytest.fixture(scope="module")
def decoders() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


def ahead(
    decoders: ThreadPoolExecutor,
    items: list[int],
    fetch: Callable[[int, Share], bytes],
    *,
    local: Callable[[int], bool] = lambda item: False,
    threads: int = 8,
    rows: int = 50,
    budget: int = 10**9,
    window: int = 4,
    used: Callable[[int], None] = lambda item: None,
) -> ReadAhead[int, tuple[int, bytes]]:
    def decode(item: int, read: Callable[[], bytes]) -> tuple[int, bytes]:
        data = read()
        used(item)
        return item, data

    return ReadAhead(
        items,
        fetch=fetch,
        is_remote=lambda item: not local(item),
        read=lambda item: b"local",
        decode=decode,
        decoders=decoders,
        decoded_ahead=window,
        fetch_threads=threads,
        fetched_ahead=rows,
        fetched_bytes=budget,
    )


@given(
    delays=st.lists(st.sampled_from([0.0, 0.0, 0.002, 0.01]), max_size=40),
    threads=st.integers(1, 8),
    rows=st.integers(1, 12),
    window=st.integers(1, 5),
)
def test_the_order_is_that_of_the_rows_whatever_the_times(
    decoders: ThreadPoolExecutor, delays: list[float], threads: int, rows: int, window: int
) -> None:
    def fetch(item: int, _: Share) -> bytes:
        time.sleep(delays[item])
        return b"remote"

    items = list(range(len(delays)))
    with ahead(
        decoders, items, fetch, local=lambda item: item % 3 == 0, threads=threads, rows=rows, window=window
    ) as stream:
        assert list(stream) == [(item, b"remote" if item % 3 else b"local") for item in items]


@given(sizes=st.lists(st.integers(0, 300), min_size=1, max_size=40), limit=st.integers(1, 400), seed=st.integers(0, 5))
def test_memory_is_bounded_and_large_images_come_through(
    decoders: ThreadPoolExecutor, sizes: list[int], limit: int, seed: int
) -> None:
    """Each fetch reserves a little, and finds out half way that its image is larger, as the fetcher does."""
    lock, held, most = threading.Lock(), 0, 0

    def fetch(item: int, share: Share) -> bytes:
        nonlocal held, most
        room = min(10, sizes[item])
        while True:
            share.wait_for(room)
            time.sleep((item * 7 + seed) % 3 / 1000)
            try:
                share.grow(sizes[item])
            except NoRoomError:
                share.wait_for(0)
                room = 300
                continue
            share.wait_for(sizes[item])
            with lock:
                held += sizes[item]
                most = max(most, held)
            return bytes(sizes[item])

    def used(item: int) -> None:
        nonlocal held
        with lock:
            held -= sizes[item]

    with ahead(decoders, list(range(len(sizes))), fetch, budget=limit, used=used) as stream:
        assert [(item, len(data)) for item, data in stream] == list(enumerate(sizes))
    assert held == 0
    assert most <= limit + max(sizes)  # the first row alone may pass the limit


def test_only_the_first_row_passes_the_limit() -> None:
    budget = MemoryBudget(100)
    first, second = budget.open(0), budget.open(1)
    second.wait_for(90)
    first.wait_for(500)
    with pytest.raises(NoRoomError):
        second.grow(91)
    first.close()
    second.grow(1000)  # it is the first now


def test_rows_begin_before_anyone_asks_and_no_more_than_allowed(decoders: ThreadPoolExecutor) -> None:
    begun: list[int] = []

    def fetch(item: int, _: Share) -> bytes:
        begun.append(item)
        return b"remote"

    with ahead(decoders, list(range(100)), fetch, rows=10, window=3) as stream:
        deadline = time.monotonic() + 5
        while len(begun) < 13 and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(0.05)
        assert sorted(begun) == list(range(13))  # three are decoded, ten fetched
        assert list(islice(stream, 5)) == [(item, b"remote") for item in range(5)]


def test_what_fetching_raises_comes_at_its_row(decoders: ThreadPoolExecutor) -> None:
    def fetch(item: int, _: Share) -> bytes:
        if item == 3:
            raise ValueError("row three")
        return b"remote"

    with ahead(decoders, list(range(9)), fetch) as stream:
        assert [item for item, _ in islice(stream, 3)] == [0, 1, 2]
        with pytest.raises(ValueError, match="row three"):
            next(stream)


def test_leaving_early_lets_those_who_wait_for_room_go(decoders: ThreadPoolExecutor) -> None:
    left = threading.Semaphore(0)

    def fetch(item: int, share: Share) -> bytes:
        try:
            share.wait_for(100)
        except StoppedError:
            left.release()
            raise
        return b"remote"

    with ahead(decoders, list(range(20)), fetch, budget=100, threads=4, window=1) as stream:
        assert next(stream) == (0, b"remote")
    assert left.acquire(timeout=5)


def test_decoders_that_are_shut_down_end_the_stream() -> None:
    pool = ThreadPoolExecutor(1)
    going = threading.Event()

    def fetch(item: int, _: Share) -> bytes:
        going.wait(5)
        return b"remote"

    with ahead(pool, list(range(20)), fetch) as stream:
        pool.shutdown(wait=False, cancel_futures=True)
        going.set()
        with pytest.raises(StoppedError):
            list(stream)
