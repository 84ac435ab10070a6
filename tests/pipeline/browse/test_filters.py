"""Filters: a URL states them completely, and no text that a person types is read as a language."""

from __future__ import annotations

import sqlite3
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vilbert.pipeline.browse.filters import SORTS, FilterError, Filters, captions_expression

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40).map(str.strip)
BOUND = st.none() | st.integers(0, 2**31 - 1)


@given(
    caption=TEXT, object_=TEXT, sort=st.sampled_from(sorted(SORTS)), boxes_min=BOUND, words_max=BOUND,
    score=st.none() | st.integers(0, 100).map(lambda hundredths: hundredths / 100),
)  # fmt: skip
def test_filters_survive_their_url(
    caption: str, object_: str, sort: str, boxes_min: int | None, words_max: int | None, score: float | None
) -> None:
    filters = Filters(
        caption=caption, object=object_, sort=sort, boxes_min=boxes_min, words_max=words_max, score_min=score
    )
    assert Filters.parse(dict(parse_qsl(filters.query().removeprefix("?")))) == filters


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("boxes_min", "-1"), ("boxes_max", "many"), ("side_min", "99999999999"), ("score_min", "0.555"),
        ("score_max", "nan"), ("score_max", "2"), ("sort", "boxes; DROP TABLE"), ("caption", "a" * 501),
    ],
)  # fmt: skip
def test_a_value_that_is_no_filter_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(FilterError, match=f"^{name}: "):
        Filters.parse({name: value})


@pytest.fixture(scope="module")
def captions() -> sqlite3.Connection:
    database = sqlite3.connect(":memory:")
    database.execute("CREATE VIRTUAL TABLE captions USING fts5(text, content='', columnsize=0)")
    texts = ["a red car and a dog", "the car is red", "A cat near a carpet", "NOT a NEAR dog", "ein Hund läuft"]
    database.executemany("INSERT INTO captions (rowid, text) VALUES (?, ?)", enumerate(texts))
    return database


def matches(database: sqlite3.Connection, text: str) -> list[int]:
    expression = captions_expression(text)
    return [row for (row,) in database.execute("SELECT rowid FROM captions WHERE captions MATCH ?", (expression,))]


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("red car", [0, 1]), ('"red car"', [0]), ("car*", [0, 1, 2]), ("red -dog", [1]), ('car -"is red"', [0]),
        ("NOT", [3]), ("NEAR dog", [3]), ("cat OR dog", []), ("läuft", [4]), ("text:dog", []), ('"unclosed red', []),
    ],
)  # fmt: skip
def test_words_phrases_beginnings_and_words_that_must_not_be_there(
    captions: sqlite3.Connection, text: str, rows: list[int]
) -> None:
    assert matches(captions, text) == rows


def test_no_text_is_a_wrong_expression(captions: sqlite3.Connection) -> None:
    @given(st.text(max_size=60) | st.text('"*-(){}:^+ ANDORNTE', max_size=60))
    def check(text: str) -> None:
        if captions_expression(text.encode("utf-8", "replace").decode()):
            matches(captions, text.encode("utf-8", "replace").decode())

    check()
