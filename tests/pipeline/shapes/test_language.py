"""Everything that is said of a scene is read again by a small checker of its own, and judged by boxes and words."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import permutations
from typing import Any

import pytest

from vilbert.pipeline.shapes.captions import captions
from vilbert.pipeline.shapes.choices import Choices, choices
from vilbert.pipeline.shapes.expressions import references
from vilbert.pipeline.shapes.questions import Question, questions
from vilbert.pipeline.shapes.scene import CLASS_NAMES, COLOURS, SIZES, TEXTURES, Scene, SceneObject, make_scene

NUMBERS = {"no": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7}
RELATION = r"(?:to the )?(left of|right of|above|below)"
SIDES = {"leftmost": "left of", "rightmost": "right of", "topmost": "above", "lowest": "below"}

ALL_WORDS = {*COLOURS, *SIZES, *TEXTURES, *CLASS_NAMES}

Objects = tuple[SceneObject, ...]


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [make_scene(21, index) for index in range(700)]


def values(item: SceneObject) -> set[str]:
    return {item.size, item.texture, item.colour, item.shape}


def singular(word: str) -> str:
    return {"crosses": "cross", "objects": "object"}.get(
        word, word[:-1] if word.endswith("s") and word != "cross" else word
    )


def meant(phrase: str, objects: Objects) -> list[SceneObject]:
    """Return the objects that a noun phrase fits: `a large red star`, `striped objects`."""
    words = {singular(word) for word in re.sub(r"^(a|an|the) ", "", phrase).split()} - {"object"}
    assert words <= ALL_WORDS, f"words that the checker does not know: {words}"
    return [item for item in objects if words <= values(item)]


def the(phrase: str, objects: Objects) -> SceneObject:
    found = meant(phrase, objects)
    assert len(found) == 1, f"{phrase!r} is not one object"
    return found[0]


def centre(item: SceneObject) -> tuple[float, float]:
    x1, y1, x2, y2 = item.box_xyxy
    return (x1 + x2) / 2, (y1 + y2) / 2


def stands(relation: str, first: SceneObject, second: SceneObject) -> bool | None:
    """Return True or False where the centres are at least 12 pixels apart, None where a reader may doubt."""
    axis = 0 if relation in ("left of", "right of") else 1
    gap = centre(second)[axis] - centre(first)[axis]
    if abs(gap) < 12:
        return None
    return (gap > 0) == (relation in ("left of", "above"))


def parts(text: str) -> list[str]:
    return re.split(r", | and ", text)


def different_objects(phrases: list[str], objects: Objects) -> bool:
    """Return whether the phrases fit as many different objects."""
    return any(
        all(item in meant(phrase, objects) for phrase, item in zip(phrases, chosen, strict=True))
        for chosen in permutations(objects, len(phrases))
    )


def true_caption(caption: str, objects: Objects) -> bool:
    text = caption[0].lower() + caption[1:].rstrip(".")
    count = "|".join(NUMBERS)
    if match := re.fullmatch(r"the (\w+) object is (an? .*?), beside (.*)", text):
        side, phrase, others = match.groups()
        outermost = [
            item for item in objects if all(o is item or stands(SIDES[side], item, o) is True for o in objects)
        ]
        rest = tuple(item for item in objects if item not in outermost)
        named = parts(others)
        every = len(named) == min(4, len(rest)) and different_objects(named, rest)
        return every and len(outermost) == 1 and outermost[0] in meant(phrase, objects)
    for form in (
        rf"(?P<some>all|{count}) of the (?P<number>{count}) objects (?:is|are) (?P<value>\w+): (?P<which>.*)",
        rf"(?P<number>{count}) objects, (?P<some>all|{count}) of them (?P<value>\w+): (?P<which>.*)",
    ):
        if match := re.fullmatch(form, text):
            having = meant(match["value"], objects)
            some = len(objects) if match["some"] == "all" else NUMBERS[match["some"]]
            phrases = parts(match["which"])
            counted = NUMBERS[match["number"]] == len(objects) and some == len(having)
            return counted and len(phrases) == min(3, len(having)) and different_objects(phrases, tuple(having))
    if match := re.fullmatch(rf"(?:there is )?(an? .*?) (?:is )?{RELATION} (an? .*)", text):
        first, relation, second = match.groups()
        return any(stands(relation, a, b) is True for a in meant(first, objects) for b in meant(second, objects))
    forms = (r"there (?:is|are) (.*) in the picture", r"an image of (.*)", r"(.*) on a plain background")
    for form in forms:
        if match := re.fullmatch(form, text):
            said = {tuple(map(singular, p.split()[1:])): NUMBERS[p.split()[0]] for p in parts(match[1])}
            return said == Counter((item.colour, item.shape) for item in objects)
    phrases = parts(re.sub("^(a picture with|you can see) ", "", text))
    kinds = sorted({(item.shape, item.colour) for item in objects})[:5]
    return [tuple(phrase.split()[1:]) for phrase in phrases] == [(colour, shape) for shape, colour in kinds]


def test_captions_are_true_and_of_different_kinds(scenes: list[Scene]) -> None:
    for scene in scenes:
        said = captions(scene)
        assert len(said) == 5
        assert all(true_caption(caption, scene.objects) for caption in said), (scene.index, said)
        assert all(caption[0].isupper() and caption.strip() == caption for caption in said)


def test_captions_tell_scenes_apart(scenes: list[Scene]) -> None:
    """Shown with another scene, most captions are false: image and text must be compared."""
    others = [
        true_caption(caption, other.objects)
        for scene, other in zip(scenes, scenes[1:] + scenes[:1], strict=True)
        for caption in captions(scene)
    ]
    assert sum(others) / len(others) < 0.1


def answer(question: Question, objects: Objects) -> str:
    text = question.text
    if match := re.fullmatch(r"Is there (an? .*?)(?: in the picture)?\?", text):
        return "yes" if meant(match[1], objects) else "no"
    if match := re.fullmatch(r"How many (.*?) (?:are there|can you see)\?", text):
        return str(len(meant(match[1], objects)))
    match = re.fullmatch(r"What (color|shape|size|pattern) (?:is|is on) the (.*)\?", text)
    assert match, f"a question that the checker does not know: {text}"
    name = {"color": "colour", "pattern": "texture"}.get(match[1], match[1])
    return str(getattr(the(match[2], objects), name))


def test_answers_are_true_and_most_annotators_agree(scenes: list[Scene]) -> None:
    for scene in scenes:
        asked = questions(scene)
        assert 1 <= len({question.text for question in asked}) == len(asked) <= 12
        for question in asked:
            assert question.answer == answer(question, scene.objects), (scene.index, question)
            given = Counter(text for text, _ in question.answers)
            assert given.total() == 10
            assert given.most_common(1)[0][0] == question.answer
            assert given[question.answer] >= 7
            assert {confidence for _, confidence in question.answers} <= {"yes", "maybe", "no"}


def test_annotators_disagree_now_and_then(scenes: list[Scene]) -> None:
    asked = [question for scene in scenes for question in questions(scene)]
    disputed = [question for question in asked if len({text for text, _ in question.answers}) > 1]
    assert 0.2 < len(disputed) / len(asked) < 0.4


def test_the_question_does_not_give_the_answer_away(scenes: list[Scene]) -> None:
    """The best guess from the question's own words, learnt on 600 scenes, is right in fewer than 60 % of each kind."""
    by_text: dict[str, Counter[str]] = defaultdict(Counter)
    by_kind: dict[str, Counter[str]] = defaultdict(Counter)
    for scene in scenes[:600]:
        for question in questions(scene):
            by_text[question.text][question.answer] += 1
            by_kind[question.kind][question.answer] += 1
    right: dict[str, list[bool]] = defaultdict(list)
    for scene in scenes[600:]:
        for question in questions(scene):
            counts = by_text.get(question.text) or by_kind[question.kind]
            right[question.kind].append(counts.most_common(1)[0][0] == question.answer)
    assert len(right) == 6
    # A bound of three standard deviations over chance for the yes/no kinds, of some 50 questions each.
    assert all(sum(hits) / len(hits) < 0.5 + 1.5 / len(hits) ** 0.5 for hits in right.values()), right
    assert all(counts.most_common(1)[0][1] / counts.total() < 0.6 for counts in by_kind.values())


