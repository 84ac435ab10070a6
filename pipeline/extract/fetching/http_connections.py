"""urllib3 connections that connect to public addresses only and obey time limits.

The checked address is the one that is connected to: each name is resolved only once, so a name server cannot return a
public address for the check and a private one for the connection.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import unicodedata
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

from vilbert.extractors.decode import ImageError
from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.extract.fetching.deadlines import KillSwitch, current_exchange

_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_DOCUMENTATION = ipaddress.ip_network("3fff::/20")
_ISATAP = (b"\x00\x00\x5e\xfe", b"\x02\x00\x5e\xfe")
_PRIVATE_NAMES = frozenset({"localhost", "localdomain", "local", "internal", "intranet", "lan", "home", "corp"})
_PRIVATE_NAMES_OF_TWO = ("home.arpa",)


def is_public(address: str) -> bool:
    """Return whether an IP address is one of the public internet, also where an IPv6 address only wraps one of IPv4.

    Of IPv6 only 2000::/3 is assigned to the public internet. So the translation prefix 64:ff9b:1::/48 (RFC 8215) and
    the old site-local fec0::/10 are not public, which `ipaddress` counts as global.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return is_public(str(ip.ipv4_mapped))
        if ip in _NAT64:
            return is_public(str(ipaddress.IPv4Address(ip.packed[-4:])))
        if ip.sixtofour is not None:
            return is_public(str(ip.sixtofour))
        if ip.teredo is not None:
            return all(is_public(str(inner)) for inner in ip.teredo)
        if ip.packed[8:12] in _ISATAP and not is_public(str(ipaddress.IPv4Address(ip.packed[-4:]))):
            return False
        return ip in _GLOBAL_UNICAST and ip not in _DOCUMENTATION and ip.is_global
    return ip.is_global and not ip.is_multicast


def refuse_private_name(host: str) -> None:
    """Raise ImageError where a URL names a private address by its spelling; for proxies, which look names up.

    Takes the spellings that resolvers take: `127.1`, `2130706433`, `0x7f000001`, `0177.0.0.1`. A name without a dot is
    that of a machine nearby.
    """
    name = unicodedata.normalize("NFKC", unquote(host)).replace("\u3002", ".").strip().strip("[]").rstrip(".").lower()
    address = None
    with contextlib.suppress(ValueError):
        address = str(ipaddress.ip_address(name.partition("%")[0]))
    if address is None:
        with contextlib.suppress(OSError, ValueError):
            address = socket.inet_ntoa(socket.inet_aton(name))
    if address is not None:
        if is_public(address):
            return
        raise ImageError("private_address")
    if "." not in name or name.endswith(_PRIVATE_NAMES_OF_TWO) or name.rpartition(".")[2] in _PRIVATE_NAMES:
        raise ImageError("private_address")
    if name.rpartition(".")[2].startswith("localdomain"):  # localhost6.localdomain6
        raise ImageError("private_address")


def addresses(host: str, port: int, *, public_only: bool) -> list[tuple[Any, ...]]:
    """Return what `socket.getaddrinfo` has for a host; raise ImageError if it has none, or none that is public."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        lasting = (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))
        raise ImageError("dns" if error.errno in lasting else "dns_unavailable") from error
    except UnicodeError:  # a label that is empty or too long
        raise ImageError("dns") from None
    allowed = [entry for entry in found if not public_only or is_public(str(entry[4][0]))]
    if found and not allowed:
        raise ImageError("private_address")
    return allowed


class _EndsInTime(HTTPConnection):
    """Shared behaviour of both kinds of connection."""

    public_only = True
    _switch: KillSwitch | None = None

    def _new_conn(self) -> socket.socket:
        """Connect to the first of the host's addresses that answers."""
        exchange = current_exchange()
        connect_timeout = self.timeout if isinstance(self.timeout, int | float) else 30.0
        port = self.port or self.default_port
        problem: OSError | None = None
        for family, kind, protocol, _, address in addresses(self._dns_host, port, public_only=self.public_only):
            connection = socket.socket(family, kind, protocol)
            try:
                connection.settimeout(min(connect_timeout, exchange.remaining()) if exchange else connect_timeout)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.connect(address)
            except OSError as error:
                problem = error
                connection.close()
                continue
            self._switch = KillSwitch(connection)
            if exchange:
                exchange.attach(self._switch)
            return connection
        if isinstance(problem, TimeoutError):
            raise ConnectTimeoutError(self, "connecting timed out") from problem
        raise NewConnectionError(self, "no connection") from problem

    def request(self, *arguments: Any, **options: Any) -> None:
        """Send a request, within the exchange that this thread is in."""
        exchange = current_exchange()
        if exchange and self._switch:  # a connection that is used again
            exchange.attach(self._switch)
        super().request(*arguments, **options)

    def close(self) -> None:
        """Close the connection. http.client does so before it reads an answer that ends with the connection."""
        super().close()
        if self._switch:
            exchange = current_exchange()
            if exchange:
                exchange.own(self._switch)
            else:
                self._switch.close()
            self._switch = None


