"""The settings of fetching images from behind URLs. None of them changes a sample, so none is in the fingerprint."""

from __future__ import annotations

import re
from dataclasses import dataclass

from vilbert.extractors.byte_size import ByteSize
from vilbert.pipeline import __version__


@dataclass(frozen=True, kw_only=True)
class FetchSettings:
    """How images behind URLs are fetched. Each number is for one worker."""

    fetch_threads: int = 128
    """Images asked for at a time, of each of the two shards that a worker has."""
    fetch_ahead: int = 1024
    """Rows of a shard that are fetched before the detector needs them, at most."""
    fetch_memory: ByteSize = 256 * 1024 * 1024
    """Bytes of fetched images held for a shard; one larger image alone is let through."""
    connect_timeout: float = 5.0
    """Seconds for a connection to be made."""
    read_timeout: float = 10.0
    """Seconds a server may be silent."""
    fetch_timeout: float = 30.0
    """Seconds for one try at an image as a whole, redirects included."""
    retries: int = 2
    """Further tries where the server is busy or the connection breaks."""
    backoff: float = 1.0
    """Seconds before the first further try, about; twice as long before each next one."""
    max_backoff: float = 30.0
    """Longest wait before a further try. A server that asks for more (Retry-After) is not asked again in this run."""
    per_host: int = 8
    """Requests to one host at a time."""
    per_store: int = 64
    """Requests to one bucket of an object store (s3://, gs://, ...) at a time; it is made for more than a host."""
    per_host_delay: float = 0.0
    """Seconds between the beginnings of two requests to one host."""
    max_redirects: int = 5
    """Redirects followed for one image."""
    contact: str = ""
    """A mail address or page for the User-Agent, so that server operators can contact you."""
    allow_private_addresses: bool = False
    """Fetch from hosts with private, loopback or link-local addresses too."""

    def __post_init__(self) -> None:
        for name in ("fetch_threads", "fetch_ahead", "fetch_memory", "per_host", "per_store"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} {getattr(self, name)}: give at least 1")
        for name in ("connect_timeout", "read_timeout", "fetch_timeout"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"--{name.replace('_', '-')} {getattr(self, name)}: give seconds, more than 0")
        for name in ("retries", "backoff", "max_backoff", "per_host_delay", "max_redirects"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"--{name.replace('_', '-')} {getattr(self, name)}: give 0 or more")
        if not re.fullmatch(r"[\x20-\x7e]*", self.contact):
            raise ValueError(f"--contact {self.contact!r}: give a mail address or a page, in ASCII")

    @property
    def user_agent(self) -> str:
        """What the servers are told of us."""
        return f"vilbert-pipeline/{__version__} (region features of images{self.contact and f'; {self.contact}'})"
