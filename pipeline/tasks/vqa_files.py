"""VQA v2's files: questions, and ten people's answers to each (Goyal et al. 2017; visualqa.org/download)."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manifests.captions import storable
from pipeline.shards.errors import RefusedError
from pipeline.tasks.annotation_files import field, reading

QUESTIONS = "v2_OpenEnded_mscoco_{}_questions.json"
ANNOTATIONS = "v2_mscoco_{}_annotations.json"
PUBLISHED = {"train": "train2014", "val": "val2014", "test": "test2015", "test-dev": "test-dev2015"}
LABELLED = ("train", "val")
MINVAL = 3000
"""Questions at the end of val, by id, that ViLBERT kept out of its training."""
PEOPLE = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A question about an image."""

    question_id: int
    """Unique."""
    image_id: str
    """The COCO id."""
    text: str
    """As it was asked."""
    answers: tuple[str, ...]
    """Ten, as they were given; none where they are secret."""
    answer_type: str
    """yes/no, number or other; empty where it is secret."""
    multiple_choice_answer: str | None
    """The answer that most people gave; None where it is secret."""


def read_trainval(folder: Path) -> tuple[list[Question], list[Question]]:
    """Return the questions of trainval and those of minval, as `read_questions` does, and read each file once."""
    train = _by_id(read_questions(folder, "train"))  # the larger file comes first, while nothing else is held
    val, minval = _parts_of_val(folder)
    if twice := {question.question_id for question in train} & {question.question_id for question in (*val, *minval)}:
        raise RefusedError(f"{folder}: question {min(twice)} stands in train and in val; download both again")
    return [*train, *val], minval


def _parts_of_val(folder: Path) -> tuple[list[Question], list[Question]]:
    """Return what trainval has of val, and minval."""
    val = _by_id(read_questions(folder, "val"))
    kept_out = MINVAL if len(val) > MINVAL else -(-len(val) // 10)
    return val[:-kept_out], val[-kept_out:]


def read_questions(folder: Path, split: str) -> list[Question]:
    """Read the questions of a split: train, val, test, test-dev; or trainval and minval, ViLBERT's own.

    minval is the last 3,000 questions of val by id, or its last tenth where it has no more than 3,000; trainval is
    train and then the rest of val, each by id; other splits are in the order of their file. Raises RefusedError naming
    the file and the entry where one is missing or damaged, a question stands there twice, or has no annotation in a
    split that has them. Equal texts are held once.
    """
    if split == "trainval":
        return read_trainval(folder)[0]
    if split == "minval":
        return _parts_of_val(folder)[1]
    if split not in PUBLISHED:
        raise RefusedError(f"split {split}: VQA v2 has {', '.join(PUBLISHED)}, trainval and minval")
    path = folder / QUESTIONS.format(PUBLISHED[split])
    given = _annotations(folder / ANNOTATIONS.format(PUBLISHED[split])) if split in LABELLED else {}
    questions: dict[int, Question] = {}
    for where, row in _entries(path, "questions"):
        number = field(row, "question_id", int, where)
        if number in questions:
            raise RefusedError(f"{where}: question {number} stands in an earlier entry too; remove one of them")
        if split in LABELLED and number not in given:
            raise RefusedError(
                f"{where}: question {number} has no entry in {ANNOTATIONS.format(PUBLISHED[split])}; the two files are "
                "not of one release"
            )
        answers, kind, chosen, image = given.pop(number, ((), "", None, None))
        asked_of = field(row, "image_id", int, where)
        if image is not None and image != asked_of:
            raise RefusedError(f"{where}: question {number} is about image {asked_of}, its answers about {image}")
        questions[number] = Question(
            question_id=number,
            image_id=sys.intern(str(asked_of)),
            text=sys.intern(field(row, "question", str, where).strip()),
            answers=answers,
            answer_type=kind,
            multiple_choice_answer=chosen,
        )
    if given:
        raise RefusedError(f"{path}: has no question {next(iter(given))}, whose answers there are; download both again")
    if not questions:
        raise RefusedError(f"{path}: holds no questions")
    return list(questions.values())


def _by_id(questions: list[Question]) -> list[Question]:
    return sorted(questions, key=lambda question: question.question_id)


def _annotations(path: Path) -> dict[int, tuple[tuple[str, ...], str, str | None, int | None]]:
    """Return answers, type of answer, most frequent answer and image by question."""
    found: dict[int, tuple[tuple[str, ...], str, str | None, int | None]] = {}
    for where, row in _entries(path, "annotations"):
        number = field(row, "question_id", int, where)
        if number in found:
            raise RefusedError(f"{where}: question {number} stands in an earlier entry too; remove one of them")
        answers = field(row, "answers", list, where)
        if len(answers) != PEOPLE or not all(isinstance(one, tuple) for one in answers):
            right = sum(isinstance(one, tuple) for one in answers)
            raise RefusedError(
                f"{where}: question {number} has {right} answers in text among {len(answers)}, expected {PEOPLE}; "
                "is this the published file?"
            )
        found[number] = (
            tuple(text for (text,) in answers),
            sys.intern(field(row, "answer_type", str, where)),
            sys.intern(field(row, "multiple_choice_answer", str, where)),
            field(row, "image_id", int, where),
        )
    return found


def _entries(path: Path, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield where each entry of a document's list stands, and the entry, which is let go of then."""
    with reading(path), path.open(encoding="utf-8-sig") as file:
        try:
            document = json.load(file, object_hook=_compact({}))
        except (ValueError, RecursionError) as error:
            raise RefusedError(f"{path}: not valid JSON ({error}); is the download complete?") from None
    rows = document.get(name) if isinstance(document, dict) else None
    if not isinstance(rows, list):
        raise RefusedError(f"{path}: has no list of {name}; is this the published file?")
    for number, row in enumerate(rows):
        where = f"{path}: {name}[{number}]"
        if not isinstance(row, dict):
            raise RefusedError(f"{where}: is {row!r:.80}, not an object; is this the published file?")
        rows[number] = None
        yield where, row


def _compact(known: dict[str, tuple[str]]) -> Callable[[dict[str, Any]], Any]:
    """Return what makes of a person's answer, an object, a tuple of its text alone, one for all who gave it.

    There are 4.4 million in train; as objects they would take gigabytes while the file is parsed.
    """

    def compact(row: dict[str, Any]) -> Any:
        text = row.get("answer")
        if not isinstance(text, str):
            return row
        return known.get(text) or known.setdefault(text, (sys.intern(storable(text)),))

    return compact
