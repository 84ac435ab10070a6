"""Number and length of the captions of an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vilbert.pipeline.rebuild.scores.score import Scored

DIGITS = 6


class CaptionScore:
    """Number of captions, and their lengths in words (separated by white space) and characters."""

    needs_images = False
    uses_model = False
    fields = ("captions", "words_min", "words_mean", "words_max", "characters_mean")

    def __init__(self, settings: object) -> None:
        """Accept the settings of the command, which are not used."""

    def fingerprint(self) -> dict[str, Any]:
        """Return the version of the method."""
        return {"version": 1}

    def score(self, samples: Sequence[Scored]) -> list[dict[str, Any]]:
        """Return the fields of each sample; without captions only their number, 0."""
        return [_fields(sample.captions) for sample in samples]


def _fields(captions: tuple[str, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {"captions": len(captions)}
    if captions:
        words = [len(caption.split()) for caption in captions]
        found |= {
            "words_min": min(words),
            "words_mean": round(sum(words) / len(words), DIGITS),
            "words_max": max(words),
            "characters_mean": round(sum(map(len, captions)) / len(captions), DIGITS),
        }
    return found
