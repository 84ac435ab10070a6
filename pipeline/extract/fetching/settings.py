"""Settings of fetching images by URL. They do not affect samples, so the fingerprint does not contain them."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge

from vilbert.extractors.byte_size import ByteSize
from vilbert.pipeline import __version__
from vilbert.settings import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Validator, validated


def _printable_ascii(text: str) -> str:
    if not (text.isascii() and (text.isprintable() or not text)):
        raise ValueError("give an email address or a URL, in ASCII")
    return text


@validated
class FetchSettings:
    """Downloading of images. All numbers are per worker."""

    fetch_threads: PositiveInt = 128
    """Concurrent requests for each of the two shards of a worker."""
    fetch_ahead: PositiveInt = 1024
    """Maximum number of rows of a shard to prefetch."""
    fetch_memory: Annotated[ByteSize, Ge(1)] = 256 * 1024 * 1024
    """Memory for downloaded images of a shard; one larger image is accepted alone."""
    connect_timeout: PositiveFloat = 5.0
    """Timeout for establishing a connection, in seconds."""
    read_timeout: PositiveFloat = 10.0
    """Timeout between two received chunks, in seconds."""
    fetch_timeout: PositiveFloat = 30.0
    """Timeout for one attempt at an image, redirects included, in seconds."""
    retries: NonNegativeInt = 2
    """Retries after a server is busy or a connection fails."""
    backoff: NonNegativeFloat = 1.0
    """Approximate seconds before the first retry; doubled for each further retry."""
    max_backoff: NonNegativeFloat = 30.0
    """Maximum seconds before a retry. A server that asks for more (Retry-After) is not asked again in this run."""
    per_host: PositiveInt = 8
    """Maximum concurrent requests per host."""
    per_store: PositiveInt = 64
    """Maximum concurrent requests per bucket of an object store (s3://, gs://, ...)."""
    per_host_delay: NonNegativeFloat = 0.0
    """Minimum seconds between the starts of two requests to one host."""
    max_redirects: NonNegativeInt = 5
    """Maximum number of redirects per image."""
    contact: Annotated[str, Validator("after", _printable_ascii)] = ""
    """Mail address or web page in the User-Agent, so that server operators can contact you."""
    allow_private_addresses: bool = False
    """Fetch from hosts with private, loopback or link-local addresses too."""

    @property
    def user_agent(self) -> str:
        """The User-Agent header."""
        return f"vilbert-pipeline/{__version__} (region features of images{self.contact and f'; {self.contact}'})"
