"""Tell a side file that this program wrote from one that a person wrote or changed.

People edit dataset cards and Energon's YAML files. A text that we write ends in a line with the SHA-256 of all before
it. Whatever is changed in the text breaks that seal, and a file without a valid seal is never overwritten.
"""

from __future__ import annotations

import hashlib
import re

_SEAL = re.compile(rb"(?:<!-- |# )Written by `vilbert index`, SHA-256 ([0-9a-f]{64})(?: -->)?\n")


def seal_markdown(text: str) -> bytes:
    """Return a Markdown text, which ends in a line feed, with its seal in a comment."""
    return _seal(text, "<!-- ", " -->")


def seal_yaml(text: str) -> bytes:
    """Return a YAML text, which ends in a line feed, with its seal in a comment."""
    return _seal(text, "# ", "")


def is_sealed(data: bytes) -> bool:
    """Say whether a file is as `vilbert index` wrote it."""
    body, _, last = data[:-1].rpartition(b"\n")
    match = _SEAL.fullmatch(last + data[-1:])
    return match is not None and hashlib.sha256(body + b"\n").hexdigest() == match[1].decode()


def _seal(text: str, start: str, end: str) -> bytes:
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"{text}{start}Written by `vilbert index`, SHA-256 {digest}{end}\n".encode()
