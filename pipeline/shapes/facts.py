"""Unambiguous facts about a scene: descriptions that identify an object, and spatial relations between objects.

Everything that is written about a scene (captions, questions, choices, expressions) is made from these.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations

from vilbert.pipeline.shapes.draws import Draws
from vilbert.pipeline.shapes.outline import CLASS_NAMES
from vilbert.pipeline.shapes.scene import COLOURS, SIZES, TEXTURES, SceneObject

VALUES = {"size": SIZES, "texture": TEXTURES, "colour": COLOURS, "shape": CLASS_NAMES}
"""The values of each attribute, in the order of the words in English."""
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven")
OPPOSITES = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
MARGIN = 16
"""Pixels by which the centres of two boxes differ where a relation is claimed or denied."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """A description of objects; attributes that are None are omitted."""

    size: str | None = None
    texture: str | None = None
    colour: str | None = None
    shape: str | None = None

    def words(self) -> list[str]:
        """Return the words in English order, without a noun if the shape is omitted."""
        return [value for name in VALUES if (value := getattr(self, name)) is not None]

    def fits(self, item: SceneObject) -> bool:
        """Return whether the description matches `item`."""
        return (
            self.size in (None, item.size)
            and self.texture in (None, item.texture)
            and self.colour in (None, item.colour)
            and self.shape in (None, item.shape)
        )

    def count(self, objects: Iterable[SceneObject]) -> int:
        """Return the number of `objects` that the description matches."""
        return sum(self.fits(item) for item in objects)

    def phrase(self, count: int = 1) -> str:
        """Return the words with their noun: `large red star`, `striped objects`."""
        noun = self.shape or "object"
        if count != 1:
            noun += "es" if noun.endswith("s") else "s"
        return " ".join([*(word for word in self.words() if word != self.shape), noun])

    def without(self, attribute: str) -> Description:
        """Return the description without one attribute."""
        return replace(self, **{attribute: None})


def described(item: SceneObject, attributes: Iterable[str]) -> Description:
    """Return the description of `item` by these attributes."""
    return Description(**{name: getattr(item, name) for name in attributes})


def numbered(description: Description, count: int) -> str:
    """Return `two red stars`, `no circles`, `one large ring`."""
    return f"{NUMBERS[count]} {description.phrase(count)}"


def article(phrase: str) -> str:
    """Return the phrase after `a` or `an`."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def listed(parts: Sequence[str]) -> str:
    """Return `a, b and c`."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else parts[0]


def looks(item: SceneObject) -> tuple[str, str, str, str]:
    """Return the object's values of the attributes, in the order of VALUES."""
    return item.size, item.texture, item.colour, item.shape


def names_of(item: SceneObject, objects: Sequence[SceneObject], *, without: str = "") -> list[Description]:
    """Return the descriptions that match only `item` and from which no word can be removed.

    `without` names an attribute that must not be said. Empty where another object looks the same.
    """
    shared = frozenset(_shared(item, other) for other in objects if other is not item)
    return [described(item, said) for said in _distinguishing(shared, without)]


def _shared(first: SceneObject, second: SceneObject) -> frozenset[str]:
    """Return the attributes that two objects have in common."""
    pairs = zip(VALUES, looks(first), looks(second), strict=True)
    return frozenset(name for name, value, other in pairs if value == other)


@cache
def _distinguishing(shared: frozenset[frozenset[str]], without: str) -> list[tuple[str, ...]]:
    """Return the smallest sets of attributes, but `without`, that are part of no set of `shared`."""
    allowed = [name for name in VALUES if name != without]
    found: list[tuple[str, ...]] = []
    for size in range(1, len(allowed) + 1):
        for said in combinations(allowed, size):
            if not any(set(shorter) <= set(said) for shorter in found) and not any(set(said) <= one for one in shared):
                found.append(said)
    return found


def _offset(first: SceneObject, second: SceneObject, axis: int) -> int:
    """Return by how many half pixels the centre of the second box lies right of or below the first's."""
    return sum(second.box_xyxy[axis::2]) - sum(first.box_xyxy[axis::2])


def holds(relation: str, first: SceneObject, second: SceneObject) -> bool:
    """Return whether `first` is clearly `relation` (a key of OPPOSITES) `second`."""
    offset = _offset(first, second, 0 if relation in ("left of", "right of") else 1)
    return (offset if relation in ("left of", "above") else -offset) >= 2 * MARGIN


def relations(first: SceneObject, second: SceneObject) -> list[str]:
    """Return what clearly holds between the two: none, one or two of the keys of OPPOSITES."""
    return [relation for relation in OPPOSITES if holds(relation, first, second)]


def spoken(relation: str, draws: Draws) -> str:
    """Return a natural wording of the relation: `to the left of`, `left of`, `above`."""
    if relation in ("left of", "right of") and draws.chance(70):
        return f"to the {relation}"
    return relation


def furthest(relation: str, objects: Sequence[SceneObject]) -> SceneObject | None:
    """Return the object that is clearly `relation` every other one, if there is one."""
    for item in objects:
        if all(other is item or holds(relation, item, other) for other in objects):
            return item
    return None


def other_value(attribute: str, value: str, draws: Draws) -> str:
    """Return another value of the attribute."""
    return draws.choice([other for other in VALUES[attribute] if other != value])
