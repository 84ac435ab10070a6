"""Captions as published, with surrounding white space removed. Values that are not strings are counted and skipped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from vilbert.manifests.report import Report


def image_captions(values: Sequence[object], where: str, report: Report) -> tuple[str, ...]:
    """Return the valid captions among the values that a source gives for an image.

    Counts the image as `no-caption` if all its values are null, and the values as `clean_captions` does.
    """
    if all(value is None for value in values):
        report.count("no-caption", where)
        return ()
    return clean_captions(values, where, report)


def clean_captions(values: Iterable[object], where: str, report: Report) -> tuple[str, ...]:
    """Return the captions that contain visible text.

    Counts null and blank ones (`empty-caption`), values that are not strings (`bad-caption`: NaN, numbers, lists,
    objects), and captions with characters that UTF-8 cannot encode (`replaced-characters`).
    """
    captions = []
    for value in values:
        if value is not None and not isinstance(value, str):
            report.count("bad-caption", f"{where}: {value!r:.80}")
            continue
        caption = "" if value is None else storable(value.strip())
        if is_blank(caption):
            report.count("empty-caption", where)
            continue
        if "\ufffd" in caption:
            report.count("replaced-characters", f"{where}: {caption[:80]!r}")
        captions.append(caption)
    return tuple(captions)


def is_blank(text: str) -> bool:
    """Return whether a text is empty or has only white space, control characters and zero-width characters."""
    return not any(character.isprintable() and not character.isspace() for character in text)


def storable(text: str) -> str:
    r"""Replace lone surrogates, which JSON escapes such as `\ud83d` produce and UTF-8 cannot encode, with U+FFFD."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
