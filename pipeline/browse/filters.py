"""The filters that select the samples of a page; the query of a URL describes them completely."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

NO_SPLIT = "(none)"
ANY = "any"
"""As `same`: images with copies; as `failure`: images that failed, for whatever reason."""
SORTS = {
    "": "manifest order",
    "shuffled": "shuffled",
    "-boxes": "most boxes",
    "boxes": "fewest boxes",
    "-score": "highest score",
    "score": "lowest score",
    "-size": "largest image",
    "size": "smallest image",
    "copies": "most copies",
}
"""Orders, by the value of `sort`."""
TEXTS = ("caption", "object", "attribute", "split", "same", "failure", "sort")
COUNTS = ("boxes", "captions", "words", "side")
"""Filters that have a least and a greatest whole number."""
MAX_TEXT = 500
MAX_NUMBER = 2**31 - 1


class FilterError(ValueError):
    """An invalid filter in a URL. The message names it and says which values are valid."""


@dataclass(frozen=True, kw_only=True)
class Filters:
    """The filters of a page; empty and None: not filtered by. Bounds include both ends."""

    caption: str = ""
    """Words in the captions; supports "a phrase", prefix*, -excluded."""
    object: str = ""
    """Name of a class that a region has."""
    attribute: str = ""
    """Name of an attribute that a region has; with `object`, the same region."""
    split: str = ""
    """Name of a split; NO_SPLIT for samples without one."""
    same: str = ""
    """ANY: images that share their bytes with another; else the key of a sample, for the copies of its image."""
    failure: str = ""
    """Images that gave no sample: ANY, or the reason of their failure. Goes with no other filter, and no order."""
    sort: str = ""
    """One of SORTS."""
    score_min: float | None = None
    """Least object score of a region, in steps of 0.01; with `object` or `attribute`, of such a region."""
    score_max: float | None = None
    """The score is below it."""
    boxes_min: int | None = None
    boxes_max: int | None = None
    captions_min: int | None = None
    captions_max: int | None = None
    words_min: int | None = None
    """Minimum number of words of a caption."""
    words_max: int | None = None
    side_min: int | None = None
    """Pixels of the shorter side."""
    side_max: int | None = None

    @classmethod
    def parse(cls, query: Mapping[str, str]) -> Filters:
        """Return the filters of a URL's query, in which other names may stand, too; FilterError for a bad value."""
        values: dict[str, str | int | float | None] = {}
        for name in TEXTS:
            values[name] = text = query.get(name, "").strip()
            if len(text) > MAX_TEXT:
                raise FilterError(f"{name}: has {len(text)} characters; give at most {MAX_TEXT}")
        for name in COUNTS:
            for end in ("min", "max"):
                values[f"{name}_{end}"] = _whole(f"{name}_{end}", query.get(f"{name}_{end}", "").strip())
        for end in ("score_min", "score_max"):
            values[end] = _score(end, query.get(end, "").strip())
        if values["sort"] not in SORTS:
            raise FilterError(f"sort: is {values['sort']!r:.40}; give one of {', '.join(filter(None, SORTS))}")
        return cls(**values)  # type: ignore[arg-type]  # each has its kind

    def query(self, **more: str | int) -> str:
        """Return the filters, and more names, as the query of a URL, `?` included; empty for neither."""
        values = {name: value for name, value in dataclasses.asdict(self).items() if value not in ("", None)}
        shown = {name: f"{value:g}" if isinstance(value, float) else value for name, value in values.items()}
        encoded = urlencode({**shown, **more})
        return f"?{encoded}" if encoded else ""

    def changed(self, **values: str | int | float | None) -> Filters:
        """Return the filters with some others."""
        return dataclasses.replace(self, **values)  # type: ignore[arg-type]  # names and kinds are those of the fields

    @property
    def active(self) -> bool:
        """Whether anything is filtered by."""
        return self.changed(sort="") != Filters()


def _whole(name: str, text: str) -> int | None:
    if not text:
        return None
    if not re.fullmatch("[0-9]{1,10}", text) or int(text) > MAX_NUMBER:
        raise FilterError(f"{name}: is {text!r:.40}; give an integer from 0 to {MAX_NUMBER:,}")
    return int(text)


def _score(name: str, text: str) -> float | None:
    if not text:
        return None
    if not re.fullmatch(r"0?\.[0-9]{1,2}|[01](\.0{0,2})?", text):
        raise FilterError(f"{name}: is {text!r:.40}; give a number from 0 to 1 in steps of 0.01")
    return float(text)


def captions_expression(text: str) -> str:
    """Return words that a person typed as an expression of FTS5; empty if they hold nothing to search for.

    All words must be there. "a phrase" keeps its order, begin* matches beginnings, -word must not be there. Nothing of
    the text has another meaning for FTS5: each word and phrase becomes a quoted string.
    """
    wanted: list[str] = []
    unwanted: list[str] = []
    for sign, phrase, word in re.findall(r'(-?)(?:"([^"]*)"?|([^\s"]+))', text):
        content = (phrase or word).replace("\0", " ")
        if not any(character.isalnum() for character in content):
            continue
        quoted = f'"{content.rstrip("*")}"' + ("*" if word.endswith("*") else "")
        (unwanted if sign else wanted).append(quoted)
    expression = " AND ".join(wanted)
    if unwanted and wanted:
        expression = f"({expression}) NOT ({' OR '.join(unwanted)})"
    return expression
