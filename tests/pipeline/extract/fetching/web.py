"""A web server on loopback that behaves as badly as it is told to, and counts what it is asked."""

import contextlib
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Page = Callable[[Any], None]


class Web:
    """Pages by path; each is a function that is given the request's handler."""

    def __init__(self) -> None:
        self.pages: dict[str, Page] = {}
        self.asked: list[tuple[str, float]] = []
        self.headers: list[dict[str, str]] = []
        self.connections = 0
        self.active = 0
        self.most_active = 0
        self.over = threading.Event()
        self.lock = threading.Lock()
        web = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                with web.lock:
                    web.connections += 1

            def do_GET(self) -> None:
                with web.lock:
                    web.asked.append((self.path, time.monotonic()))
                    web.headers.append(dict(self.headers))
                    web.active += 1
                    web.most_active = max(web.most_active, web.active)
                try:
                    with contextlib.suppress(OSError):
                        web.pages.get(self.path, status(404))(self)
                finally:
                    with web.lock:
                        web.active -= 1

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *_: object) -> None:
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def url(self, path: str) -> str:
        """Return the URL of a page."""
        return f"http://127.0.0.1:{self.port}{path}"

    def count(self, path: str) -> int:
        """Return how often a page was asked for."""
        return Counter(name for name, _ in self.asked)[path]

    def close(self) -> None:
        """End the server and every page at work."""
        self.over.set()
        self.server.shutdown()
        self.server.server_close()


def send(handler: Any, body: bytes, code: int = 200, **headers: str) -> None:
    """Send a whole answer."""
    handler.send_response(code)
    for name, value in {"Content_Length": str(len(body)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def body(content: bytes, **headers: str) -> Page:
    """A page that has this content."""
    return lambda handler: send(handler, content, **headers)


def status(code: int, **headers: str) -> Page:
    """A page that answers with this status."""
    return lambda handler: send(handler, b"no", code, **headers)


def redirect(target: str, code: int = 302) -> Page:
    """A page that is elsewhere."""
    return lambda handler: send(handler, b"", code, Location=target)


def raw(web: Web, chunks: Callable[[], Iterator[bytes]], pause: float = 0.0) -> Page:
    """A page that writes these bytes onto the connection, header and all, then closes it."""

    def write(handler: Any) -> None:
        handler.close_connection = True
        for chunk in chunks():
            handler.wfile.write(chunk)
            handler.wfile.flush()
            if pause and web.over.wait(pause):
                return

    return write


def silent(web: Web) -> Page:
    """A page that never answers."""
    return lambda handler: web.over.wait(20) and None


def failing(times: int, fail: Page, then: Page) -> Page:
    """A page that fails so many times before it is there."""
    left = iter([fail] * times)
    return lambda handler: next(left, then)(handler)


def drop(handler: Any) -> None:
    """Close the connection instead of an answer."""
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)
