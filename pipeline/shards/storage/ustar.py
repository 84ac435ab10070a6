"""The plain USTAR headers of our tar shards, which are functions of a member's name and size only."""

from __future__ import annotations

import re
from functools import lru_cache

BLOCK = 512
RECORD = 20 * BLOCK
"""A tar file's length is a multiple of this (POSIX `pax`, ustar interchange format)."""
_MAX_MEMBER_BYTES = 8**11 - 1
_MODE_AND_OWNER = b"0000644\0" + b"0000000\0" * 2
_OCTAL = re.compile(rb"[0-7]{11}")
_TIME = b"00000000000\0"
HEADER_END = (b"0" + bytes(100) + b"ustar\0" + b"00").ljust(
    BLOCK - 156, b"\0"
)  # regular file, no link, magic, no names
_END_SUM = sum(HEADER_END) + sum(b" " * 8)  # the checksum counts its own field as spaces


def ustar_header(name: str, size: int) -> bytes:
    """Return the 512 bytes before a regular file's content: mode 0644, owner 0, time 0, as `tarfile` writes them.

    Raises ValueError for a name over 100 bytes or a size of 8 GiB or more, which USTAR cannot store.
    """
    encoded = name.encode("ascii")
    if len(encoded) > 100 or size > _MAX_MEMBER_BYTES:
        raise ValueError(f"USTAR cannot store {name} of {size} bytes")
    before = encoded.ljust(100, b"\0") + _MODE_AND_OWNER + b"%011o\0" % size + _TIME
    return before + checksum_field(sum(before) + _END_SUM) + HEADER_END


@lru_cache(maxsize=65536)  # sums of the 512 bytes of similar headers lie close together
def checksum_field(checksum: int) -> bytes:
    """Return the 8 bytes of a header's checksum field for the sum of its bytes."""
    return b"%06o\0 " % checksum


def padding(size: int) -> int:
    """Return the number of zeros after a content of `size` bytes."""
    return -size % BLOCK


@lru_cache(maxsize=65536)  # shapes of arrays are few, lengths of captions some thousand
def header_parts(name: str, digits: bytes, key_length: int) -> tuple[bytes, int, int] | None:
    """Return a header's bytes between key and checksum, the sum of all bytes except the key, and the size.

    name: the part of the name after `KEY.`. digits: the size as written in the header; the result is None if they are
    not 11 octal digits. A whole header is `key + between + checksum_field(sum(key) + rest) + HEADER_END`.
    """
    if not _OCTAL.fullmatch(digits):
        return None
    before = f".{name}".encode().ljust(100 - key_length, b"\0") + _MODE_AND_OWNER + digits + b"\0" + _TIME
    return before, sum(before) + _END_SUM, int(digits, 8)
