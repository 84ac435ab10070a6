"""The files of VQA v2, questions and ten people's answers to each (Goyal et al. 2017; visualqa.org/download).

Other data sets in the same form are read too: VQA v1 and OK-VQA under their names, and files with fewer answers, with
answers as plain texts, or with ids that are texts.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vilbert.manifests.captions import storable
from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.tasks.annotation_files import field, reading
from vilbert.untrusted.documents import DocumentError, read_json

VERSION = "v2_"
"""What the names of VQA v2 begin with; those of VQA v1 and OK-VQA are the same without it."""
QUESTIONS = VERSION + "OpenEnded_mscoco_{}_questions.json"
ANNOTATIONS = VERSION + "mscoco_{}_annotations.json"
PUBLISHED = {"train": "train2014", "val": "val2014", "test": "test2015", "test-dev": "test-dev2015"}
LABELLED = ("train", "val")
MINVAL = 3000
"""Questions at the end of val, by id, that ViLBERT kept out of its training."""

Id = int | str
"""Of a question: a number in the published files."""
Answered = tuple[tuple[str, ...], str, str | None, str | None]
"""Answers, type of answer, most frequent answer, and the image's id, of one question."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A question about an image."""

    question_id: Id
    """Unique."""
    image_id: str
    """The COCO id."""
    text: str
    """As it was asked."""
    answers: tuple[str, ...]
    """As they were given, ten in the published files; none where they are secret."""
    answer_type: str
    """yes/no, number or other; empty where it is secret or not given."""
    multiple_choice_answer: str | None
    """The answer that most people gave; None where it is secret."""


def read_trainval(folder: Path) -> tuple[list[Question], list[Question]]:
    """Return the questions of trainval and those of minval, as `read_questions` does, and read each file once."""
    train = _by_id(read_questions(folder, "train"))  # the larger file comes first, while nothing else is held
    val, minval = _parts_of_val(folder)
    if twice := {question.question_id for question in train} & {question.question_id for question in (*val, *minval)}:
        raise RefusedError(f"{folder}: question {min(twice)} appears in train and in val; download both again")
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
    path = _file(folder, QUESTIONS, split)
    answers_path = _file(folder, ANNOTATIONS, split)
    given = _annotations(answers_path) if split in LABELLED else {}
    questions: dict[Id, Question] = {}
    for where, row in _entries(path, "questions"):
        number = id_field(row, "question_id", where)
        if number in questions:
            raise RefusedError(f"{where}: question {number} appears in an earlier entry too; remove one of them")
        if split in LABELLED and number not in given:
            raise RefusedError(
                f"{where}: question {number} has no entry in {answers_path.name}; the two files are from different "
                "releases"
            )
        answers, kind, chosen, image = given.pop(number, ((), "", None, None))
        asked_of = str(id_field(row, "image_id", where))
        if image is not None and image != asked_of:
            raise RefusedError(f"{where}: question {number} is about image {asked_of}, its answers about {image}")
        questions[number] = Question(
            question_id=number,
            image_id=sys.intern(asked_of),
            text=sys.intern(field(row, "question", str, where).strip()),
            answers=answers,
            answer_type=kind,
            multiple_choice_answer=chosen,
        )
    if given:
        raise RefusedError(f"{path}: has no question {next(iter(given))}, which has answers; download both again")
    if not questions:
        raise RefusedError(f"{path}: holds no questions")
    return list(questions.values())


def _by_id(questions: list[Question]) -> list[Question]:
    return sorted(questions, key=lambda question: in_order(question.question_id))


def in_order(identity: Id) -> tuple[bool, Id]:
    """Return what questions are sorted by: numbers by size, then texts by the alphabet."""
    return isinstance(identity, str), identity


def id_field(row: Mapping[str, Any], name: str, where: str) -> Id:
    """Return an id, a whole number or a text that is not empty; RefusedError naming the place for anything else."""
    return (
        field(row, name, str, where) if isinstance(row.get(name), str) and row[name] else field(row, name, int, where)
    )


def _file(folder: Path, name: str, split: str) -> Path:
    """Return the file of a split under its name of VQA v2, or where only that is there, of VQA v1 and OK-VQA."""
    path = folder / name.format(PUBLISHED[split])
    other = folder / path.name.removeprefix(VERSION)
    return other if other.is_file() and not path.is_file() else path


def _annotations(path: Path) -> dict[Id, Answered]:
    """Return what is said of each question."""
    found: dict[Id, Answered] = {}
    for where, row in _entries(path, "annotations"):
        number = id_field(row, "question_id", where)
        if number in found:
            raise RefusedError(f"{where}: question {number} appears in an earlier entry too; remove one of them")
        answers = _answers(row, f"{where}: question {number}")
        kind = field(row, "answer_type", str, where) if "answer_type" in row else ""
        named = "multiple_choice_answer" in row
        chosen = field(row, "multiple_choice_answer", str, where) if named else Counter(answers).most_common(1)[0][0]
        image = str(id_field(row, "image_id", where)) if "image_id" in row else None
        found[number] = (answers, sys.intern(kind), sys.intern(chosen), image)
    return found


def _answers(row: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """Return the texts of `answers`, each an object with `answer` or a text; or of `answer`, where that is all."""
    answers = [row["answer"]] if "answers" not in row and "answer" in row else field(row, "answers", list, where)
    texts = [one if isinstance(one, tuple) else (storable(one),) for one in answers if isinstance(one, (tuple, str))]
    if len(texts) < len(answers) or not texts:
        raise RefusedError(
            f"{where} has {len(texts)} answers in text among {len(answers)}; expected at least one, all of them "
            "strings, "
            "as in the published files"
        )
    return tuple(text for (text,) in texts)


def _entries(path: Path, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield where each entry of a document's list stands, and the entry, which is let go of then."""
    with reading(path):
        try:
            document = read_json(path, object_hook=_compact({}), allow_surrogates=True)
        except DocumentError as error:
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
        if not isinstance(text, str) or "question_id" in row:
            return row
        return known.get(text) or known.setdefault(text, (sys.intern(storable(text)),))

    return compact
