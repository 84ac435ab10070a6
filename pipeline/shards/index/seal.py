"""Distinguish side files that this program wrote from those that a user wrote or changed.

Users edit dataset cards and Energon's YAML files. Files that we write end with a line that contains the SHA-256 of the
preceding text. Any change breaks this seal, and a file without a valid seal is never overwritten.
"""

from __future__ import annotations

import hashlib
import re

_SEAL = re.compile(rb"(?:<!-- |# )Written by `vilbert index`, SHA-256 ([0-9a-f]{64})(?: -->)?\n")


def seal_markdown(text: str) -> bytes:
    """Append the seal as a comment to a Markdown text that ends with a line feed."""
    return _seal(text, "<!-- ", " -->")


def seal_yaml(text: str) -> bytes:
    """Append the seal as a comment to a YAML text that ends with a line feed."""
    return _seal(text, "# ", "")


def is_sealed(data: bytes) -> bool:
    """Return whether a file is unchanged since `vilbert index` wrote it."""
    body, _, last = data[:-1].rpartition(b"\n")
    match = _SEAL.fullmatch(last + data[-1:])
    return match is not None and hashlib.sha256(body + b"\n").hexdigest() == match[1].decode()


def _seal(text: str, start: str, end: str) -> bytes:
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"{text}{start}Written by `vilbert index`, SHA-256 {digest}{end}\n".encode()
