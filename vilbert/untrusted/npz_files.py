"""Read untrusted .npz files (zip files of NumPy arrays), with a bound on their unpacked size."""

from __future__ import annotations

import io
import zipfile
import zlib
from typing import Any

from vilbert.untrusted.arrays import ArrayError
from vilbert.untrusted.pickled_arrays import load_npy

MAX_BYTES = 256 << 20
"""Maximum unpacked size of all members together; the features of one image take a few megabytes."""
_MAX_MEMBERS = 1_000
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# Errors that damaged content raises, besides ArrayError and PickleError.
_DAMAGE = (
    zipfile.BadZipFile, zlib.error, EOFError, LookupError, OSError, RuntimeError, NotImplementedError, OverflowError,
    UnicodeDecodeError,
)  # fmt: skip


def load_npz(data: bytes, *, skip: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the arrays of a .npz file by name; pickled lists and mappings are returned as by `load_npy`.

    Args:
        data: The content of the file.
        skip: Names of members to skip.

    Raises:
        ArrayError: The file is damaged, or unpacks to more than `MAX_BYTES`.
        PickleError: A pickle in it is damaged or refused.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            if len(members) > _MAX_MEMBERS or sum(member.file_size for member in members) > MAX_BYTES:
                raise ArrayError(f"unpacks to more than {_MAX_MEMBERS:,} members or {MAX_BYTES:,} bytes")
            arrays: dict[str, Any] = {}
            for member in members:
                name = member.filename.removesuffix(".npy")
                if name in arrays:
                    raise ArrayError(f"holds {name[:80]!r} twice")
                if member.compress_type not in _METHODS:
                    raise ArrayError(f"its member {name[:80]!r} is compressed by a method that NumPy does not use")
                if name not in skip:
                    arrays[name] = load_npy(archive.read(member))
            return arrays
    except _DAMAGE as error:
        raise ArrayError(f"is not a .npz file, or damaged: {str(error)[:200] or type(error).__name__}") from None
