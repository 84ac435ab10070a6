"""A manifest from elsewhere must not make this machine talk to its own network; names, proxies and TLS."""

import datetime
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vilbert.extractors.decode import ImageError
from vilbert.manifests.uri import ImageReader
from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.extract.fetching.fetcher import Fetcher
from vilbert.pipeline.extract.fetching.http_connections import is_public
from vilbert.pipeline.extract.fetching.settings import FetchSettings

from .web import Web, body, redirect

PUBLIC = "93.184.216.34"


def fetcher(*, private: bool = False) -> Fetcher:
    limits = FetchSettings(
        connect_timeout=0.5, read_timeout=0.5, fetch_timeout=1, retries=0, allow_private_addresses=private
    )
    return Fetcher(limits, ImageReader(), max_bytes=1000)


def reason(url: str, *, private: bool = False) -> str:
    with pytest.raises(ImageError) as error:
        fetcher(private=private).read(url)
    return error.value.reason


@pytest.fixture
def web() -> Iterator[Web]:
    server = Web()
    server.pages["/a"] = body(b"secret")
    yield server
    server.close()


@pytest.fixture
def names(web: Web, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Names of hosts and the address that each look-up gives, one after the other; PUBLIC is the server's too."""
    table: dict[str, list[str]] = {}
    look_up = socket.getaddrinfo

    def getaddrinfo(host: str, port: int, *arguments: Any, **options: Any) -> list[Any]:
        if host not in table:
            return look_up(host, port, *arguments, **options)
        address = table[host].pop(0)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    class Socket(socket.socket):
        def connect(self, address: Any) -> None:
            super().connect(("127.0.0.1", web.port) if address[0] == PUBLIC else address)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr("vilbert.pipeline.extract.fetching.http_connections.socket.socket", Socket)
    return table


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "0x7f000001", "127.1"],
)
def test_loopback_is_refused_however_it_is_written(web: Web, host: str) -> None:
    assert reason(f"http://{host}:{web.port}/a") == "private_address"
    assert web.connections == 0


@pytest.mark.parametrize(
    "host", ["10.0.0.1", "192.168.1.1", "172.16.0.1", "169.254.169.254", "100.64.0.1", "[fe80::1]", "[fd00::1]"]
)
def test_private_networks_are_refused(host: str) -> None:
    begun = time.monotonic()
    assert reason(f"http://{host}/latest/meta-data") == "private_address"
    assert time.monotonic() - begun < 0.3  # nothing was connected to


