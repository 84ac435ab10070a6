"""Read untrusted XML within bounds and without a document type.

A document type can declare entities: a few lines can expand to gigabytes, and external entities name files and URLs.
`parse_xml` refuses every `<!DOCTYPE`, so that only character references and the five predefined entities remain.
"""

from __future__ import annotations

from typing import Any, NoReturn
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

MAX_BYTES = 16 << 20
MAX_DEPTH = 100
"""Maximum nesting depth of elements."""


class XmlError(ValueError):
    """A document that is not valid XML, or exceeds the bounds of this module."""


def parse_xml(data: bytes) -> Element:
    """Return the root element of a document.

    Raises:
        XmlError: The document is not well-formed, has a document type, is nested too deeply, or is too large.
    """
    if len(data) > MAX_BYTES:
        raise XmlError(f"larger than {MAX_BYTES} bytes")
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    depth = 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > MAX_DEPTH:
            raise XmlError(f"line {parser.CurrentLineNumber}: nests deeper than {MAX_DEPTH} levels")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def refuse(*_: Any) -> NoReturn:
        raise XmlError(f"line {parser.CurrentLineNumber}: has a document type declaration, which is not allowed")

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(data, True)
        return builder.close()
    except (expat.ExpatError, LookupError, ValueError) as error:  # LookupError: an unknown encoding
        if isinstance(error, XmlError):
            raise
        raise XmlError(f"not XML: {error}") from error
