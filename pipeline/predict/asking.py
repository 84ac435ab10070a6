"""Texts about photographs, and which goes with which."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.predict.photographs import ArgumentError, Photograph

Text = tuple[str, ...]
"""Sentences that separators part; the last of several is in segment 1."""


class Row(NamedTuple):
    """What the model reads at once."""

    image: int
    """The photograph's number."""
    text: Text
    """What stands before it."""


def paired(images: int, texts: int, what: str, *, called: str = "images") -> list[tuple[int, int]]:
    """Return (image, text) numbers: one of either goes with all of the other, else they go together in order.

    what, called: the texts and the images in a word, for messages. Raises RefusedError if either is empty or
    their numbers do not fit.
    """
    if not images or not texts:
        raise RefusedError(f"{images} {called} and {texts} {what}: give at least one of each")
    if images != texts and 1 not in (images, texts):
        raise RefusedError(
            f"{images} {called} and {texts} {what}: give the same number of both, or a single one for all"
        )
    number = max(images, texts)
    return [(at if images > 1 else 0, at if texts > 1 else 0) for at in range(number)]


def first_of_same(photographs: Sequence[Photograph]) -> list[int]:
    """Return for each photograph the number of the first of the same path or object."""
    seen: dict[str | int, int] = {}
    return [
        seen.setdefault(os.fspath(it) if isinstance(it, str | os.PathLike) else id(it), at)
        for at, it in enumerate(photographs)
    ]


def as_texts(texts: Iterable[str], what: str) -> list[str]:
    """Return texts as a list; ArgumentError where one text is given in place of a list. what: for messages."""
    if isinstance(texts, str | bytes) or not isinstance(texts, Iterable):
        raise ArgumentError(f"{what}: is a single {type(texts).__name__}; give a list of texts, such as [text]")
    found = list(texts)
    for number, text in enumerate(found):
        if not isinstance(text, str):
            raise ArgumentError(f"{what}[{number}]: is a {type(text).__name__}; give text")
    return found


def as_text_lists(lists: Iterable[Iterable[str]], what: str) -> list[list[str]]:
    """Return a list of texts for each question; ArgumentError for anything else. what: for messages."""
    if isinstance(lists, str | bytes) or not isinstance(lists, Iterable):
        raise ArgumentError(f"{what}: give a list of texts for each question, such as [[text, text]]")
    return [as_texts(of_one, f"{what}[{number}]") for number, of_one in enumerate(lists)]
