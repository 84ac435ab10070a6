"""One example of a report: an item, its annotated answers, and the model's answers with their probabilities."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vilbert.pipeline.predict.predictor import Predictor
from vilbert.pipeline.report.page import Asked, Picture, Ranked
from vilbert.pipeline.tasks.registry import prediction_of

THUMBNAIL = 240
"""Longer side of a ranked image in pixels."""
TRUE_FALSE = ("false", "true")

Draw = Callable[[str, int], str]
"""Returns the data URI of a photograph, given its image id and the pixels of its longer side."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """An item with the model's answers."""

    task: Any
    number: int
    """Index of the item."""
    answer: Any
    """The model's answer, see `read_answers`."""
    blind: Any = None
    """The model's answer for another image; None if it was not evaluated."""

    @property
    def item(self) -> Any:
        """The item."""
        return self.task.items[self.number]

    @property
    def right(self) -> float:
        """Score of the model's answer, from 0 to 1."""
        return float(self.task.score(self.number, self.answer))

    def texts(self) -> tuple[str, ...]:
        """Return the model's text input: the chosen one of several options, or the generated caption."""
        if prediction_of(self.task.name) == "describe":
            return (self.answer,)
        texts = self.task.rows(self.number, np.uint64(0)).texts
        chosen: tuple[str, ...] = (
            texts[int(np.argmax(self.answer))] if prediction_of(self.task.name) == "choose" else texts[0]
        )
        return chosen


def asked(example: Example, ranked: Sequence[Ranked], draw: Draw, top: int) -> Asked:
    """Return an example as shown on the page.

    Args:
        example: The example.
        ranked: The model's ranked answers, see `ask`.
        draw: Draws an image.
        top: Number of ranked images to show.
    """
    task, answer, blind = example.task, example.answer, example.blind
    method = prediction_of(task.name)
    texts = example.texts()
    question = {"describe": ("Write a caption.",), "choose": texts[:-1]}.get(method or "", texts)
    return Asked(
        question=question,
        model=said(task, example.number, answer),
        people=people(task, example.number),
        ranked=tuple(ranked),
        right=None if method == "describe" else example.right,
        verdict=verdict(task, example.number, answer),
        blind=None if blind is None or method == "point" else said(task, example.number, blind),
        blind_verdict="" if blind is None else verdict(task, example.number, blind),
        pictures=ranked_pictures(example, draw, top) if method == "rank" else (),
    )


def ask(
    predictor: Predictor, pixels: Sequence[NDArray[np.uint8]], examples: Sequence[Example], top: int
) -> list[list[Ranked]]:
    """Return the model's ranked answers to examples about the same images; empty if the task does not rank texts."""
    if not examples:
        return []
    task = examples[0].task
    texts = [example.texts()[0] for example in examples]
    match prediction_of(task.name):
        case "answer":
            found = predictor.answer([pixels[0]], texts, top=top)
            rows = [[(it.answer, it.probability) for it in answers] for answers in found]
        case "judge":
            chances = predictor.judge([(pixels[0], pixels[1])], texts)
            rows = [sorted([("true", it), ("false", 1 - it)], key=lambda row: -row[1]) for it in chances]
        case "choose":
            rows = [
                sorted(zip(options(task, it.number), it.answer, strict=True), key=lambda row: -row[1])
                for it in examples
            ]
        case _:
            rows = [[] for _ in examples]
    return [
        [Ranked(text, chance, people=text in true_texts(it.task, it.number)) for text, chance in of_one]
        for it, of_one in zip(examples, rows, strict=True)
    ]


def options(task: Any, number: int) -> list[str]:
    """Return the options of a question of VCR."""
    return [texts[-1] for texts in task.rows(number, np.uint64(0)).texts]


def said(task: Any, number: int, answer: Any) -> str:
    """Return an answer of the model as text."""
    match prediction_of(task.name):
        case "choose":
            return options(task, number)[int(np.argmax(answer))]
        case "point":
            return f"the box drawn with the word model; it overlaps people's by {answer['iou']:.2f} (IoU)"
        case "rank":
            own = task.items[number].image_id
            if own in answer:
                return f"the true photograph at rank {answer.index(own) + 1}"
            return f"the true photograph is not among the first {len(answer)}"
        case "judge":
            return TRUE_FALSE[answer]
    return str(task.spell(answer))


def true_texts(task: Any, number: int) -> list[str]:
    """Return the correct answer in the spelling of the model's ranked answers."""
    match prediction_of(task.name):
        case "choose":
            return [options(task, number)[task.label(number)]]
        case "judge":
            return [TRUE_FALSE[task.label(number)]]
    return list(task.true_texts(number))


def people(task: Any, number: int) -> tuple[str, ...]:
    """Return the annotated answers of an item, one per line."""
    match prediction_of(task.name):
        case "choose" | "judge":
            return tuple(true_texts(task, number))
        case "point":
            return ("the box drawn with the word people",)
        case "rank":
            return ("the photograph that is marked as the true one",)
    return tuple(task.people(number))


def verdict(task: Any, number: int, answer: Any) -> str:
    """Return the score of an answer in words."""
    right = task.score(number, answer)
    if prediction_of(task.name) == "describe":
        return f"{right:.2f} overlap with people's captions (ROUGE-L)"
    if right > 0.99:
        return "✓ right"
    return f"{right:.0%} right" if right else "✗ wrong"


def ranked_pictures(example: Example, draw: Draw, top: int) -> tuple[Picture, ...]:
    """Return the images that a caption ranks first and, if it is not among them, the true one, which is marked."""
    own, ranking = example.item.image_id, list(example.answer)
    shown = ranking[:top] + ([own] if own not in ranking[:top] else [])
    return tuple(
        Picture(
            uri=draw(image_id, THUMBNAIL),
            caption=f"rank {ranking.index(image_id) + 1}"
            if image_id in ranking
            else f"not in the first {len(ranking)}",
            people=image_id == own,
        )
        for image_id in shown
    )


def boxes_of(example: Example) -> Mapping[str, Sequence[float]] | None:
    """Return the boxes of a referring expression by label; None for the other tasks."""
    if prediction_of(example.task.name) != "point":
        return None
    return {"model": example.answer["box"], "people": example.item.box_xyxy}
