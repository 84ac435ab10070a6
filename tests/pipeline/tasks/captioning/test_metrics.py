"""Metrics of captions against figures of the standard package's own classes, and how captions are cut into words."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.tasks.captioning.metrics import _words_by_java, caption_scores, coco_results, words_without_java
from vilbert.pipeline.tasks.captioning.task import overlap

needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="needs Java")

REFERENCES = {
    "139": [
        "A woman stands in the dining area at the table.",
        "A room with chairs, a table, and a woman in it.",
        "A woman standing in a kitchen by a window",
    ],
    "285": [
        "A big burly grizzly bear is shown with grass in the background.",
        "The large brown bear has a black nose.",
        "Closeup of a brown bear sitting in a grassy area.",
    ],
    "632": [
        "Bedroom scene with a bookcase, blue comforter and window.",
        "A bedroom with a bookshelf full of books.",
        "This room has a bed with blue sheets and a large bookcase",
    ],
    "724": [
        "A stop sign is mounted upside-down on it's post.",
        "A stop sign that is hanging upside down.",
        "An upside down stop sign by the road.",
    ],
    "776": [
        "Three teddy bears, each a different color, snuggling together.",
        "Three stuffed animals are sitting on a bed.",
        "three teddy bears giving each other a hug",
    ],
    "785": [
        "A woman posing for the camera standing on skis.",
        "a woman standing on skiis while posing for the camera",
        "A woman in a red jacket skiing down a slope",
    ],
    "802": [
        "A kitchen with a refrigerator, stove and oven with cabinets.",
        "A white oven and a white refrigerator are in the kitchen.",
        "The kitchen isn't big, but it's clean.",
    ],
    "872": [
        "A couple of baseball player standing on a field.",
        "two baseball players for opposing teams on the field",
        "A man with a baseball glove at 10:30 a.m. (a sunny day)",
    ],
    "885": [
        "a male tennis player in white shorts is playing tennis",
        "This woman's swing has just been completed in a tennis match.",
        "A man playing in a tennis match wearing white shorts and shirt.",
    ],
    "1000": [
        "People posing for a group photo at a tennis court",
        "Group of young people with tennis racquets in hand!",
        "A team of tennis players: boys, girls and their coach.",
    ],
}
CANDIDATES = {
    "139": "A woman standing in a kitchen next to a table.",
    "285": "A brown bear sitting in the grass.",
    "632": "A bedroom with a bed and a bookshelf full of books.",
    "724": "A stop sign that is upside-down on a post.",
    "776": "Two cats on a sofa",
    "785": "a woman standing on skis while posing for the camera",
    "802": "It's a kitchen with a stove, an oven and a refrigerator",
    "872": "Two baseball players standing on top of a field.",
    "885": "A man playing tennis in white shorts",
    "1000": "a group of people posing for a photo",
}

# From PTBTokenizer, Bleu, Rouge, Cider and Meteor of pycocoevalcap 1.2, called as its eval.py calls them.
GOLDEN = {
    "bleu_1": 0.8185887628005063,
    "bleu_2": 0.7301193469778796,
    "bleu_3": 0.5943517542309323,
    "bleu_4": 0.473218745639035,
    "rouge_l": 0.6363804293418546,
    "cider": 2.146808074613018,
}
GOLDEN_METEOR = 0.35982808353568374

CUT = {
    "A man's dog can't run, and it's fast.": "a man 's dog ca n't run and it 's fast",
    "Two (small) red stars; \"quoted\" 'word' -- dash - hyphen-ated ... end!": (
        "two -lrb- small -rrb- red stars quoted word dash hyphen-ated end"
    ),
    "I'm gonna cannot wanna 3,000 $5.50 50% a/b U.S. Mr. Smith's e.g. 10:30 p.m.": (
        "i 'm gon na can not wan na 3,000 $ 5.50 50 % a/b u.s. mr. smith 's e.g. 10:30 p.m."
    ),
    "dogs' toys [x] {y} : colon; semi?": "dogs toys -lsb- x -rsb- -lcb- y -rcb- colon semi",
    "Don't won't shan't they've we'll I'd": "do n't wo n't sha n't they 've we 'll i 'd",
    "the children\u2019s \u201cpark\u201d \u2014 near caf\u00e9\u2026": "the children 's park near caf\u00e9",
    "it 's a t-shirt & tie #1 *star*": "it 's a t-shirt & tie # 1 * star *",
    "what?! no--way !! ok?": "what ?! no way !! ok",
    "Mr. Smith vs. St. Louis": "mr. smith vs. st. louis",
    "5'10\" tall, 2nd 4x4 1/2 w/ a.b.c": "5 10 tall 2nd 4x4 1/2 w / a.b.c",
    "no-break\u00a0space\u2028and a line": "no-break space and a line",
    "": "",
    " . ": "",
}


@pytest.mark.parametrize(("caption", "words"), CUT.items())
def test_words_are_cut_as_by_the_standard_tokenizer(caption: str, words: str) -> None:
    assert words_without_java(caption) == words


@needs_java
def test_the_standard_tokenizer_cuts_the_same_words() -> None:
    captions = [*CUT, *CANDIDATES.values(), *(text for texts in REFERENCES.values() for text in texts)]
    assert _words_by_java(captions) == list(map(words_without_java, captions))


def test_the_figures_are_those_of_the_standard_package() -> None:
    figures = caption_scores(REFERENCES, CANDIDATES, java=False)
    assert figures == pytest.approx({**GOLDEN, "ptb_tokenizer": 0.0}, rel=1e-9)


@needs_java
@pytest.mark.slow
def test_with_java_the_figures_are_those_of_the_standard_package_and_meteor_is_there() -> None:
    figures = caption_scores(REFERENCES, CANDIDATES)
    assert figures == pytest.approx({**GOLDEN, "meteor": GOLDEN_METEOR, "ptb_tokenizer": 1.0}, rel=1e-6)


def test_the_order_of_images_changes_nothing() -> None:
    backwards = dict(reversed(CANDIDATES.items()))
    assert caption_scores(REFERENCES, backwards, java=False) == caption_scores(REFERENCES, CANDIDATES, java=False)


WORDS = st.lists(
    st.sampled_from(["a", "red", "star", "ring", "dog's", "not-yet", "two", "3,000"]), min_size=5, max_size=9
)
SAID = st.dictionaries(st.integers(0, 99).map(str), WORDS.map(" ".join), min_size=2, max_size=6)


@given(candidates=SAID, other=WORDS)
def test_what_is_a_reference_word_for_word_is_perfect(candidates: dict[str, str], other: list[str]) -> None:
    references = {image_id: [" ".join(other), text] for image_id, text in candidates.items()}
    loud = {image_id: f"{text.upper()}!" for image_id, text in candidates.items()}
    figures = caption_scores(references, loud, java=False)
    for name in ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l"):
        assert figures[name] == pytest.approx(1.0)


@given(candidates=SAID)
def test_captions_without_a_word_in_common_score_nothing(candidates: dict[str, str]) -> None:
    references = {image_id: ["cats sleep under warm green blankets"] for image_id in candidates}
    figures = caption_scores(references, candidates, java=False)
    assert all(figures[name] < 1e-6 for name in GOLDEN)


def test_a_caption_of_no_words_is_scored_as_such() -> None:
    said = {**CANDIDATES, "139": ""}
    figures = caption_scores(REFERENCES, said, java=False)
    assert 0 < figures["cider"] < GOLDEN["cider"]
    assert 0 < figures["bleu_1"] < GOLDEN["bleu_1"]


def test_without_pycocoevalcap_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocoevalcap", None)
    with pytest.raises(RefusedError, match=r"pip install 'vilbert-pipeline\[captioning\]'"):
        caption_scores(REFERENCES, CANDIDATES)
    with pytest.raises(RefusedError, match=r"vilbert-pipeline\[captioning\]"):
        overlap("a dog", ["a dog on a mat"])


@pytest.mark.parametrize("extra", [{}, {"7": []}])
def test_an_image_without_references_is_refused(extra: dict[str, list[str]]) -> None:
    with pytest.raises(RefusedError, match="image 7: has a caption but no reference"):
        caption_scores({**REFERENCES, **extra}, {**CANDIDATES, "7": "a dog"}, java=False)


def test_an_image_without_a_caption_is_refused() -> None:
    with pytest.raises(RefusedError, match="image 139: has no caption"):
        caption_scores(REFERENCES, {name: text for name, text in CANDIDATES.items() if name != "139"}, java=False)
    with pytest.raises(RefusedError, match="no captions to score"):
        caption_scores({}, {}, java=False)


def fake_java(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = folder / "java"
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_a_java_that_fails_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_java(tmp_path, monkeypatch, "exit 3")
    with pytest.raises(RefusedError, match="Java cannot tokenize the captions"):
        caption_scores(REFERENCES, CANDIDATES)


def test_a_tokenizer_that_loses_lines_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_java(tmp_path, monkeypatch, "read -r first; echo $first")
    with pytest.raises(RefusedError, match="Java returned 2 lines for 40 captions"):
        caption_scores(REFERENCES, CANDIDATES)


def test_a_meteor_that_ends_early_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_java(tmp_path, monkeypatch, 'if [ "$1" = -cp ]; then cat; fi')
    with pytest.raises(RefusedError, match="METEOR's Java program failed"):
        caption_scores(REFERENCES, CANDIDATES)


def test_results_are_in_cocos_form_in_the_order_of_ids() -> None:
    said = {"10": "ten", "9": "nine", "b.jpg": "b", "007": "bond", "0": "zero"}
    assert coco_results(said) == [
        {"image_id": 0, "caption": "zero"},
        {"image_id": 9, "caption": "nine"},
        {"image_id": 10, "caption": "ten"},
        {"image_id": "007", "caption": "bond"},
        {"image_id": "b.jpg", "caption": "b"},
    ]