@pytest.mark.parametrize(
    "address",
    [
        "fec0::1", "64:ff9b:1::a00:1", "64:ff9b:1:abcd::1", "64:ff9b::7f00:1", "::7f00:1", "::ffff:0:7f00:1",
        "::", "::1", "fe80::1%eth0", "fc00::1", "ff02::1", "2001:db8::1", "3fff::1", "5f00::1", "100::1",
        "2001:0:7f00:1::", "2001:4860:0:0:0:5efe:a00:1", "2002:7f00:1::",
    ],
)  # fmt: skip
def test_ranges_of_ipv6_that_are_not_of_the_public_internet(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["2606:2800:220:1:248:1893:25c8:1946", "2001:4860:4860::8888", "64:ff9b::808:808"])
def test_public_ipv6_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "host",
    [
        "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7F.0.0.1", "0177.0.0.1", "017700000001", "10.1", "0",
        "127.0.0.1.", "LOCALHOST", "localhost.", "localhost.localdomain", "localhost6.localdomain6", "a.localhost",
        "ip6-localhost", "ip6-loopback", "printer", "metadata.google.internal", "router.home.arpa", "nas.lan",
        "[::ffff:7f00:1]", "[::ffff:127.0.0.1]", "[fec0::1]", "[64:ff9b:1::1]", "[::7f00:1]", "[fe80::1%25eth0]",
        "\uff11\uff12\uff17.0.0.1", "127\u30020\u30020\u30021", "\u2460\u2461\u2466.0.0.1", "%31%32%37.0.0.1",
        "user:word@127.1", "images.example@127.1",
    ],
)  # fmt: skip
def test_no_spelling_of_a_private_address_reaches_a_proxy(web: Web, monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{web.port}")
    monkeypatch.setenv("no_proxy", "")
    assert reason(f"http://{host}/a") in ("private_address", "bad_url")
    assert web.connections == 0


def test_public_names_and_addresses_reach_a_proxy(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{web.port}")
    monkeypatch.setenv("no_proxy", "")
    for host in ("images.example", "local.example", "8.8.8.8", "0x08080808", "localhost.example", "127.example"):
        web.pages[f"http://{host}/a"] = body(b"by proxy")
        assert fetcher().read(f"http://{host}/a") == b"by proxy"


def test_they_may_be_allowed(web: Web) -> None:
    assert fetcher(private=True).read(web.url("/a")) == b"secret"


@given(st.integers(0, 2**32 - 1))
def test_wrapping_an_address_of_ipv4_hides_nothing(number: int) -> None:
    inner = ipaddress.IPv4Address(number)
    wrapped = [
        f"::ffff:{inner}",
        str(ipaddress.IPv6Address((0x2002 << 112) | (number << 80))),
        str(ipaddress.IPv6Address((0x64FF9B << 96) | number)),
    ]
    assert is_public(str(inner)) == (inner.is_global and not inner.is_multicast)
    assert {is_public(address) for address in wrapped} == {is_public(str(inner))}


def test_a_name_with_a_private_address_is_refused(web: Web, names: dict[str, list[str]]) -> None:
    names["images.example"] = ["127.0.0.1"]
    assert reason(f"http://images.example:{web.port}/a") == "private_address"
    assert web.connections == 0


def test_a_redirect_to_a_private_address_is_refused(web: Web, names: dict[str, list[str]]) -> None:
    names |= {"images.example": [PUBLIC] * 2, "inside.example": ["127.0.0.1"]}
    web.pages |= {"/1": redirect(f"http://127.0.0.1:{web.port}/a"), "/2": redirect("http://inside.example/a")}
    assert reason("http://images.example/1") == "private_address"
    assert reason("http://images.example/2") == "private_address"
    assert [path for path, _ in web.asked] == ["/1", "/2"]


def test_the_address_that_is_checked_is_the_one_connected_to(web: Web, names: dict[str, list[str]]) -> None:
    """A name server that answers first with a public address, then with a private one, gains nothing."""
    names["rebind.example"] = [PUBLIC, "127.0.0.1"]
    assert fetcher().read("http://rebind.example/a") == b"secret"
    assert names["rebind.example"] == ["127.0.0.1"]  # there was one look-up, and the first answer was used


@pytest.mark.parametrize(("code", "expected"), [(socket.EAI_NONAME, "dns"), (socket.EAI_AGAIN, "dns_unavailable")])
def test_a_name_that_is_not_found(monkeypatch: pytest.MonkeyPatch, code: int, expected: str) -> None:
    def getaddrinfo(*_: object, **__: object) -> None:
        raise socket.gaierror(code, "no")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert reason("http://images.example/a") == expected


def test_a_label_that_is_too_long_for_a_name() -> None:
    assert reason(f"http://{'a' * 70}.example/a") in ("dns", "bad_url")


def test_a_port_where_nobody_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert reason(f"http://127.0.0.1:{port}/a", private=True) == "connection"


def test_a_proxy_is_used_but_not_towards_private_addresses(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{web.port}")
    monkeypatch.setenv("no_proxy", "direct.example")
    web.pages["http://images.example/a"] = body(b"by proxy")
    assert fetcher().read("http://images.example/a") == b"by proxy"
    for host in ("127.0.0.1", "localhost", "[::1]", "metadata.google.internal"):
        assert reason(f"http://{host}/a") == "private_address"
    assert len(web.asked) == 1


@pytest.mark.parametrize("password", ["word", "w@rd", "w/rd", "w#rd?", "[w"])
def test_a_proxy_of_another_kind_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch, password: str) -> None:
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, f"socks5://me:{password}@127.0.0.1:9")
    with pytest.raises(RefusedError, match=r"_proxy=socks5://127\.0\.0\.1:9: name an http"):
        fetcher().check(["https://images.example/a.jpg"])
    fetcher().check(["images/a.jpg"])


def test_a_server_that_speaks_no_tls(web: Web) -> None:
    assert reason(f"https://127.0.0.1:{web.port}/a", private=True) == "tls"


def test_a_certificate_of_nobody_known(tmp_path: Path) -> None:
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(days=1))
    pem = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    pem += key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "server.pem").write_bytes(pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")
    web = Web()
    try:
        web.server.socket = context.wrap_socket(web.server.socket, server_side=True)
        assert reason(f"https://localhost:{web.port}/a", private=True) == "tls"
    finally:
        web.close()


def test_a_handshake_that_drips_ends_in_time() -> None:
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"\x16\x03\x03\x40\x00")  # a TLS record of 16 kB begins
                while not over.wait(0.1):
                    try:
                        connection.sendall(b"\x02")
                    except OSError:
                        return

        threading.Thread(target=drip, daemon=True).start()
        begun = time.monotonic()
        assert reason(f"https://127.0.0.1:{server.getsockname()[1]}/a", private=True) == "timeout"
        assert time.monotonic() - begun < 1.5
        over.set()
