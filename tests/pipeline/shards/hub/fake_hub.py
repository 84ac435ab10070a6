"""A server that answers as the Hugging Face Hub does to uploads: repositories, branches, LFS objects, commits.

It keeps everything in memory. `HF_ENDPOINT` or `constants.ENDPOINT` names it. huggingface_hub uploads by the Xet
protocol where hf_xet is installed, and by the LFS protocol with HF_HUB_DISABLE_XET. Of a file that arrives by Xet the
server keeps size and SHA-256: its content is spread over compressed blocks.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

LFS = (".tar", ".parquet", ".sqlite", ".lmdb")
TOKEN = "hf_" + "s3cret" * 5
XET_TOKEN = "xet-token"


class XetFile(bytes):
    """A file that arrived by Xet, of which the content is not known."""

    length: int
    sha256: str


class FakeHub:
    """The state of the server."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, Any]] = {}
        """By id: `private` and `branches`, a dict of names and contents by branch."""
        self.objects: dict[str, bytes] = {}
        """LFS objects by SHA-256."""
        self.puts: list[str] = []
        """SHA-256 of each LFS object that arrived, in order."""
        self.xet_blocks: list[int] = []
        """Bytes of each block that arrived by Xet, in order."""
        self.xet_files = b""
        """What Xet clients said of the files that the blocks make up."""
        self.commits: list[list[str]] = []
        """Names of the files of each commit, in order."""
        self.deny: dict[str, tuple[int, str]] = {}
        """Status and text to answer with, by the last part of a request's path."""
        self.put_gate: threading.Event | None = None
        """Where set, uploads after the first wait for it and are lost."""
        self.waiting = threading.Event()
        """Set when an upload waits."""
        self.endpoint = ""

    def files(self, repo_id: str, branch: str = "main") -> dict[str, bytes]:
        """Return the content of the files of a branch by name, .gitattributes left out."""
        files = dict(self.repositories[repo_id]["branches"][branch])
        del files[".gitattributes"]
        return files

    def add(self, repo_id: str, *, private: bool = False, **files: bytes) -> None:
        """Make a repository."""
        branches = {"main": {".gitattributes": b"*.tar filter=lfs\n", **files}}
        self.repositories[repo_id] = {"private": private, "branches": branches}


