"""URLs of data sets: recognise them, remove credentials, and open their file systems."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from vilbert.pipeline.errors import RefusedError


def is_remote(name: str) -> bool:
    """Return whether `name` is a URL of a remote location; raise RefusedError for a `pipe:` URL."""
    if name.startswith("pipe:"):
        raise RefusedError(f"{name}: commands are not run: give a folder, or a URL such as s3://… or https://…")
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", name) is not None and not name.startswith("file://")


def public_url(url: str) -> str:
    """Return the URL without user, password and query, which can contain credentials."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def join(url: str, *names: str) -> str:
    """Return the URL of a file below the folder `url`."""
    return "/".join([url.rstrip("/"), *names])


def open_file_system(url: str, **options: Any) -> tuple[Any, str]:
    """Return fsspec's file system for a URL and the path in it.

    Raises:
        RefusedError: fsspec has no file system for the URL.
    """
    import fsspec

    try:
        file_system, path = fsspec.core.url_to_fs(url, **options)
    except (ValueError, ImportError) as error:
        raise RefusedError(f"{public_url(url)}: fsspec cannot open it: {error}") from error
    return file_system, path
