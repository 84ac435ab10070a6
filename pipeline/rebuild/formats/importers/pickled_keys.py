"""The list of keys under `keys` in ViLBERT's and MMF's LMDB files: a pickled list of bytes or strings."""

from __future__ import annotations

from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.rebuild.formats.importers.lmdb_values import LmdbFile
from vilbert.pipeline.rebuild.formats.importers.published_image import RowError
from vilbert.untrusted.pickles import PickleError, load

KEYS = b"keys"


def read_pickled_keys(file: LmdbFile) -> list[bytes] | None:
    """Return the list of keys, None if the file has none.

    Raises:
        ShardError: It is damaged, or not a list of keys.
    """
    try:
        value = file.get(KEYS)
        if value is None:
            return None
        keys = load(value)
    except (PickleError, RowError) as error:
        raise ShardError(f"{file.path}: refused: its list of keys {error}") from error
    if not isinstance(keys, list) or not all(isinstance(key, (str, bytes)) for key in keys):
        raise ShardError(f"{file.path}: its value under 'keys' is not a list of keys")
    # Python 2 wrote bytes as strings, which are read as latin-1.
    return [key.encode("latin1", "replace") if isinstance(key, str) else key for key in keys]


def is_pickle(value: bytes) -> bool:
    """Return whether a value begins like a pickle of protocol 2 or later, or like a mapping of an older protocol."""
    return value[:1] == b"\x80" or value[:3] in (b"(dp", b"}q\x00", b"(lp")