@contextmanager
def serve() -> Iterator[FakeHub]:
    """Run the server in a thread."""
    hub = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def do_PUT(self) -> None:
        self._answer("PUT")

    def _answer(self, method: str) -> None:
        body = self._body()
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        try:
            self._route(method, parts, body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the client was killed

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _route(self, method: str, parts: list[str], body: bytes) -> None:
        hub = self.hub
        if method == "PUT":
            return self._put(parts[-1], body)
        if parts[0] == "cas":
            return self._content_store(method, parts, body)
        if parts == ["v1", "telemetry"]:
            return self._send({})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._fail(401, "Invalid username or password.")
        for denied, answer in hub.deny.items():
            if denied in parts:
                return self._fail(*answer)
        match parts:
            case ["api", "repos", "create"]:
                asked = json.loads(body)
                private = asked.get("visibility") == "private" or bool(asked.get("private"))
                repo_id = f"{asked['organization']}/{asked['name']}"
                hub.add(repo_id, private=private)
                return self._send({"url": f"{hub.endpoint}/datasets/{repo_id}"})
            case ["api", "validate-yaml"]:
                return self._send({"errors": [], "warnings": []})
            case ["datasets", _, _, "info", "lfs", "objects", "batch"]:
                return self._send({"transfer": "basic", "objects": [*map(self._batch, json.loads(body)["objects"])]})
            case ["api", "datasets", owner, name, *rest] if f"{owner}/{name}" in hub.repositories:
                return self._repository(f"{owner}/{name}", rest, body)
        return self._fail(404, "Repository not found", code="RepoNotFound")

    def _repository(self, repo_id: str, rest: list[str], body: bytes) -> None:
        found = self.hub.repositories[repo_id]
        branches = found["branches"]
        match rest:
            case []:
                return self._send({"id": repo_id, "private": found["private"], "sha": "0" * 40, "siblings": []})
            case ["xet-write-token", branch] if branch in branches:
                address = f"{self.hub.endpoint}/cas"
                document = {"casUrl": address, "accessToken": XET_TOKEN, "exp": int(time.time()) + 3600}
                names = {"X_Xet_Cas_Url": address, "X_Xet_Access_Token": XET_TOKEN}
                return self._send(document, **names, X_Xet_Token_Expiration=str(document["exp"]))
            case ["branch", branch]:
                if branch in branches:
                    return self._fail(409, "Reference already exists")
                branches[branch] = dict(branches["main"])
                return self._send({})
            case ["tree", branch, *_] if branch in branches:
                return self._send([_entry(name, data) for name, data in branches[branch].items()])
            case ["preupload", branch] if branch in branches:
                return self._send({"files": [_mode(it["path"], branches[branch]) for it in json.loads(body)["files"]]})
            case ["commit", branch] if branch in branches:
                self._commit(branches[branch], body)
                url = f"{self.hub.endpoint}/datasets/{repo_id}/commit/{len(self.hub.commits):040}"
                return self._send({"commitUrl": url, "commitOid": f"{len(self.hub.commits):040}", "pullRequestUrl": ""})
        return self._fail(404, "Revision not found", code="RevisionNotFound")

    def _content_store(self, method: str, parts: list[str], body: bytes) -> None:
        """Answer as the server of Xet's blocks does, of its first version: clients fall back to that."""
        if self.headers.get("Authorization") != f"Bearer {XET_TOKEN}":
            return self._fail(401, "not the token of the content store")
        match method, parts[1:]:
            case "POST", ["v1", "xorbs", "default", _]:
                self.hub.xet_blocks.append(len(body))
                return self._send({"was_inserted": True})
            case "POST", ["v1", "shards"]:
                self.hub.xet_files += body
                return self._send({"result": 1})
        return self._fail(404, "not found")

    def _batch(self, asked: dict[str, Any]) -> dict[str, Any]:
        answer = {"oid": asked["oid"], "size": asked["size"]}
        if asked["oid"] in self.hub.objects:
            return answer
        return {**answer, "actions": {"upload": {"href": f"{self.hub.endpoint}/objects/{asked['oid']}"}}}

    def _put(self, oid: str, body: bytes) -> None:
        hub = self.hub
        if hub.put_gate is not None and hub.puts:
            hub.waiting.set()
            hub.put_gate.wait(60)
            self.close_connection = True
            return None
        if hashlib.sha256(body).hexdigest() != oid:
            return self._fail(400, "another SHA-256")
        hub.objects[oid] = body
        hub.puts.append(oid)
        return self._send({})

    def _commit(self, files: dict[str, bytes], body: bytes) -> None:
        names = []
        for line in body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects.get(value["oid"]) or self._xet_file(value)
            elif item["key"] == "deletedFile":
                del files[value["path"]]
            if "path" in value:
                names.append(value["path"])
        self.hub.commits.append(names)

    def _xet_file(self, value: dict[str, Any]) -> XetFile:
        """Return a file of a commit that has arrived by Xet; its SHA-256 stands there as four little-endian numbers."""
        digest = bytes.fromhex(value["oid"])
        assert b"".join(digest[at : at + 8][::-1] for at in range(0, 32, 8)) in self.hub.xet_files
        found = XetFile()
        found.length, found.sha256 = value["size"], value["oid"]
        return found

    def _send(self, document: Any, status: int = 200, **headers: str) -> None:
        data = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def _fail(self, status: int, text: str, *, code: str = "") -> None:
        self._send({"error": text}, status, **({"X_Error_Code": code} if code else {}), X_Error_Message=text)


def _is_lfs(name: str) -> bool:
    return name.endswith(LFS)


def git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def size_of(data: bytes) -> int:
    return data.length if isinstance(data, XetFile) else len(data)


def sha256_of(data: bytes) -> str:
    return data.sha256 if isinstance(data, XetFile) else hashlib.sha256(data).hexdigest()


def _entry(name: str, data: bytes) -> dict[str, Any]:
    entry = {"type": "file", "path": name, "size": size_of(data), "oid": git_oid(data)}
    if _is_lfs(name):
        entry["lfs"] = {"size": size_of(data), "oid": sha256_of(data), "pointerSize": 100}
    return entry


def _mode(name: str, files: dict[str, bytes]) -> dict[str, Any]:
    data = files.get(name)
    oid = None if data is None else sha256_of(data) if _is_lfs(name) else git_oid(data)
    return {"path": name, "uploadMode": "lfs" if _is_lfs(name) else "regular", "shouldIgnore": False, "oid": oid}