class _PublicHTTPConnection(_EndsInTime):
    pass


class _PublicHTTPSConnection(_EndsInTime, HTTPSConnection):
    pass


class _AnyHTTPConnection(_EndsInTime):
    public_only = False


class _AnyHTTPSConnection(_EndsInTime, HTTPSConnection):
    public_only = False


class _PublicHTTPPool(HTTPConnectionPool):
    ConnectionCls = _PublicHTTPConnection


class _PublicHTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _PublicHTTPSConnection


class _AnyHTTPPool(HTTPConnectionPool):
    ConnectionCls = _AnyHTTPConnection


class _AnyHTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _AnyHTTPSConnection


_is_bypassed: Callable[[str, dict[str, str]], bool] = vars(urllib.request)["proxy_bypass_environment"]
"""Of the standard library, which documents `proxy_bypass` alone; that asks the registry where there is one."""
_POOLS = 64
"""Number of hosts with open connections."""


class Connections:
    """Connections to web servers, directly or through the proxies that http_proxy, https_proxy and no_proxy name."""

    def __init__(self, *, per_host: int, allow_private_addresses: bool) -> None:
        self._allow_private = allow_private_addresses
        self._proxies = {
            scheme: proxy if "://" in proxy else f"http://{proxy}"
            for scheme, proxy in urllib.request.getproxies_environment().items()
        }
        any_address = {"http": _AnyHTTPPool, "https": _AnyHTTPSPool}
        self._direct = urllib3.PoolManager(num_pools=_POOLS, maxsize=per_host)
        self._direct.pool_classes_by_scheme = (
            any_address if allow_private_addresses else {"http": _PublicHTTPPool, "https": _PublicHTTPSPool}
        )
        self._proxied: dict[str, urllib3.ProxyManager] = {}
        for scheme in ("http", "https"):
            # A proxy's own address was chosen by who runs this, and may be private.
            if self._proxies.get(scheme, "").startswith("http"):
                manager = urllib3.ProxyManager(self._proxies[scheme], num_pools=_POOLS, maxsize=per_host)
                manager.pool_classes_by_scheme = any_address
                self._proxied[scheme] = manager

    def check_proxies(self) -> None:
        """Raise RefusedError if the environment names a proxy of an unsupported kind."""
        for scheme in ("http", "https"):
            if scheme in self._proxies and scheme not in self._proxied:
                kind, _, rest = self._proxies[scheme].partition("://")
                host = rest.rpartition("@")[2]  # a password may hold any character
                raise RefusedError(
                    f"{scheme}_proxy={kind}://{host}: name an http or https proxy, or unset {scheme}_proxy"
                )

    def manager(self, scheme: str, host: str) -> urllib3.PoolManager:
        """Return the connection manager for a host; raise ImageError if a proxy would be sent to a private one."""
        if scheme not in self._proxied or _is_bypassed(host, self._proxies):
            return self._direct
        if not self._allow_private:
            refuse_private_name(host)
        return self._proxied[scheme]