def test_answer_types_are_the_published_ones(scenes: list[Scene]) -> None:
    types = Counter(question.answer_type for scene in scenes for question in questions(scene))
    assert set(types) == {"yes/no", "number", "other"}
    assert all(count > 0.08 * types.total() for count in types.values())


def spelled(tokens: Iterable[Any]) -> str:
    return " ".join(token if isinstance(token, str) else f"#{token[0]}" for token in tokens)


def facts(tokens: Iterable[Any], objects: Objects) -> list[tuple[str, bool]]:
    """Return the two facts of a choice, each with whether it is true."""
    text = spelled(tokens)
    if match := re.fullmatch(r"#(\d) is (\w+) and #(\d) is (\w+) \.", text):
        said = [(match[1], match[2]), (match[3], match[4])]
    elif match := re.fullmatch(r"#(\d) is (\w+) and (\w+) \.", text):
        said = [(match[1], match[2]), (match[1], match[3])]
    else:
        match = re.fullmatch(r"#(\d) is (\w+) and beside (an? \w+ \w+) \.", text)
        assert match, f"a choice that the checker does not know: {text}"
        others = [item for item in objects if item is not objects[int(match[1])]]
        look = (f"#{match[1]} {match[2]}", match[2] in values(objects[int(match[1])]))
        return [look, (match[3], bool(meant(match[3], tuple(others))))]
    assert all(value in ALL_WORDS for _, value in said)
    return [(f"{tag} {value}", value in values(objects[int(tag)])) for tag, value in said]


