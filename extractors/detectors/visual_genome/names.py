"""The names of object classes and attributes, which no checkpoint holds."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any, Literal

from vilbert.extractors.extractor import ExtractorError
from vilbert.untrusted.documents import DocumentError, read_json

Kind = Literal["objects", "attributes"]

_MAX_BYTES = 16 << 20
# Of VinVL's VG-SGG-dicts-vgoi6-clipped.json
_INDEX_KEYS = {"objects": "label_to_idx", "attributes": "attribute_to_idx"}


def bottom_up_names(kind: Kind) -> tuple[str, ...]:
    """Return the 1600 object classes or the 400 attributes of Bottom-Up Attention."""
    folder = resources.files("vilbert.extractors.detectors.visual_genome") / "vocabulary"
    return _lines((folder / f"{kind}.txt").read_text(encoding="utf-8"))


def read_names(path: Path, kind: Kind) -> tuple[str, ...]:
    """Return the names in a file, the background and "no attribute" left out.

    Args:
        path: Text with one name per line, where synonyms follow after commas (`objects_vocab.txt`); JSON with
            `categories` (`visual_genome_categories.json`), or with `label_to_idx` and `attribute_to_idx` from 1
            (`VG-SGG-dicts-vgoi6-clipped.json`).
        kind: Which names.

    Raises:
        ExtractorError: The file cannot be read, holds no names, or one with control characters.
    """
    try:
        if path.suffix == ".json":
            names = _from_json(read_json(path, max_bytes=_MAX_BYTES), kind)
        else:
            if path.stat().st_size > _MAX_BYTES:
                raise ExtractorError(f"{path}: larger than {_MAX_BYTES >> 20} MiB, too large for a list of names")
            names = _lines(path.read_text(encoding="utf-8-sig"))
    except DocumentError as error:
        raise ExtractorError(f"{path}: {error}") from error
    except UnicodeDecodeError as error:
        raise ExtractorError(f"{path}: not UTF-8 text") from error
    except OSError as error:
        raise ExtractorError(f"{path}: cannot read the names: {error.strerror}") from error
    if not names:
        raise ExtractorError(f"{path}: holds no names of {kind}")
    if unprintable := next((name for name in names if not name.isprintable()), None):
        raise ExtractorError(f"{path}: the name {unprintable[:60]!r} has control characters")
    return names


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.partition(",")[0].strip() for line in text.splitlines() if line.strip())


def _from_json(content: Any, kind: Kind) -> tuple[str, ...]:
    if not isinstance(content, dict):
        return ()
    if kind == "objects" and isinstance(listed := content.get("categories"), list):
        found = [(it.get("id"), it.get("name")) for it in listed if isinstance(it, dict)]
        first = 0
    elif isinstance(indexed := content.get(_INDEX_KEYS[kind]), dict):
        found = [(index, name) for name, index in indexed.items()]
        first = 1  # 0 is the background or "no attribute"
    else:
        return ()
    named = {index: name for index, name in found if type(index) is int and isinstance(name, str)}
    if len(named) != len(found):
        return ()
    return tuple(name for index, name in sorted(named.items()) if index >= first)
