"""Truth of captions: all that the generator can say of a scene is true, and any other word makes it false."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from itertools import permutations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.shapes import captions as views
from vilbert.pipeline.shapes.draws import Draws
from vilbert.pipeline.shapes.facts import article, listed
from vilbert.pipeline.shapes.scene import CLASS_NAMES, COLOURS, SIZES, TEXTURES, Scene, SceneObject, make_scene
from vilbert.pipeline.tasks.captioning.truth import is_true, read_scenes, truth_share

Objects = tuple[SceneObject, ...]
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven")
PLURALS = tuple({"cross": "crosses"}.get(name, f"{name}s") for name in CLASS_NAMES)
RELATIONS = ("left of", "to the left of", "right of", "to the right of", "above", "below")
CLASSES = (
    COLOURS,
    SIZES,
    TEXTURES,
    CLASS_NAMES,
    PLURALS,
    (*NUMBERS, "all"),
    RELATIONS,
    ("leftmost", "rightmost", "topmost", "lowest"),
)


def item(shape: str, colour: str, x: int, y: int, size: str = "small", texture: str = "solid") -> SceneObject:
    box = (x - 10, y - 10, x + 10, y + 10)
    return SceneObject(
        shape=shape, colour=colour, size=size, texture=texture, x=x, y=y, radius=10, angle=0, box_xyxy=box, area=300
    )


# A red star left of a blue ring, which is above a second, striped ring.
THREE = (
    item("star", "red", 30, 50, size="large"),
    item("ring", "blue", 100, 50),
    item("ring", "blue", 100, 120, texture="striped"),
)


class Everything(Draws):
    """Draws that take a path through all choices; `paths` walks them all."""

    def __init__(self, path: Sequence[int]) -> None:
        self.path = list(path)
        self.bounds: list[int] = []

    def below(self, bound: int) -> int:
        """Take the next step of the path, the first branch beyond its end."""
        if len(self.bounds) == len(self.path):
            self.path.append(0)
        self.bounds.append(bound)
        return self.path[len(self.bounds) - 1]

    def chance(self, percent: int) -> bool:
        """Branch in two and not in a hundred."""
        return percent > 0 and self.below(2) == 0


def paths(say: Callable[[Everything], str | None]) -> Iterator[str]:
    path: list[int] = []
    while True:
        draws = Everything(path)
        said = say(draws)
        if said is not None:
            yield said
        path = draws.path
        while path and path[-1] + 1 == draws.bounds[len(path) - 1]:
            path.pop()
        if not path:
            return
        path[-1] += 1


@cache
def all_said(objects: Objects) -> dict[str, frozenset[str]]:
    """Return every sentence that each view can make of a scene."""
    return {view.__name__: frozenset(paths(partial(view, objects))) for view in views._VIEWS}


@cache
def small_scenes() -> tuple[Scene, ...]:
    scenes = [scene for index in range(80) if len((scene := make_scene(5, index)).objects) <= 3]
    return tuple(scenes[:10])


def changes(sentence: str) -> Iterator[str]:
    """Yield the sentence with one word, or the words of one relation, replaced by each other one of its class."""
    for words in CLASSES:
        longest_first = sorted(words, key=len, reverse=True)
        for match in re.finditer(rf"\b({'|'.join(longest_first)})\b", sentence):
            for other in words:
                if other != match[0]:
                    yield with_articles(sentence[: match.start()] + other + sentence[match.end() :])


def with_articles(sentence: str) -> str:
    return re.sub(r"\ban? (?=(.))", lambda it: "an " if it[1] in "aeiou" else "a ", sentence)


def true_sentences(objects: Objects) -> frozenset[str]:
    said = frozenset().union(*all_said(objects).values())
    count = NUMBERS[len(objects) - 1]
    # A list may be in any order, and name a kind as often as there are objects of it.
    lists = (
        listed([article(f"{item.colour} {item.shape}") for item in named])
        for number in range(1, len(objects) + 1)
        for named in permutations(objects, number)
    )
    said |= {opening + named for named in lists for opening in ("", "a picture with ", "you can see ")}
    # `two of the two` is as true as `all of the two`, which is how the generator says it.
    return said | {re.sub(r"^all of|\ball of(?= them)", f"{count} of", sentence) for sentence in said}


def test_all_that_can_be_said_of_a_scene_is_true() -> None:
    for scene in small_scenes():
        said = all_said(scene.objects)
        assert set(said) == {"_inventory", "_relation", "_catalogue", "_share", "_extreme"}
        assert [
            sentence for it in said.values() for sentence in it if is_true(sentence, scene.objects) is not True
        ] == []


@pytest.mark.parametrize("view", ["_inventory", "_relation", "_catalogue", "_share", "_extreme"])
def test_with_one_word_changed_only_what_could_be_said_too_is_true(view: str) -> None:
    judged = still_true = 0
    for scene in small_scenes():
        right = true_sentences(scene.objects)
        sentences = sorted(all_said(scene.objects)[view])
        for sentence in sentences[:: max(len(sentences) // 5, 1)]:
            for changed in changes(sentence):
                assert (is_true(changed, scene.objects) is True) == (changed in right), changed
                judged += 1
                still_true += changed in right
    assert judged > 500
    assert still_true < judged / 4


def test_the_captions_of_many_scenes_are_true_of_them_and_not_of_others() -> None:
    scenes = [make_scene(21, index) for index in range(300)]
    written = [views.captions(scene) for scene in scenes]
    own = [is_true(text, scene.objects) for scene, texts in zip(scenes, written, strict=True) for text in texts]
    others = [
        is_true(text, scene.objects)
        for scene, texts in zip(scenes[1:] + scenes[:1], written, strict=True)
        for text in texts
    ]
    assert own == [True] * 1500
    assert others.count(True) < 15
    assert None not in others


@given(index=st.integers(0, 10**6))
def test_a_value_that_no_object_has_makes_any_caption_false(index: int) -> None:
    objects = make_scene(22, index).objects
    for attribute, values in (("colour", COLOURS), ("size", SIZES), ("texture", TEXTURES), ("shape", CLASS_NAMES)):
        absent = {value for value in values if value not in {getattr(it, attribute) for it in objects}}
        absent |= {{"cross": "crosses"}.get(value, f"{value}s") for value in absent if attribute == "shape"}
        for caption in views.captions(make_scene(22, index)):
            lowered = caption[0].lower() + caption[1:]
            for changed in changes(lowered):
                if any(word in absent for word in re.findall("[a-z]+", changed)):
                    assert is_true(changed, objects) is not True, changed


@given(index=st.integers(0, 10**6), data=st.data())
def test_word_pieces_put_together_with_odd_spaces_and_case_mean_the_same(index: int, data: st.DataObject) -> None:
    scene = make_scene(23, index)
    caption = data.draw(st.sampled_from(views.captions(scene)))
    odd = re.sub("([,:.])", r" \1 ", caption).upper()
    assert is_true(odd, scene.objects) is True


@pytest.mark.parametrize(
    ("caption", "verdict"),
    [
        ("One red star and two blue rings on a plain background.", True),
        ("One red star and one blue ring on a plain background.", False),
        ("An image of two blue rings", False),  # not all there is
        ("An image of one blue ring, one blue ring and one red star", False),
        ("There is one red star and two blue rings in the picture", True),
        ("There are one red star and two blue rings in the picture", None),
        ("A large red star to the left of a blue ring", True),
        ("A red star is left of a striped blue ring", True),
        ("A blue ring above a blue ring", True),  # two of them, one above the other
        ("A red star above a red star", False),  # there is one
        ("A small red star to the left of a blue ring", False),
        ("A red star to the above a blue ring", None),
        ("A picture with a blue ring and a blue ring", True),
        ("A picture with a red star and a red star", False),
        ("Two of the three objects are blue: a blue ring and a blue ring", True),
        ("Two of the three objects are blue: a blue ring", False),
        ("Two of the three objects are blue: a blue ring and a red star", False),
        ("Three objects, one of them striped: a blue ring", True),
        ("Three objects, one of them dotted: a blue ring", False),
        ("The leftmost object is a large red star, beside a blue ring", True),
        ("The topmost object is a red star, beside a blue ring", False),  # the first ring is as high
        ("The leftmost object is a red star, beside a red star", False),
        ("a star", None),
        ("a red star of", None),
        ("a red star and", None),
        ("an red star", None),
        ("a red stars", None),
        ("a star red", None),
        ("no green stars on a plain background", None),
        ("a dog on a lawn", None),
        ("", None),
        (".", None),
    ],
)
def test_single_captions_of_one_scene(caption: str, verdict: bool | None) -> None:
    assert is_true(caption, THREE) is verdict


def test_the_share_counts_what_cannot_be_read_as_untrue() -> None:
    said = {"1": "a red star", "2": "a green star", "3": "stars", "4": "You can see a blue ring."}
    assert truth_share(said, dict.fromkeys("12345", THREE)) == 0.5


def test_an_image_without_a_scene_is_refused() -> None:
    with pytest.raises(RefusedError, match="image 7"):
        truth_share({"7": "a red star"}, {"1": THREE})
    with pytest.raises(RefusedError, match="no captions"):
        truth_share({}, {"1": THREE})


def test_scenes_are_read_as_they_are_written(tmp_path: Path) -> None:
    made = [make_scene(4, index) for index in range(5)]
    rows = [{"image_id": it.index + 1, "split": "train", "path": "", **it.to_json()} for it in made]
    path = tmp_path / "scenes.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert read_scenes(path) == {str(it.index + 1): it.objects for it in made}


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        '{"image_id": 1}',
        '{"image_id": 1, "objects": [{}]}',
        '{"image_id": 1, "objects": [{"box_xyxy": [1]}]}',
    ],
)
def test_a_line_that_is_no_scene_is_refused_by_its_number(tmp_path: Path, line: str) -> None:
    path = tmp_path / "scenes.jsonl"
    path.write_text(f'{{"image_id": 1, "objects": []}}\n{line}\n', encoding="utf-8")
    with pytest.raises(RefusedError, match=r"scenes.jsonl, line 2: is not a scene"):
        read_scenes(path)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="cannot be read"):
        read_scenes(tmp_path / "scenes.jsonl")
