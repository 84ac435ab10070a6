"""Questions with four answers and four reasons, of which one each is correct (Zellers et al. 2019, VCR).

The four are the two facts of the truth, each as it is and changed, in all combinations: so no choice is the odd one
out, and the text alone tells nothing. What is changed is never the shape, which the tags of the objects give away.

Objects are tagged whose shape no other object of the scene has: a model reads of a tag the shape alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from vilbert.pipeline.shapes.draws import Draws, Stream
from vilbert.pipeline.shapes.facts import article, other_value
from vilbert.pipeline.shapes.scene import COLOURS, Scene, SceneObject

CHOICES_A_SCENE = 10
TRIES = 6
"""Frequency of each kind of question."""
_LOOKS = ("colour", "texture", "size")
Tokens = list[str | list[int]]
"""Words, and lists of positions of objects."""
Objects = Sequence[SceneObject]
Pair = tuple[str, str]
"""A true fact and a changed one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choices:
    """One question with its choices."""

    question: Tokens
    answers: tuple[Tokens, ...]
    answer_label: int
    """Index of the correct answer."""
    rationales: tuple[Tokens, ...]
    rationale_label: int
    """Index of the correct reason."""


def _four(first: Pair, second: Pair, draws: Draws) -> tuple[list[Pair], int]:
    """Return the combinations in random order, and the index of the correct one."""
    mixed = draws.shuffled(list(product(first, second)))
    return mixed, mixed.index((first[0], second[0]))


def _changed(item: SceneObject, attribute: str, objects: Objects, draws: Draws) -> Pair:
    """Return the object's value and a different one, taken from another object if possible."""
    value: str = getattr(item, attribute)
    around = sorted({getattr(other, attribute) for other in objects} - {value})
    return value, draws.choice(around) if around else other_value(attribute, value, draws)


def _beside(item: SceneObject, objects: Objects, draws: Draws) -> Pair:
    """Return the colour and shape of another object, and the shape in a colour that it does not have in the scene."""
    other = draws.choice([one for one in objects if one is not item])
    there = {one.colour for one in objects if one.shape == other.shape}
    around = sorted({one.colour for one in objects} - there) or sorted(set(COLOURS) - there)
    true, changed = (article(f"{colour} {other.shape}") for colour in (other.colour, draws.choice(around)))
    return true, changed


def _tagged(objects: Objects) -> list[int]:
    """Return the positions of objects with a unique shape."""
    counts = Counter(item.shape for item in objects)
    return [position for position, item in enumerate(objects) if counts[item.shape] == 1]


def _one(objects: Objects, draws: Draws) -> Choices | None:
    """Ask about the appearance of an object; the reason gives other attributes and a neighbour."""
    tagged = _tagged(objects)
    if not tagged:
        return None
    i = draws.choice(tagged)
    first, second, third = (_changed(objects[i], name, objects, draws) for name in draws.shuffled(_LOOKS))
    looks, answer_label = _four(first, second, draws)
    reasons, rationale_label = _four(third, _beside(objects[i], objects, draws), draws)
    return Choices(
        question=["What", "does", [i], "look", "like", "?"],
        answers=tuple([[i], "is", a, "and", b, "."] for a, b in looks),
        answer_label=answer_label,
        rationales=tuple([[i], "is", a, "and", "beside", *b.split(), "."] for a, b in reasons),
        rationale_label=rationale_label,
    )


def _two(objects: Objects, draws: Draws) -> Choices | None:
    """Ask about the appearance of two objects; the reason gives other attributes."""
    tagged = _tagged(objects)
    if len(tagged) < 2:
        return None
    i, j = draws.sample(tagged, 2)
    (answers, answer_label), (rationales, rationale_label) = (
        _four(_changed(objects[i], name, objects, draws), _changed(objects[j], name, objects, draws), draws)
        for name in draws.sample(_LOOKS, 2)
    )
    return Choices(
        question=["What", "are", [i], "and", [j], "like", "?"],
        answers=tuple([[i], "is", a, "and", [j], "is", b, "."] for a, b in answers),
        answer_label=answer_label,
        rationales=tuple([[i], "is", a, "and", [j], "is", b, "."] for a, b in rationales),
        rationale_label=rationale_label,
    )


def choices(scene: Scene) -> list[Choices]:
    """Return up to ten different questions, in random order."""
    draws = Draws(scene.seed, scene.index, Stream.CHOICES)
    asked: dict[str, Choices] = {}
    for ask in draws.shuffled((_one, _two) * TRIES):
        one = ask(scene.objects, draws)
        if one is not None:
            said = sorted(map(repr, (*one.answers, *one.rationales)))
            asked.setdefault(repr((one.question, said)), one)
    return list(asked.values())[:CHOICES_A_SCENE]
