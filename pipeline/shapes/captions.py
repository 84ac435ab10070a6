"""Five correct captions of a scene, each of a different kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import permutations

from vilbert.pipeline.shapes.draws import Draws, Stream
from vilbert.pipeline.shapes.facts import (
    NUMBERS,
    OPPOSITES,
    VALUES,
    Description,
    article,
    described,
    furthest,
    listed,
    numbered,
    relations,
    spoken,
)
from vilbert.pipeline.shapes.scene import Scene, SceneObject

Objects = Sequence[SceneObject]


def _loose(item: SceneObject, draws: Draws) -> Description:
    """Return an informal description of `item`: its colour, its shape, and sometimes more."""
    said = draws.sample([name for name in VALUES if name not in ("colour", "shape")], draws.between(0, 2))
    return described(item, ["colour", *said, "shape"])


def _inventory(objects: Objects, draws: Draws) -> str:
    """Return a caption with the number of objects of each colour and shape."""
    counts = Counter((item.colour, item.shape) for item in objects)
    kinds = draws.shuffled(sorted(counts))
    parts = [numbered(Description(colour=colour, shape=shape), counts[colour, shape]) for colour, shape in kinds]
    form = draws.choice(["{} on a plain background", "there {verb} {} in the picture", "an image of {}"])
    return form.format(listed(parts), verb="is" if parts[0].startswith("one ") else "are")


def _relation(objects: Objects, draws: Draws) -> str | None:
    """Return a caption with the spatial relation of two objects."""
    pairs = [(a, b) for a, b in permutations(objects, 2) if relations(a, b)]
    if not pairs:
        return None
    first, second = draws.choice(pairs)
    relation = spoken(draws.choice(relations(first, second)), draws)
    parts = [article(_loose(item, draws).phrase()) for item in (first, second)]
    return draws.choice(["{} {} {}", "{} is {} {}", "there is {} {} {}"]).format(parts[0], relation, parts[1])


def _catalogue(objects: Objects, draws: Draws) -> str:
    """Return a caption that lists up to five combinations of colour and shape in alphabetical order."""
    kinds = sorted({(item.shape, item.colour) for item in objects})[:5]
    named = listed([article(Description(colour=colour, shape=shape).phrase()) for shape, colour in kinds])
    return draws.choice(["{}", "a picture with {}", "you can see {}"]).format(named)


def _share(objects: Objects, draws: Draws) -> str:
    """Return a caption about the number of objects with a common attribute, and what they are."""
    attribute = draws.choice([name for name in VALUES if name != "shape"])
    value = getattr(draws.choice(objects), attribute)
    having = [item for item in objects if getattr(item, attribute) == value]
    total = numbered(Description(), len(objects))
    which = listed([article(described(item, ["colour", "shape"]).phrase()) for item in having[:3]])
    count = "all" if len(having) == len(objects) else NUMBERS[len(having)]
    verb = "is" if len(having) == 1 else "are"
    return draws.choice(
        [f"{count} of the {total} {verb} {value}: {which}", f"{total}, {count} of them {value}: {which}"]
    )


def _extreme(objects: Objects, draws: Draws) -> str | None:
    """Return a caption about the outermost object on one side and the other objects."""
    sides = {"left of": "leftmost", "right of": "rightmost", "above": "topmost", "below": "lowest"}
    found = [(sides[relation], item) for relation in OPPOSITES if (item := furthest(relation, objects))]
    if not found:
        return None
    side, item = draws.choice(found)
    others = draws.shuffled([other for other in objects if other is not item])[:4]
    named = listed([article(described(other, ["colour", "shape"]).phrase()) for other in others])
    return f"the {side} object is {article(_loose(item, draws).phrase())}, beside {named}"


_VIEWS: tuple[Callable[[Objects, Draws], str | None], ...] = (_inventory, _relation, _catalogue, _share, _extreme)


def captions(scene: Scene) -> list[str]:
    """Return five captions, with or without a final full stop, like those of annotators."""
    draws = Draws(scene.seed, scene.index, Stream.CAPTIONS)
    said = [view(scene.objects, draws) or _catalogue(scene.objects, draws) for view in draws.shuffled(_VIEWS)]
    return [caption[0].upper() + caption[1:] + ("." if draws.chance(60) else "") for caption in said]
