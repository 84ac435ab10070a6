"""Images behind http: each way in which a server can be wrong has its reason, and costs no more time than allowed."""

import gzip
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from itertools import pairwise, repeat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vilbert.extractors.decode import ImageError
from vilbert.extractors.images.error import is_transient
from vilbert.manifests.uri import ImageReader
from vilbert.pipeline.errors import StoppedError
from vilbert.pipeline.extract.fetching.fetcher import Fetcher, backoff
from vilbert.pipeline.extract.fetching.http_get import retry_after
from vilbert.pipeline.extract.fetching.settings import FetchSettings

from .web import Page, Web, body, drop, failing, raw, redirect, send, silent, status

MAX_BYTES = 1_000_000


def settings(**changes: object) -> FetchSettings:
    standard: dict[str, object] = {
        "connect_timeout": 0.5,
        "read_timeout": 0.4,
        "fetch_timeout": 0.8,
        "backoff": 0.01,
        "allow_private_addresses": True,
    }
    return FetchSettings(**(standard | changes))  # type: ignore[arg-type]


def fetcher(**changes: object) -> Fetcher:
    return Fetcher(settings(**changes), ImageReader(), max_bytes=MAX_BYTES)


def reason(url: str, **changes: object) -> str:
    with pytest.raises(ImageError) as error:
        fetcher(**changes).read(url)
    return error.value.reason


@pytest.fixture
def web() -> Iterator[Web]:
    server = Web()
    yield server
    server.close()


def test_the_bytes_come_and_the_server_is_told_who_asks(web: Web) -> None:
    web.pages["/a%20b.jpg?size=1"] = body(b"\xff\xd8picture")
    assert fetcher(contact="me@example.org").read(web.url("/a b.jpg?size=1#part")) == b"\xff\xd8picture"
    assert web.headers[0]["User-Agent"].startswith("vilbert-pipeline/")
    assert "me@example.org" in web.headers[0]["User-Agent"]


def header(web: Web) -> Iterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\n"
    yield from (f"X-{i}: y\r\n".encode() for i in range(10_000))


