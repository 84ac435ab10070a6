"""Referring expressions that identify exactly one object of a scene."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vilbert.pipeline.shapes.draws import Draws, Stream
from vilbert.pipeline.shapes.facts import (
    OPPOSITES,
    Description,
    described,
    furthest,
    holds,
    names_of,
    spoken,
)
from vilbert.pipeline.shapes.scene import Scene, SceneObject

OBJECTS_A_SCENE = 2
EXPRESSIONS_AN_OBJECT = 3

Objects = Sequence[SceneObject]
_SIDES = {"left of": "leftmost", "right of": "rightmost", "above": "topmost", "below": "lowest"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """An object and its expressions."""

    position: int
    """Position of the object in its scene."""
    expressions: tuple[str, ...]
    """Lower case, without punctuation."""


def _vague(item: SceneObject, objects: Objects) -> list[Description]:
    """Return the short descriptions that match `item` and other objects."""
    short = [described(item, said) for said in (["shape"], ["colour"], ["colour", "shape"], ["texture", "shape"])]
    return [description for description in short if description.count(objects) > 1]


def _beside(item: SceneObject, vague: Description, objects: Objects, draws: Draws) -> str | None:
    """Return an ambiguous description made unique by a relation to another object: `star left of the ring`."""
    rivals = [other for other in objects if other is not item and vague.fits(other)]
    found = [
        (relation, other)
        for other in objects
        if other is not item and other not in rivals
        for relation, opposite in OPPOSITES.items()
        if holds(relation, item, other) and all(holds(opposite, rival, other) for rival in rivals)
    ]
    if not found:
        return None
    relation, other = draws.choice(found)
    names = names_of(other, objects)
    return f"{vague.phrase()} {spoken(relation, draws)} the {draws.choice(names).phrase()}" if names else None


def _outermost(item: SceneObject, vague: Description, objects: Objects) -> str | None:
    """Return an expression such as `leftmost star` with its object."""
    rivals = [other for other in objects if vague.fits(other)]
    side = next((word for relation, word in _SIDES.items() if furthest(relation, rivals) is item), None)
    return f"{side} {vague.phrase()}" if side else None


def _expressions(item: SceneObject, objects: Objects, draws: Draws) -> tuple[str, ...]:
    found = [name.phrase() for name in names_of(item, objects)]
    for vague in _vague(item, objects):
        found += [text for text in (_beside(item, vague, objects, draws), _outermost(item, vague, objects)) if text]
    return tuple(draws.sample(found, min(len(found), EXPRESSIONS_AN_OBJECT)))


def references(scene: Scene) -> list[Reference]:
    """Return up to two of the scene's objects, each with up to three expressions."""
    draws = Draws(scene.seed, scene.index, Stream.EXPRESSIONS)
    called = [
        Reference(position=position, expressions=expressions)
        for position in draws.shuffled(range(len(scene.objects)))
        if (expressions := _expressions(scene.objects[position], scene.objects, draws))
    ]
    return called[:OBJECTS_A_SCENE]
