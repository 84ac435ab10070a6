"""The user and password of a URL go to its own host, and nowhere else: no other host, no file."""

from __future__ import annotations

import base64

import pytest
from urllib3.util import parse_url

from vilbert.extractors.decode import ImageError
from vilbert.manifests.record import ImageRecord
from vilbert.pipeline.extract.fetching.http_get import authorization
from vilbert.pipeline.extract.prepare import failure

EXPECTED = {"Authorization": "Basic " + base64.b64encode("me:wörd/ @".encode()).decode()}


@pytest.mark.parametrize(
    ("target", "sent"),
    [
        ("http://host/a.jpg", True),
        ("http://host:80/b.jpg", True),
        ("https://host/a.jpg", True),
        ("http://HOST/a.jpg", True),
        ("http://host:8080/a.jpg", False),
        ("https://host:8443/a.jpg", False),
        ("http://other/a.jpg", False),
        ("http://host.other/a.jpg", False),
        ("http://me:word@other/a.jpg", False),
    ],
)
def test_credentials_are_sent_to_their_own_host_alone(target: str, sent: bool) -> None:
    first = parse_url("http://me:w%C3%B6rd%2F%20%40@host/a.jpg")
    assert authorization(first, parse_url(target)) == (EXPECTED if sent else {})


def test_a_redirect_from_https_to_http_gets_none() -> None:
    assert authorization(parse_url("https://me:word@host/a"), parse_url("http://host/a")) == {}


def test_what_a_redirect_names_is_not_sent() -> None:
    assert authorization(parse_url("http://host/a"), parse_url("http://me:word@host/b")) == {}


def test_a_failure_has_no_credentials() -> None:
    record = ImageRecord(image_id="1", uri="https://me:word@host/a.jpg?X-Amz-Signature=ab")
    row = failure(0, record, ImageError("unreadable", "OSError: https://me:word@host/a.jpg"))
    assert row.uri == "https://host/a.jpg?X-Amz-Signature=***"
    assert "word" not in row.detail