def check_four(four: tuple[Any, ...], label: int, objects: Objects) -> None:
    judged = [facts(tokens, objects) for tokens in four]
    truths = [[truth for _, truth in said] for said in judged]
    assert sorted(truths) == [[False, False], [False, True], [True, False], [True, True]]
    assert truths[label] == [True, True]
    for column in (0, 1):  # each fact and its change occur twice: no choice is the odd one out
        assert sorted(Counter(said[column][0] for said in judged).values()) == [2, 2]


def test_one_choice_of_four_is_true(scenes: list[Scene]) -> None:
    asked: list[Choices] = []
    for scene in scenes:
        for one in choices(scene):
            check_four(one.answers, one.answer_label, scene.objects)
            check_four(one.rationales, one.rationale_label, scene.objects)
            assert any(isinstance(token, list) for token in one.question)
            asked.append(one)
        tagged = {
            object_
            for one in choices(scene)
            for tokens in (one.question, *one.answers, *one.rationales)
            for token in tokens
            if isinstance(token, list)
            for object_ in token
        }
        shapes = Counter(item.shape for item in scene.objects)
        assert all(shapes[scene.objects[number].shape] == 1 for number in tagged)
    assert len(asked) > 0.5 * len(scenes)
    labels = Counter((one.answer_label, one.rationale_label) for one in asked)
    assert len(labels) == 16
    assert max(labels.values()) < 2 * min(labels.values())


def referred(text: str, objects: Objects) -> list[SceneObject]:
    if match := re.fullmatch(rf"(.*?) {RELATION} the (.*)", text):
        anchor = the(match[3], objects)
        verdicts = [(stands(match[2], item, anchor), item) for item in meant(match[1], objects) if item is not anchor]
        assert all(verdict is not None for verdict, _ in verdicts), "another object may also be meant"
        return [item for verdict, item in verdicts if verdict]
    if match := re.fullmatch(rf"({'|'.join(SIDES)}) (.*)", text):
        found = meant(match[2], objects)
        return [item for item in found if all(o is item or stands(SIDES[match[1]], item, o) for o in found)]
    return meant(text, objects)


def test_an_expression_refers_to_one_object(scenes: list[Scene]) -> None:
    kinds: Counter[str] = Counter()
    for scene in scenes:
        called = references(scene)
        assert len(called) <= 2
        assert len({reference.position for reference in called}) == len(called)
        for reference in called:
            assert 1 <= len(set(reference.expressions)) == len(reference.expressions) <= 3
            for text in reference.expressions:
                assert referred(text, scene.objects) == [scene.objects[reference.position]], (scene.index, text)
                assert text == text.lower()
                relational = re.search(RELATION, text) or text.split()[0] in SIDES
                kinds["relational" if relational else "attributes"] += 1
    assert min(kinds.values()) > 0.2 * kinds.total()


@pytest.mark.parametrize(
    ("caption", "verdict"),
    [
        ("A red star to the left of a small blue ring.", True),
        ("A red star to the right of a blue ring", False),
        ("Two of the two objects are solid: a red star and a blue ring", False),
        ("One of the two objects is solid: a red star.", True),
        ("There is one red star and one blue ring in the picture.", True),
        ("There are two red stars in the picture.", False),
        ("A large star and a red star", False),
        ("You can see a blue ring and a red star", True),
        ("The leftmost object is a striped star, beside a blue ring.", False),
        ("All of the two objects are red: a red star and a red ring", False),
    ],
)
def test_the_checker_tells_true_from_false(caption: str, verdict: bool) -> None:
    star = SceneObject(
        shape="star",
        colour="red",
        size="large",
        texture="solid",
        x=40,
        y=50,
        radius=20,
        angle=0,
        box_xyxy=(20, 30, 60, 70),
    )
    ring = SceneObject(
        shape="ring",
        colour="blue",
        size="small",
        texture="dotted",
        x=90,
        y=50,
        radius=9,
        angle=0,
        box_xyxy=(81, 41, 99, 59),
    )
    assert true_caption(caption, (star, ring)) is verdict
