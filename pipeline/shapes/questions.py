"""Questions about a scene, each with ten simulated answers of annotators.

The answer cannot be told from the question: yes and no are drawn before the question is made to fit, and where an
answer is a number, the number is drawn before what is counted. Each kind of question is a function from the scene to
one, or to None if the scene does not allow one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice, product
from typing import Literal, TypeVar

from vilbert.pipeline.shapes.draws import Draws, Stream
from vilbert.pipeline.shapes.facts import VALUES, Description, article, names_of
from vilbert.pipeline.shapes.scene import MOST_OBJECTS, Scene, SceneObject

QUESTIONS_A_SCENE = 12
ANSWERS_A_QUESTION = 10

Objects = Sequence[SceneObject]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One question, its true answer, and what the annotators wrote."""

    kind: str
    """Kind of the question."""
    text: str
    answer: str
    """The correct answer, which is also the most frequent of `answers`."""
    answers: tuple[tuple[str, str], ...] = ()
    """Ten of (answer, confidence): confidence is yes, maybe or no."""

    @property
    def answer_type(self) -> Literal["yes/no", "number", "other"]:
        """The published three."""
        if self.answer in ("yes", "no"):
            return "yes/no"
        return "number" if self.answer.isdecimal() else "other"

    @property
    def question_type(self) -> str:
        """The first words, as the published files group questions."""
        openings = ("how many", "is there", "is the", "are there more", "are the", "what color is the")
        lowered = self.text.lower()
        return next((words for words in openings if lowered.startswith(words)), " ".join(lowered.split()[:3]))


def _either(yes: Sequence[T], no: Sequence[T], draws: Draws) -> tuple[str, T] | None:
    """Return an answer and one of the cases that have it, the answer drawn first; None unless both answers exist."""
    if not yes or not no:
        return None
    return ("yes", draws.choice(yes)) if draws.chance(50) else ("no", draws.choice(no))


def _pairs(objects: Objects, first: str, second: str) -> list[Description]:
    """Return all pairs of two attributes' values, each of which is there, but maybe not on one object."""
    present = [sorted({getattr(item, name) for item in objects}) for name in (first, second)]
    return [Description(**{first: a, second: b}) for a, b in product(*present)]


def _exists(objects: Objects, draws: Draws) -> Question | None:
    """Ask for a pair of attributes."""
    pairs = _pairs(
        objects, *draws.choice([("colour", "shape"), ("texture", "shape"), ("size", "shape"), ("size", "colour")])
    )
    there = [pair for pair in pairs if pair.count(objects)]
    found = _either(there, [pair for pair in pairs if pair not in there], draws)
    if found is None:
        return None
    answer, pair = found
    form = draws.choice(["Is there {}?", "Is there {} in the picture?"])
    return Question(kind="exists", text=form.format(article(pair.phrase())), answer=answer)


def _how_many(objects: Objects, draws: Draws) -> Question:
    """Ask how many objects match a description; each number that occurs is equally likely."""
    attribute = draws.choice(list(VALUES))
    asked = [Description(), *(Description(**{attribute: value}) for value in VALUES[attribute])]
    counts = [description.count(objects) for description in asked]
    count = draws.choice(sorted(set(counts)))
    description = draws.choice([one for one, number in zip(asked, counts, strict=True) if number == count])
    form = draws.choice(["How many {} are there?", "How many {} can you see?"])
    return Question(kind="how many", text=form.format(description.phrase(0)), answer=str(count))


def _attribute(attribute: str, form: str) -> Callable[[Objects, Draws], Question | None]:
    """Return the kind of question that asks for one attribute of an object described by its other attributes."""

    def ask(objects: Objects, draws: Draws) -> Question | None:
        named = [(item, names) for item in objects if (names := names_of(item, objects, without=attribute))]
        if not named:
            return None
        item, names = draws.choice(named)
        text = form.format(draws.choice(names).phrase())
        return Question(kind=attribute, text=text, answer=getattr(item, attribute))

    return ask


_KINDS: tuple[Callable[[Objects, Draws], Question | None], ...] = (
    *(_exists,) * 12,
    *(_how_many,) * 4,
    *(_attribute("colour", "What color is the {}?"),) * 4,
    *(_attribute("shape", "What shape is the {}?"),) * 4,
    *(_attribute("size", "What size is the {}?"),) * 4,
    *(_attribute("texture", "What pattern is on the {}?"),) * 4,
)
"""Frequency of each kind of question: 38 % of the answers are yes or no and 12 % numbers, as in VQA v2."""


def _mistakes(answer: str) -> list[str]:
    """Return plausible wrong answers."""
    if answer in ("yes", "no"):
        return ["no" if answer == "yes" else "yes"]
    if answer.isdecimal():
        near = (int(answer) - 1, int(answer) + 1)
        return [str(count) for count in near if 0 <= count <= MOST_OBJECTS + 1]
    return [other for values in VALUES.values() if answer in values for other in values if other != answer]


def _annotated(question: Question, draws: Draws) -> Question:
    """Return the question with ten answers: all agree on seven in ten, at most three dissent."""
    dissent = max(0, draws.below(10) - 6)
    wrong = [(draws.choice(_mistakes(question.answer)), draws.choice(["maybe", "no"])) for _ in range(dissent)]
    right = [(question.answer, "yes" if draws.chance(90) else "maybe") for _ in range(ANSWERS_A_QUESTION - dissent)]
    answers = tuple(draws.shuffled(wrong + right))
    return Question(kind=question.kind, text=question.text, answer=question.answer, answers=answers)


def questions(scene: Scene) -> list[Question]:
    """Return up to twelve different questions: at least one."""
    draws = Draws(scene.seed, scene.index, Stream.QUESTIONS)
    asked: dict[str, Question] = {}
    for ask in draws.shuffled(_KINDS):
        question = ask(scene.objects, draws)
        if question is not None:
            asked.setdefault(question.text, question)
    return [_annotated(question, draws) for question in islice(asked.values(), QUESTIONS_A_SCENE)]
