"""The settings of fetching images from behind URLs. None of them changes a sample, so none is in the fingerprint."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge
from pydantic import AfterValidator

from vilbert.extractors.byte_size import ByteSize
from vilbert.pipeline import __version__
from vilbert.settings import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, validated


def _printable_ascii(text: str) -> str:
    if not (text.isascii() and (text.isprintable() or not text)):
        raise ValueError("give a mail address or a page, in ASCII")
    return text


@validated
class FetchSettings:
    """How images behind URLs are fetched. Each number is for one worker."""

    fetch_threads: PositiveInt = 128
    """Images asked for at a time, of each of the two shards that a worker has."""
    fetch_ahead: PositiveInt = 1024
    """Rows of a shard that are fetched before the detector needs them, at most."""
    fetch_memory: Annotated[ByteSize, Ge(1)] = 256 * 1024 * 1024
    """Bytes of fetched images held for a shard; one larger image alone is let through."""
    connect_timeout: PositiveFloat = 5.0
    """Seconds for a connection to be made."""
    read_timeout: PositiveFloat = 10.0
    """Seconds a server may be silent."""
    fetch_timeout: PositiveFloat = 30.0
    """Seconds for one try at an image as a whole, redirects included."""
    retries: NonNegativeInt = 2
    """Further tries where the server is busy or the connection breaks."""
    backoff: NonNegativeFloat = 1.0
    """Seconds before the first further try, about; twice as long before each next one."""
    max_backoff: NonNegativeFloat = 30.0
    """Longest wait before a further try. A server that asks for more (Retry-After) is not asked again in this run."""
    per_host: PositiveInt = 8
    """Requests to one host at a time."""
    per_store: PositiveInt = 64
    """Requests to one bucket of an object store (s3://, gs://, ...) at a time; it is made for more than a host."""
    per_host_delay: NonNegativeFloat = 0.0
    """Seconds between the beginnings of two requests to one host."""
    max_redirects: NonNegativeInt = 5
    """Redirects followed for one image."""
    contact: Annotated[str, AfterValidator(_printable_ascii)] = ""
    """A mail address or page for the User-Agent, so that server operators can contact you."""
    allow_private_addresses: bool = False
    """Fetch from hosts with private, loopback or link-local addresses too."""

    @property
    def user_agent(self) -> str:
        """What the servers are told of us."""
        return f"vilbert-pipeline/{__version__} (region features of images{self.contact and f'; {self.contact}'})"
