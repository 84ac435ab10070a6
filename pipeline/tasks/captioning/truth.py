"""Check whether a caption is true of a scene of the shapes data set, using the scene's objects.

Overlap with reference captions hardly penalises a wrong colour and penalises other true sentences. Here each of the
five kinds of sentence that `vilbert.pipeline.shapes.captions` generates is parsed and checked: every named object must
exist, two named objects must be two, numbers must be exact. Any other sentence states nothing and does not count as
true.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.shapes.facts import NUMBERS, OPPOSITES, VALUES, Description, article, furthest, holds
from vilbert.pipeline.shapes.scene import SceneObject
from vilbert.untrusted.documents import parse_json

Objects = Sequence[SceneObject]

_PHRASE = "[a-z ]+?"
_LIST = "[a-z, ]+?"
_SIDES = {"leftmost": "left of", "rightmost": "right of", "topmost": "above", "lowest": "below"}
_MOST_NAMED = 5  # objects in a list; and fewer where the list is not all of a caption
_MOST_SHARING, _MOST_OTHERS = 3, 4


def normal(caption: str) -> str:
    """Normalise a caption: lower case, no full stop, regular spaces (joined tokens may be spaced irregularly)."""
    spaced = re.sub(r"\s*([,:.])\s*", r"\1 ", " ".join(caption.lower().split())).strip()
    return spaced.removesuffix(".").rstrip()


def _phrase(words: str, count: int = 1) -> Description | None:
    """Parse a noun phrase for `count` objects: `large red star`, `striped objects`."""
    said: dict[str, str] = {}
    for word in words.split(" "):
        single = next((shape for shape in VALUES["shape"] if Description(shape=shape).phrase(count) == word), None)
        name = "shape" if single else next((name for name, values in VALUES.items() if word in values), None)
        if name and name not in said:
            said[name] = single or word
    description = Description(**said)
    return description if description.phrase(count) == words else None


def _one(words: str) -> Description | None:
    """Parse `a large red star`."""
    _, _, rest = words.partition(" ")
    found = _phrase(rest)
    return found if found and article(rest) == words else None


def _several(words: str) -> tuple[Description, int] | None:
    """Parse `two red stars`; return the description and the count."""
    number, _, rest = words.partition(" ")
    count = NUMBERS.index(number) if number in NUMBERS else 0
    found = _phrase(rest, count) if count else None
    return (found, count) if found else None


def _parts(text: str) -> list[str]:
    """Split `a, b and c` into its members; other text is returned unchanged."""
    before, separator, last = text.rpartition(" and ")
    return [*before.split(", "), last] if separator else [text]


def _kinds(text: str) -> list[tuple[str, str]] | None:
    """Return the colour and shape of each member of `a red star and a blue ring`."""
    found = [_one(part) for part in _parts(text)]
    kinds = [(it.colour, it.shape) for it in found if it and it.colour and it.shape and len(it.words()) == 2]
    return kinds if len(kinds) == len(found) else None


def _loose(words: str) -> Description | None:
    """Parse a phrase that names at least colour and shape."""
    found = _one(words)
    return found if found and found.colour and found.shape else None


def _there(kinds: Iterable[tuple[str, str]], objects: Objects) -> bool:
    """Return whether the scene has at least as many objects of each colour and shape as named."""
    return not Counter(kinds) - Counter((item.colour, item.shape) for item in objects)


def _inventory(objects: Objects, verb: str | None, listed: str) -> bool | None:
    """`two red stars and one blue ring on a plain background`: all there is, with exact numbers."""
    found = [_several(part) for part in _parts(listed)]
    if verb is not None and verb != ("is" if listed.startswith("one ") else "are"):
        return None
    said = Counter[tuple[str, str]]()
    for one in found:
        if one is None or not (one[0].colour and one[0].shape and len(one[0].words()) == 2):
            return None
        if (one[0].colour, one[0].shape) in said:
            return False  # two numbers for one kind
        said[one[0].colour, one[0].shape] = one[1]
    return said == Counter((item.colour, item.shape) for item in objects)


def _relation(objects: Objects, first: str, relation: str, second: str) -> bool | None:
    """`a red star is to the left of a large blue ring`: of some two objects."""
    left, right = _loose(first), _loose(second)
    if left is None or right is None:
        return None
    return any(left.fits(a) and right.fits(b) and holds(relation, a, b) for a in objects for b in objects)


def _catalogue(objects: Objects, listed: str) -> bool | None:
    """`a red star, a blue ring and a blue ring`: there are such objects, maybe others too."""
    kinds = _kinds(listed)
    return None if kinds is None or len(kinds) > _MOST_NAMED else _there(kinds, objects)


def _share(objects: Objects, count: str, total: str, verb: str | None, value: str, listed: str) -> bool | None:
    """`two of the five objects are red: a red star and a red ring`: exact numbers, and three at most by name."""
    attribute = next((name for name, values in VALUES.items() if value in values), "shape")
    kinds, whole = _kinds(listed), _several(total)
    if attribute == "shape" or kinds is None or whole is None or whole[0].words():
        return None
    said = whole[1] if count == "all" else NUMBERS.index(count) if count in NUMBERS else 0
    if not said or (verb is not None and verb != ("is" if said == 1 else "are")):
        return None
    having = [item for item in objects if getattr(item, attribute) == value]
    right_numbers = whole[1] == len(objects) and said == len(having)
    return right_numbers and len(kinds) == min(said, _MOST_SHARING) and _there(kinds, having)


def _extreme(objects: Objects, side: str, first: str, others: str) -> bool | None:
    """`the leftmost object is a red star, beside a blue ring`: it is clearly so, and the others are others."""
    said, kinds = _loose(first), _kinds(others)
    if said is None or kinds is None or len(kinds) > _MOST_OTHERS:
        return None
    item = furthest(_SIDES[side], objects)
    return item is not None and said.fits(item) and _there(kinds, [other for other in objects if other is not item])


_RELATIONS = "|".join(OPPOSITES)
_TO_THE = "(?:to the (?=left|right))?"
_SENTENCES: tuple[tuple[str, Callable[..., bool | None]], ...] = (
    (f"(?P<listed>{_LIST}) on a plain background", lambda o, listed: _inventory(o, None, listed)),
    (f"there (?P<verb>is|are) (?P<listed>{_LIST}) in the picture", _inventory),
    (f"an image of (?P<listed>{_LIST})", lambda o, listed: _inventory(o, None, listed)),
    (
        f"(?P<count>[a-z]+) of the (?P<total>[a-z]+ objects?) (?P<verb>is|are) (?P<value>[a-z]+): (?P<listed>{_LIST})",
        _share,
    ),
    (
        f"(?P<total>[a-z]+ objects?), (?P<count>[a-z]+) of them (?P<value>[a-z]+): (?P<listed>{_LIST})",
        lambda o, **said: _share(o, verb=None, **said),
    ),
    (f"the (?P<side>{'|'.join(_SIDES)}) object is (?P<first>{_PHRASE}), beside (?P<others>{_LIST})", _extreme),
    (f"(?:there is )?(?P<first>{_PHRASE}) {_TO_THE}(?P<relation>{_RELATIONS}) (?P<second>{_PHRASE})", _relation),
    (f"(?P<first>{_PHRASE}) is {_TO_THE}(?P<relation>{_RELATIONS}) (?P<second>{_PHRASE})", _relation),
    (f"(?:a picture with |you can see )?(?P<listed>{_LIST})", _catalogue),
)


def is_true(caption: str, scene_objects: Objects) -> bool | None:
    """Return whether a caption is true of a scene; None if it is not one of the data set's kinds of sentence.

    An inventory (`... on a plain background`, `there are ... in the picture`, `an image of ...`) must name all objects;
    other lists need not. Case, the full stop and spaces are ignored, but grammar is not: `an red stars` is not a
    sentence.
    """
    text = normal(caption)
    for pattern, judge in _SENTENCES:
        if match := re.fullmatch(pattern, text):
            verdict = judge(scene_objects, **match.groupdict())
            if verdict is not None:
                return verdict
    return None


def truth_share(captions: Mapping[str, str], scenes: Mapping[str, Objects]) -> float:
    """Return the fraction of images whose caption is true; captions and scenes by image id.

    Raises:
        RefusedError: An image has no scene, or there are no captions.
    """
    if not captions:
        raise RefusedError("no captions to check; give at least one")
    for image_id in captions:
        if image_id not in scenes:
            raise RefusedError(
                f"image {image_id}: has a caption but no scene; give the scenes.jsonl of the same images"
            )
    return sum(is_true(caption, scenes[image_id]) is True for image_id, caption in captions.items()) / len(captions)


def read_scenes(path: Path) -> dict[str, tuple[SceneObject, ...]]:
    """Read the objects of each scene of a `scenes.jsonl`, by image id as text.

    Raises:
        RefusedError: A line is not a scene; the message names it.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise RefusedError(
            f"{path}: cannot be read ({error.strerror}); give a shapes data set's scenes.jsonl"
        ) from error
    scenes: dict[str, tuple[SceneObject, ...]] = {}
    for number, line in enumerate(lines, start=1):
        try:
            row = parse_json(line)
            scenes[str(row["image_id"])] = tuple(map(_object, row["objects"]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RefusedError(
                f"{path}, line {number}: is not a scene ({type(error).__name__}: {error}); write the data set again"
            ) from error
    return scenes


def _object(row: Mapping[str, Any]) -> SceneObject:
    x1, y1, x2, y2 = row["box_xyxy"]
    return SceneObject(**{**row, "box_xyxy": (x1, y1, x2, y2)})