def wrong_pages(web: Web) -> dict[str, tuple[Page, str]]:
    ok = b"HTTP/1.1 200 OK\r\n"
    chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    bomb = gzip.compress(bytes(50_000_000))
    return {
        "gone": (status(404), "http_404"),
        "forbidden": (status(403), "http_403"),
        "busy": (status(503), "http_503"),
        "odd status": (status(299), "http_299"),
        "no content": (status(204, Content_Length="0"), "http_204"),
        "stalls": (silent(web), "timeout"),
        "stalls in the body": (raw(web, lambda: iter([ok + b"Content-Length: 9\r\n\r\n1", b"2"]), 0.6), "timeout"),
        "drips the body": (raw(web, lambda: iter([ok + b"\r\n", *repeat(b"x", 500)]), 0.05), "timeout"),
        "drips the header": (raw(web, lambda: header(web), 0.05), "timeout"),
        "drips chunks": (
            raw(web, lambda: iter([ok + b"Transfer-Encoding: chunked\r\n\r\n", *repeat(b"1\r\nx\r\n", 500)]), 0.05),
            "timeout",
        ),
        "endless": (raw(web, lambda: iter([ok + b"\r\n", *repeat(bytes(0x10000), 500)])), "too_large"),
        "endless chunks": (
            raw(web, lambda: iter([ok + b"Transfer-Encoding: chunked\r\n\r\n", *repeat(chunk, 500)])),
            "too_large",
        ),
        "announces too much": (
            raw(web, lambda: iter([ok + b"Content-Length: 99999999999\r\n\r\n", b""]), 0.3),
            "too_large",
        ),
        "announces more digits than a number has": (
            raw(web, lambda: iter([ok + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", b""]), 0.3),
            "too_large",
        ),
        "busy until a day that never comes": (
            status(503, Retry_After="Mon, 01 Jan 99999999999 00:00:00 GMT"),
            "http_503",
        ),
        "bomb": (body(bomb, Content_Encoding="gzip"), "too_large"),
        "broken encoding": (body(b"not gzip at all", Content_Encoding="gzip"), "corrupt"),
        "ends early": (raw(web, lambda: iter([ok + b"Content-Length: 1000\r\n\r\nabc"])), "connection"),
        "ends within a chunk": (
            raw(web, lambda: iter([ok + b"Transfer-Encoding: chunked\r\n\r\nff\r\nabc"])),
            "connection",
        ),
        "not http": (raw(web, lambda: iter([b"220 mail.example ESMTP\r\n"])), "connection"),
        "hangs up": (drop, "connection"),
        "to ftp": (redirect("ftp://127.0.0.1/a.jpg"), "redirects"),
        "to a file": (redirect("file:///etc/hostname"), "redirects"),
        "to no URL": (redirect("http://[oops/"), "redirects"),
        "to nowhere": (status(302), "http_302"),
        "to itself": (redirect("to%20itself"), "redirects"),
    }


@pytest.mark.parametrize("name", list(wrong_pages(Web.__new__(Web))))
def test_each_wrong_answer_has_its_reason_in_bounded_time(web: Web, name: str) -> None:
    page, expected = wrong_pages(web)[name]
    path = f"/{name.replace(' ', '%20')}"
    web.pages[path] = page
    begun = time.monotonic()
    assert reason(web.url(f"/{name}"), retries=0) == expected
    assert time.monotonic() - begun < 2.5


def test_a_connection_that_is_used_again_ends_in_time_too(web: Web) -> None:
    web.pages |= {"/good": body(b"picture"), "/drips": raw(web, lambda: header(web), 0.05)}
    shared = fetcher(retries=0)
    assert shared.read(web.url("/good")) == b"picture"
    begun = time.monotonic()
    with pytest.raises(ImageError, match="timeout"):
        shared.read(web.url("/drips"))
    assert time.monotonic() - begun < 2.5
    assert web.connections == 1


def test_a_circle_of_redirects_ends_at_its_limit(web: Web) -> None:
    web.pages |= {"/a": redirect("/b"), "/b": redirect("/a", 307)}
    assert reason(web.url("/a"), max_redirects=4) == "redirects"
    assert len(web.asked) == 5


def test_redirects_are_followed_and_their_accents_understood(web: Web) -> None:
    web.pages |= {
        "/old": lambda handler: send(handler, b"", 301, Location="/caf\u00e9".encode().decode("latin-1")),
        "/caf%C3%A9": redirect("new?x=1", 308),
        "/new?x=1": body(b"picture"),
    }
    assert fetcher().read(web.url("/old")) == b"picture"


def test_length_type_and_encoding_are_not_believed(web: Web) -> None:
    web.pages |= {
        "/lies": body(b"0123456789", Content_Type="text/html", Content_Length="4"),
        "/gzip": body(gzip.compress(b"picture"), Content_Encoding="gzip"),
        "/no-length": raw(web, lambda: iter([b"HTTP/1.0 200 OK\r\n\r\n", b"pic", b"ture"])),
    }
    assert fetcher().read(web.url("/lies")) == b"0123"
    assert fetcher().read(web.url("/gzip")) == b"picture"
    assert fetcher().read(web.url("/no-length")) == b"picture"


@pytest.mark.parametrize("fail", [status(429), status(500), status(503), status(408), drop])
def test_a_passing_failure_is_tried_again(web: Web, fail: Page) -> None:
    web.pages["/a"] = failing(2, fail, body(b"picture"))
    assert fetcher(retries=2).read(web.url("/a")) == b"picture"
    assert web.count("/a") == 3


def test_every_try_is_a_sign_of_life_and_a_silent_server_is_being_asked(web: Web) -> None:
    """Or a shard of slow hosts would be taken for one in which nothing moves."""
    web.pages["/silent"] = silent(web)
    asking = fetcher(retries=2)
    beats: list[None] = []
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(asking.read, web.url("/silent"), lambda: beats.append(None))
        deadline = time.monotonic() + 10
        while not asking.is_busy():
            assert time.monotonic() < deadline
        assert future.exception(10) is not None
    assert len(beats) == 3
    assert not asking.is_busy()


@pytest.mark.parametrize(("code", "asked"), [(404, 1), (403, 1), (410, 1), (451, 1), (503, 3), (429, 3)])
def test_only_passing_failures_are_tried_again_and_not_for_ever(web: Web, code: int, asked: int) -> None:
    web.pages["/a"] = status(code)
    found = reason(web.url("/a"), retries=2)
    assert found == f"http_{code}"
    assert web.count("/a") == asked
    assert is_transient(found) == (asked > 1)


def test_retry_after_is_waited_for_by_all_who_ask_that_host(web: Web) -> None:
    web.pages |= {"/a": failing(1, status(429, Retry_After="1"), body(b"picture")), "/b": body(b"other")}
    shared = fetcher()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(shared.read, web.url("/a"))
        while not web.asked:
            time.sleep(0.01)
        time.sleep(0.2)
        assert shared.read(web.url("/b")) == b"other"
        assert first.result() == b"picture"
    begun = web.asked[0][1]
    assert all(at - begun > 0.9 for _, at in web.asked[1:])


def test_a_server_that_asks_for_an_hour_is_left_alone(web: Web) -> None:
    web.pages["/a"] = status(503, Retry_After="3600")
    begun = time.monotonic()
    assert reason(web.url("/a"), retries=5) == "http_503"
    assert web.count("/a") == 1
    assert time.monotonic() - begun < 1


def test_retry_after_is_seconds_or_a_date() -> None:
    assert retry_after("120", now=1e9) == 120
    assert retry_after(formatdate(1e9 + 60, usegmt=True), now=1e9) == 60
    assert retry_after(formatdate(1e9 - 60, usegmt=True), now=1e9) == 0
    assert retry_after("soon", now=1e9) is None
    assert retry_after("9" * 5000, now=1e9) == float("inf")
    assert retry_after("Mon, 01 Jan 99999999999 00:00:00 GMT", now=1e9) is None
    assert retry_after(None, now=1e9) is None


@given(uri=st.text(), tries=st.integers(0, 60))
def test_backoff_grows_is_scattered_and_bounded(uri: str, tries: int) -> None:
    limits = settings(backoff=1.0, max_backoff=30.0)
    whole = min(2.0**tries, 30.0)
    assert whole / 2 <= backoff(uri, tries, limits) <= whole


def test_rows_that_failed_together_come_back_apart() -> None:
    waits = {backoff(f"http://host/{i}.jpg", 0, settings(backoff=1.0)) for i in range(100)}
    assert len(waits) == 100


def test_no_more_than_so_many_requests_a_host(web: Web) -> None:
    def page(handler: object) -> None:
        time.sleep(0.03)
        send(handler, b"picture")

    web.pages |= {f"/{i}": page for i in range(24)}
    shared = fetcher(per_host=3)
    with ThreadPoolExecutor(24) as pool:
        assert set(pool.map(lambda i: shared.read(web.url(f"/{i}")), range(24))) == {b"picture"}
    assert web.most_active == 3
    assert web.connections <= 3  # and they are used again


def test_a_delay_between_requests_to_a_host(web: Web) -> None:
    web.pages |= {f"/{i}": body(b"picture") for i in range(4)}
    shared = fetcher(per_host_delay=0.15)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda i: shared.read(web.url(f"/{i}")), range(4)))
    times = sorted(at for _, at in web.asked)
    assert all(after - before > 0.1 for before, after in pairwise(times))


def test_two_hosts_do_not_wait_for_each_other(web: Web) -> None:
    other = Web()
    try:
        web.pages["/slow"] = silent(web)
        other.pages["/fast"] = body(b"picture")
        shared = fetcher(per_host=1)
        with ThreadPoolExecutor(1) as pool:
            slow = pool.submit(shared.read, web.url("/slow"))
            begun = time.monotonic()
            assert shared.read(f"http://localhost:{other.port}/fast") == b"picture"
            assert time.monotonic() - begun < 0.3
            assert slow.exception() is not None
    finally:
        other.close()


def test_stopping_ends_what_is_under_way_at_once(web: Web) -> None:
    web.pages |= {"/a": silent(web), "/b": status(503, Retry_After="20")}
    shared = fetcher(read_timeout=20, fetch_timeout=20, per_host=2, backoff=20)
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(shared.read, web.url(path)) for path in ("/a", "/b", "/a", "/a")]
        while len(web.asked) < 2:
            time.sleep(0.01)
        time.sleep(0.1)
        begun = time.monotonic()
        shared.stop()
        errors = [future.exception(timeout=5) for future in waiting]
    assert time.monotonic() - begun < 1
    assert [type(error) for error in errors] == [StoppedError] * 4
    with pytest.raises(StoppedError):
        shared.read(web.url("/a"))


@pytest.mark.parametrize(
    "url", ["http://", "http:///a.jpg", "http://[::1/a", "http://host:port/", "https://host:99999/"]
)
def test_what_is_no_url(url: str) -> None:
    assert reason(url) == "bad_url"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("fetch_threads", 0),
        ("per_host", 0),
        ("per_store", 0),
        ("connect_timeout", 0),
        ("retries", -1),
        ("contact", "me\r\nX: y"),
    ],
)
def test_bad_settings_are_refused_by_name(option: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"--{option.replace('_', '-')}"):
        settings(**{option: value})
