"""Captions as published, but for white space at either end."""

from __future__ import annotations

from collections.abc import Iterable

from manifests.report import Report


def clean_captions(texts: Iterable[str], where: str, report: Report) -> tuple[str, ...]:
    """Return the captions that are not empty; count empty ones, and those with characters that UTF-8 cannot hold."""
    captions = []
    for text in texts:
        caption = storable(text.strip())
        if not caption:
            report.count("empty-caption", where)
            continue
        if "\ufffd" in caption:
            report.count("replaced-characters", f"{where}: {caption[:80]!r}")
        captions.append(caption)
    return tuple(captions)


def storable(text: str) -> str:
    r"""Return text with U+FFFD for lone surrogates, which JSON escapes such as `\ud83d` make and UTF-8 cannot hold."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
