"""Predictions for texts about photographs: answers, regions, options, statements.

Each function runs one head of the model on batches of rows and turns its logits into results. Arguments and errors are
those of the method of `Predictor` with the same name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch

from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.predict.asking import Row, as_text_lists, as_texts, paired
from vilbert.pipeline.predict.photographs import Photograph, as_photograph_pairs, as_photographs
from vilbert.pipeline.predict.reader import Reader
from vilbert.pipeline.tasks.registry import find_task


class Answer(NamedTuple):
    """An answer and its probability; see `Predictor.answer`."""

    answer: str
    """The text of the answer's class."""
    probability: float
    """From 0 to 1, independent of the other answers."""


class Pointed(NamedTuple):
    """The region that a phrase describes; see `Predictor.point`."""

    box_xyxy: tuple[float, float, float, float]
    """In pixels of the photograph."""
    score: float
    """Predicted IoU with the described object, from 0 to 1; independent of the other regions."""
    region: int
    """Index among the detector's regions, from 1; 0 is the whole image."""


def answer(reader: Reader, images: Iterable[Photograph], questions: Iterable[str], *, top: int) -> list[list[Answer]]:
    """Return the `top` most probable answers to each question, best first."""
    if top < 1:
        raise RefusedError(f"--top {top}: give at least 1")
    images, questions = as_photographs(images), as_texts(questions, "questions")
    card = reader.trained.card
    spec = find_task(card.task)
    labels = spec.labels or card.labels
    answers: list[list[Answer]] = []
    for batch in reader.batches(images, _one_row_items(images, questions, "questions"), spec.head):
        logits, classes = getattr(batch.output, spec.head).float().sort(descending=True, stable=True)
        for probabilities, best in zip(logits[:, :top].sigmoid().tolist(), classes[:, :top].tolist(), strict=True):
            answers.append([Answer(labels[label], p) for label, p in zip(best, probabilities, strict=True)])
    return answers


def point(reader: Reader, images: Iterable[Photograph], phrases: Iterable[str]) -> list[Pointed]:
    """Return the region with the highest score for each phrase."""
    images, phrases = as_photographs(images), as_texts(phrases, "phrases")
    pointed: list[Pointed] = []
    for batch in reader.batches(images, _one_row_items(images, phrases, "phrases"), "vision_logit"):
        assert batch.output.vision_logit is not None
        logits, best = batch.output.vision_logit[..., 0].float().max(1)
        for score, region, regions in zip(logits.sigmoid().tolist(), best.tolist(), batch.regions, strict=True):
            box = regions.boxes[region - 1].tolist() if region else [0.0, 0.0, regions.width, regions.height]
            pointed.append(Pointed((box[0], box[1], box[2], box[3]), score, region))
    return pointed


def choose(
    reader: Reader,
    images: Iterable[Photograph],
    questions: Iterable[str],
    options: Iterable[Iterable[str]],
    *,
    answers: Iterable[str],
) -> list[list[float]]:
    """Return the probability of each option of each question."""
    images, questions = as_photographs(images), as_texts(questions, "questions")
    answers, options = as_texts(answers, "answers"), as_text_lists(options, "options")
    _require_options(reader.trained.card.task, questions, options, answers)
    contexts = zip(questions, answers, strict=True) if answers else ((question,) for question in questions)
    texts = [[(*context, option) for option in of_one] for context, of_one in zip(contexts, options, strict=True)]
    items = [
        [Row(image, text) for text in texts[question]]
        for image, question in paired(len(images), len(questions), "questions")
    ]
    logits: list[float] = []
    for batch in reader.batches(images, items, "vil_logit"):
        assert batch.output.vil_logit is not None
        logits += batch.output.vil_logit[:, 0].float().tolist()
    bounds = np.cumsum([0, *map(len, items)]).tolist()
    return [torch.tensor(logits[start:stop]).softmax(0).tolist() for start, stop in pairwise(bounds)]


def judge(reader: Reader, pairs: Iterable[tuple[Photograph, Photograph]], statements: Iterable[str]) -> list[float]:
    """Return the probability that each statement about two photographs is true."""
    statements, pairs = as_texts(statements, "statements"), as_photograph_pairs(pairs, "pairs")
    items = [
        [Row(2 * pair + side, (statements[statement],)) for side in (0, 1)]
        for pair, statement in paired(len(pairs), len(statements), "statements", called="pairs of images")
    ]
    probabilities: list[float] = []
    for batch in reader.batches([image for pair in pairs for image in pair], items, "vil_binary_prediction"):
        assert batch.output.vil_binary_prediction is not None
        false, true = batch.output.vil_binary_prediction.float().unbind(1)
        probabilities += ((true - false) / 2).sigmoid().tolist()
    return probabilities


def _one_row_items(images: Sequence[Photograph], texts: Sequence[str], what: str) -> list[tuple[Row]]:
    """Return an item of one row for each text and its photograph. what: the texts, for messages."""
    return [(Row(image, (texts[text],)),) for image, text in paired(len(images), len(texts), what)]


def _require_options(
    task: str, questions: Sequence[str], options: Sequence[Sequence[str]], answers: Sequence[str]
) -> None:
    """Raise RefusedError unless each question has options and, where the task takes answers, an answer."""
    if len(options) != len(questions) or not all(options):
        raise RefusedError(
            f"{len(questions)} questions and options for {len(options)}: give at least one option per question"
        )
    wanted = len(questions) if find_task(task).takes_answers else 0
    if len(answers) != wanted:
        raise RefusedError(
            f"{len(answers)} answers: {task} takes {wanted} for {len(questions)} questions; only vcr-qar takes answers"
        )
