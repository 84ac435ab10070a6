"""Refuse requests from pages of other origins and requests through DNS rebinding.

The server listens on a loopback address; a browser on this machine still opens pages from anywhere, and these may send
requests here. So the name in Host must be one of this machine (no DNS rebinding), and a request that says where it
comes from must come from these pages.
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOSTS = ("127.0.0.1", "localhost", "[::1]")
POLICY = (
    "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; connect-src 'self'; form-action 'self'; "
    "frame-src 'self'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}
"""Headers of each response, unless it sets them itself."""


def refusal(method: str, headers: Mapping[str, str]) -> tuple[int, str] | None:
    """Return the status and the reason with which a request is refused; None for one of our own pages."""
    if method not in ("GET", "HEAD"):
        return 405, "only GET and HEAD"
    host = headers.get("host", "")
    name, _, _ = host.rpartition(":") if host.rpartition(":")[2].isdecimal() else (host, "", "")
    if name.lower() not in HOSTS:
        return 421, "the Host header names another machine; open the address that `vilbert browse` printed"
    origin = headers.get("origin")
    if origin is not None and origin.lower() != f"http://{host.lower()}":
        return 403, "the request comes from a page of another origin"
    if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        return 403, "the request comes from a page of another site; open the address that `vilbert browse` printed"
    return None


class OnlyOwnPages:
    """ASGI middleware: refuses requests of others, and adds the headers that bind a page to this server."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return

        async def send_bound(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refused = refusal(scope["method"], Headers(scope=scope))
        app = self._app if refused is None else PlainTextResponse(f"{refused[1]}\n", refused[0])
        await app(scope, receive, send_bound)
