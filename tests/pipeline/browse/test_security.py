"""The server answers its own pages only, with data sets and their images only."""

from __future__ import annotations

import io
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image
from starlette.testclient import TestClient

from vilbert.pipeline.browse.command import listen
from vilbert.pipeline.browse.site import Site

from ..shards.conftest import write_small_dataset
from .conftest import HOSTILE, Browse, hostile_dataset

ClientOf = Callable[[Site], TestClient]


@pytest.fixture
def client(tmp_path: Path, browse: Browse, client_of: ClientOf) -> TestClient:
    return client_of(browse(write_small_dataset(tmp_path).directory))


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost:1234", "[::1]:8000", "LOCALHOST"])
def test_names_of_this_machine_are_answered(host: str, client: TestClient) -> None:
    assert client.get("/0/", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["attacker.example", "127.0.0.1.attacker.example:8000", "192.168.0.7:8000", "localhost.evil:80", "", "::1"]
)
def test_another_host_is_refused(host: str, client: TestClient) -> None:
    response = client.get("/0/", headers={"Host": host})
    assert response.status_code == 421
    assert "photo" not in response.text


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://attacker.example"}, {"Origin": "null"}, {"Origin": "http://127.0.0.1:9999"},
        {"Origin": "https://127.0.0.1:8000"}, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"},
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/0/", "/0/image/0", "/static/browse.js", "/0/names"])
def test_a_page_of_another_origin_gets_nothing(path: str, headers: dict[str, str], client: TestClient) -> None:
    response = client.get(path, headers=headers)
    assert response.status_code == 403
    assert len(response.content) < 120


def test_a_page_of_ours_is_answered(client: TestClient) -> None:
    headers = {"Origin": "http://127.0.0.1:8000", "Sec-Fetch-Site": "same-origin"}
    assert client.get("/0/", headers=headers).status_code == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
def test_nothing_is_changed(method: str, client: TestClient) -> None:
    assert client.request(method, "/0/").status_code == 405


@pytest.mark.parametrize(
    "path",
    [
        *("/static/../templates/grid.html", "/static/..%2ftemplates%2fgrid.html", "/static//etc/passwd"),
        *("/static/%2fetc%2fpasswd", "/etc/passwd", "/../../etc/passwd", "/0/../../etc/passwd"),
        *("/0/sample/..%2f..%2fetc%2fpasswd", "/0/image/..%2f1", "/0/image//etc/passwd", "/0/sample/%2fetc%2fpasswd"),
        *("/0/dataset.json", "/0/shards/000000.tar", "/0/.browse/index.sqlite", "/7/", "/-1/", "/0/image/9999999"),
        *("/0/image/99999999999999999999999999", "/0/failure/3", "/0/failure/99999999999999999999/image"),
        *("/0/crop/0/999", "/0/similar/photo_000/1"),
    ],
)
def test_nothing_else_is_served(path: str, client: TestClient) -> None:
    response = client.get(path)
    assert response.status_code == 404
    assert "root:" not in response.text


@pytest.mark.parametrize("path", ["/0/", "/0/sample/photo_000-1", "/static/style.css", "/0/image/0", "/nothing"])
def test_each_answer_binds_the_page_to_this_server(path: str, client: TestClient) -> None:
    headers = client.get(path).headers
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert {policy[name] for name in ("script-src", "style-src", "img-src", "connect-src", "form-action")} == {"'self'"}
    assert policy["frame-ancestors"] == "'none'"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "access-control-allow-origin" not in headers


def test_only_the_loopback_address_is_listened_to() -> None:
    with listen(0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"


class Elements(HTMLParser):
    """The elements of a page with their attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@pytest.mark.parametrize(
    "path",
    [
        *("/0/", f"/0/?caption=photograph&split={HOSTILE[0]}", f"/0/?object={HOSTILE[1]}"),
        *("/0/statistics", "/0/failures", "/0/failure/6", *(f"/0/sample/{{{number}}}" for number in range(9))),
    ],
)
def test_hostile_texts_stay_texts(path: str, tmp_path: Path, browse: Browse, client_of: ClientOf) -> None:
    site = browse(hostile_dataset(tmp_path).directory)
    index = site.datasets[0].index
    keys = [index.at([number])[0].key for number in range(index.samples)]
    response = client_of(site).get(path.format(*keys) if "{" in path else path)
    assert response.status_code == 200
    for tag, attributes in Elements(response.text).found:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], tag
        if tag == "script":
            assert attributes["src"] == "/static/browse.js"
        for name in ("href", "src", "action"):
            target = attributes.get(name)
            assert target is None or target.startswith(("/", "?", "#")), attributes
            assert target is None or not target.startswith("//"), attributes
    assert "49" not in [text.strip() for text in response.text.split(">")]  # 7 * 7 was not calculated


def test_a_record_that_names_a_file_of_this_machine_shows_nothing_of_it(
    tmp_path: Path, browse: Browse, client_of: ClientOf
) -> None:
    client = client_of(browse(hostile_dataset(tmp_path).directory))
    response = client.get("/0/image/4")
    assert response.status_code == 404
    assert "root" not in response.text
    assert "/etc/passwd" in response.text


def test_images_are_made_anew(tmp_path: Path, browse: Browse, client_of: ClientOf) -> None:
    made = write_small_dataset(tmp_path, failed={})
    client = client_of(browse(made.directory))
    response = client.get("/0/image/1?side=160")
    assert response.headers["content-type"] == "image/jpeg"
    image = Image.open(io.BytesIO(response.content))
    assert (image.format, image.size) == ("JPEG", (120, 90))
    assert client.get("/0/image/1?side=99999").status_code == 400
