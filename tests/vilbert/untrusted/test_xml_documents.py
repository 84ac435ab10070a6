"""XML without document types, within bounds."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vilbert.untrusted.xml_documents import XmlError, parse_xml

BOMB = (
    b"""<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]><l>&b;</l>"""
)


def test_elements_and_text_are_read() -> None:
    root = parse_xml(b"<a><b x='1'>2 &lt; 3</b><b/></a>")
    assert [(item.tag, item.get("x"), item.text) for item in root] == [("b", "1", "2 < 3"), ("b", None, None)]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (BOMB, "document type"),
        (b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>', "document type"),
        (b"<a>&undefined;</a>", "undefined entity"),
        (b"<a>" * 101, "nests deeper than 100"),
        (b"<a>", "no element found"),
        (b"", "no element found"),
        (b"<a/><b/>", "junk after document element"),
        (b"<?xml version='1.0' encoding='rot13'?><a/>", "not XML"),
        (b"\xff\xfe\x00", "not XML"),
    ],
)
def test_what_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(XmlError, match=said):
        parse_xml(data)


@given(st.binary(max_size=60), st.integers(0, 40))
def test_damaged_bytes_raise_nothing_else(noise: bytes, at: int) -> None:
    whole = b"<annotation><object><name>dog</name></object></annotation>"
    with contextlib.suppress(XmlError):
        parse_xml(whole[:at] + noise + whole[at:])
