"""A real S3 server in its own process, and a proxy before it that fails as networks do."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from vilbert.pipeline.shards.location import retry


@dataclass
class Fault:
    """What becomes of requests of one kind."""

    method: str
    part: str
    """Of the path with its query."""
    times: int
    how: str
    """error: 500 after the body. cut: the line goes dead within the body. stall: no answer."""
    met: threading.Event = field(default_factory=threading.Event)


class Proxy:
    """Passes requests on to the server, notes them, and fails where it is told to."""

    def __init__(self, port: int) -> None:
        self.requests: list[tuple[str, str]] = []
        self.faults: list[Fault] = []
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                proxy.requests.append((self.command, self.path))
                fault = proxy.take_fault(self.command, self.path)
                length = int(self.headers.get("Content-Length") or 0)
                if fault is not None and fault.how == "cut":
                    self.rfile.read(length // 2)
                    fault.met.set()
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True
                    return
                if self.headers.get("Expect"):
                    self.send_response_only(100)
                    self.end_headers()
                body = self.rfile.read(length)
                if fault is not None:
                    fault.met.set()
                    if fault.how == "stall":
                        time.sleep(30)
                    self.answer(500, {}, b"<Error><Code>InternalError</Code><Message>injected</Message></Error>")
                    return
                upstream = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
                headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
                upstream.request(self.command, self.path, body, headers)
                reply = upstream.getresponse()
                self.answer(reply.status, dict(reply.getheaders()), reply.read())
                upstream.close()

            def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
                self.send_response(status)
                length = str(len(body))
                for name, value in headers.items():
                    if name.lower() == "content-length":
                        length = value if self.command == "HEAD" else length
                    elif name.lower() not in ("transfer-encoding", "connection", "server", "date"):
                        self.send_header(name, value)
                self.send_header("Content-Length", length)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        for method in ("GET", "PUT", "POST", "HEAD", "DELETE"):
            setattr(Handler, f"do_{method}", Handler.handle_any)

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # a client that was killed

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def take_fault(self, method: str, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.times and fault.method == method and fault.part in path:
                fault.times -= 1
                return fault
        return None

    def fail(self, method: str, part: str, times: int, how: str) -> Fault:
        self.faults.append(Fault(method, part, times, how))
        return self.faults[-1]

    def count(self, method: str, part: str) -> int:
        return sum(called == method and part in path for called, path in self.requests)

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture(scope="session")
def s3_port() -> Iterator[int]:
    """A process that serves S3 on loopback; its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", "from moto.server import main; main()", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.1)
        yield port
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def proxy(s3_port: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Proxy]:
    """The way to the server, and the environment that leads there."""
    import s3fs

    proxy = Proxy(s3_port)
    settings = {
        "AWS_ACCESS_KEY_ID": "me",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": proxy.url,
        "AWS_MAX_ATTEMPTS": "1",  # the client's own repetitions would hide ours, and take long
        "TMPDIR": str(tmp_path),
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(retry, "FIRST_WAIT_SECONDS", 0.01)
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    s3fs.S3FileSystem.clear_instance_cache()
    yield proxy
    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.setattr("tempfile.tempdir", None)
    proxy.stop()


@pytest.fixture
def bucket(proxy: Proxy, request: pytest.FixtureRequest) -> str:
    """The URL of a new bucket."""
    import s3fs

    name = f"b{abs(hash(request.node.name))}"
    s3fs.S3FileSystem().mkdir(name)
    return f"s3://{name}"


def objects(url: str) -> dict[str, bytes]:
    """Return every object of a data set but its lease and what tells of runs, by name."""
    import s3fs

    files = s3fs.S3FileSystem(use_listings_cache=False)
    root = url.removeprefix("s3://")
    found = {name.removeprefix(f"{root}/"): files.cat_file(name) for name in files.find(root)}
    return {name: content for name, content in found.items() if not name.startswith((".lease/", ".run."))}
