"""A sample's key: its name inside a shard, which every reader of tar files must be able to parse.

WebDataset splits a member's name at its first dot, merges samples whose keys differ only after a dot, and treats names
in double underscores as metadata. USTAR allows 100 bytes for a name, of which the longest member suffix,
`.attribute_scores.npy`, takes 21.
"""

from __future__ import annotations

import hashlib
import re

MAX_KEY_LENGTH = 72
_KEY = re.compile(rf"(?!__)[A-Za-z0-9_][A-Za-z0-9_-]{{0,{MAX_KEY_LENGTH - 1}}}")
_DIGEST_LENGTH = 16


def is_key(text: str) -> bool:
    """Return whether `text` is a valid key: 1 to 72 of A-Z a-z 0-9 _ -, not starting with - or __."""
    return _KEY.fullmatch(text) is not None


def sample_key(image_id: str) -> str:
    """Return an image's key: its id if valid, else its valid characters, a hyphen and 16 hex digits of its SHA-1."""
    if is_key(image_id):
        return image_id
    digest = hashlib.sha1(image_id.encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest()[:_DIGEST_LENGTH]
    readable = re.sub(r"[^A-Za-z0-9_-]+", "_", image_id).lstrip("_-")[: MAX_KEY_LENGTH - _DIGEST_LENGTH - 1]
    return f"{readable or 'x'}-{digest}"
