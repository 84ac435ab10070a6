"""Questions with four answers and four reasons, of which one each is true (Zellers et al. 2019, VCR).

The four are the two facts of the truth, each as it is and changed, in all combinations: so no choice is the odd one
out, and the text alone tells nothing. What is changed is never the shape, which the tags of the objects give away.

Objects are tagged whose shape no other object of the scene has: a model reads of a tag the shape alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations, product

from pipeline.shapes.draws import Draws, Stream
from pipeline.shapes.facts import OPPOSITES, other_value, relations
from pipeline.shapes.scene import Scene, SceneObject

TRIES = 3
"""How often each kind of question is asked of a scene."""
Tokens = list[str | list[int]]
"""Words, and lists of positions of objects."""
Objects = Sequence[SceneObject]
Pair = tuple[str, str]
"""A fact as it is, and changed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choices:
    """One question with its choices."""

    question: Tokens
    answers: tuple[Tokens, ...]
    answer_label: int
    """Position of the true answer."""
    rationales: tuple[Tokens, ...]
    rationale_label: int
    """Position of the true reason."""


def _four(first: Pair, second: Pair, draws: Draws) -> tuple[list[Pair], int]:
    """Return the combinations in random order, and where the true one is."""
    mixed = draws.shuffled(list(product(first, second)))
    return mixed, mixed.index((first[0], second[0]))


def _changed(item: SceneObject, attribute: str, objects: Objects, draws: Draws) -> Pair:
    """Return the object's value and another, from another object where one has another."""
    value: str = getattr(item, attribute)
    around = sorted({getattr(other, attribute) for other in objects} - {value})
    return value, draws.choice(around) if around else other_value(attribute, value, draws)


def _side(first: SceneObject, second: SceneObject, sides: tuple[str, str]) -> Pair | None:
    """Return the relation of the two along one axis and its opposite; None where it is not clear."""
    clear = [relation for relation in relations(first, second) if relation in sides]
    return (clear[0], OPPOSITES[clear[0]]) if clear else None


def _tagged(objects: Objects) -> list[int]:
    """Return the positions of objects whose shape no other has."""
    counts = Counter(item.shape for item in objects)
    return [position for position, item in enumerate(objects) if counts[item.shape] == 1]


_ACROSS, _DOWN = ("left of", "right of"), ("above", "below")


def _look(objects: Objects, draws: Draws) -> Choices | None:
    """Ask what an object looks like; the reason says where it is."""
    places = [
        (i, j, k, across, down)
        for i, j, k in product(_tagged(objects), repeat=3)
        if (across := _side(objects[i], objects[j], _ACROSS)) and (down := _side(objects[i], objects[k], _DOWN))
    ]
    if not places:
        return None
    i, j, k, across, down = draws.choice(places)
    attributes = draws.sample(["colour", "texture", "size"], 2)
    first, second = (_changed(objects[i], name, objects, draws) for name in attributes)
    looks, answer_label = _four(first, second, draws)
    sides, rationale_label = _four(across, down, draws)
    return Choices(
        question=["What", "does", [i], "look", "like", "?"],
        answers=tuple([[i], "is", a, "and", b, "."] for a, b in looks),
        answer_label=answer_label,
        rationales=tuple([[i], "is", *a.split(), [j], "and", *b.split(), [k], "."] for a, b in sides),
        rationale_label=rationale_label,
    )


def _place(objects: Objects, draws: Draws) -> Choices | None:
    """Ask where an object is, seen from another; the reason says what the two look like."""
    places = [
        (i, j, across, down)
        for i, j in permutations(_tagged(objects), 2)
        if (across := _side(objects[i], objects[j], _ACROSS)) and (down := _side(objects[i], objects[j], _DOWN))
    ]
    if not places:
        return None
    i, j, across, down = draws.choice(places)
    sides, answer_label = _four(across, down, draws)
    attribute = draws.choice(["colour", "texture", "size"])
    first, second = (_changed(objects[n], attribute, objects, draws) for n in (i, j))
    looks, rationale_label = _four(first, second, draws)
    return Choices(
        question=["Where", "is", [i], "seen", "from", [j], "?"],
        answers=tuple([[i], "is", *a.split(), "and", *b.split(), [j], "."] for a, b in sides),
        answer_label=answer_label,
        rationales=tuple([[i], "is", a, "and", [j], "is", b, "."] for a, b in looks),
        rationale_label=rationale_label,
    )


def choices(scene: Scene) -> list[Choices]:
    """Return up to six different questions, in random order."""
    draws = Draws(scene.seed, scene.index, Stream.CHOICES)
    asked: dict[str, Choices] = {}
    for ask in draws.shuffled((_look, _place) * TRIES):
        one = ask(scene.objects, draws)
        if one is not None:
            asked.setdefault(repr((one.question, sorted(map(repr, one.answers)))), one)
    return list(asked.values())
