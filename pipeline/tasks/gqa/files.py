"""GQA (Hudson and Manning 2019): the questions and the file of results.

Files as published at cs.stanford.edu/people/dorarad/gqa: one JSON object of questions by id. Answers are compared as
they stand (`eval.py` beside the files); VQA's normalisation would change some of them, such as `t-shirt`.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vilbert.manifests.readers.document import read_document
from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.tasks.annotation_files import field, reading

FILES = {
    "train": "train_balanced_questions.json",
    "val": "val_balanced_questions.json",
    "val_all": "val_all_questions.json",
    "testdev": "testdev_balanced_questions.json",
    "test": "test_balanced_questions.json",
    "submission": "submission_all_questions.json",
}
"""By split. All questions of val are for the official consistency, those of submission for the evaluation server."""
SECRET = ("test", "submission")
"""Splits without answers."""
# Most of a file, and not asked for here: thrown away as it is parsed.
UNREAD = ("semanticStr", "annotations", "equivalent", "fullAnswer", "operation", "dependencies", "argument")


@dataclass(frozen=True, kw_only=True, slots=True)
class GqaQuestion:
    """A question about an image."""

    question_id: str
    """Unique; digits, some with zeros in front."""
    image_id: str
    """Of Visual Genome, or `n` and a number."""
    text: str
    """As it is asked."""
    answer: str | None
    """The one right answer; None where it is secret."""
    kinds: tuple[str, ...] = ()
    """open, or binary where the question names what it chooses from; then its structural and its semantic type. Empty
    where the file does not say."""
    common: bool = False
    """Whether it asks what things have in common."""
    group: str | None = None
    """Questions after the same thing, such as colours."""
    balanced: bool = True
    """Whether figures count it."""
    entailed: tuple[str, ...] = ()
    """Questions whose answers follow from its own; known in val_all alone."""


def read_gqa(folder: Path, split: str) -> list[GqaQuestion]:
    """Read the questions of a split, one of `FILES`, in the order of the file.

    Raises RefusedError naming the file and the question where one is missing or damaged, or has no answer in a split
    that has them.
    """
    if split not in FILES:
        raise RefusedError(f"split {split}: GQA has {', '.join(FILES)}")
    path = folder / FILES[split]
    with reading(path):
        document = read_document(path, (), drop=(*UNREAD, *(() if split == "val_all" else ("entailed",))))
    if not document:
        raise RefusedError(f"{path}: holds no questions")
    questions = []
    for number, row in document.items():
        where = f"{path}: question {number}"
        if not isinstance(row, dict):
            raise RefusedError(f"{where}: is {row!r:.80}, not an object; is this the published file?")
        secret = split in SECRET and row.get("answer") is None
        questions.append(
            GqaQuestion(
                question_id=number,
                image_id=sys.intern(field(row, "imageId", str, where)),
                text=sys.intern(field(row, "question", str, where).strip()),
                answer=None if secret else sys.intern(field(row, "answer", str, where)),
                **_kind(row, where),
            )
        )
    return questions


def _kind(row: dict[str, Any], where: str) -> dict[str, Any]:
    """Return what figures need to know of a question, by the names in `GqaQuestion`."""
    kind: dict[str, Any] = {"balanced": row.get("isBalanced") is not False}
    if row.get("types") is not None:
        types = field(row, "types", dict, where)
        structural, semantic, detailed = (
            sys.intern(field(types, name, str, where)) for name in ("structural", "semantic", "detailed")
        )
        kind["kinds"] = ("open" if structural == "query" else "binary", structural, semantic)
        kind["common"] = "Common" in detailed
    if row.get("groups") is not None:
        groups = field(row, "groups", dict, where)
        if groups.get("global") is not None:
            kind["group"] = sys.intern(field(groups, "global", str, where))
    if row.get("entailed") is not None:
        entailed = field(row, "entailed", list, where)
        if not all(isinstance(number, str) for number in entailed):
            raise RefusedError(f"{where}: entailed is {entailed!r:.80}, not a list of question ids")
        kind["entailed"] = tuple(entailed)
    return kind


def build_gqa_vocabulary(questions: Iterable[GqaQuestion], *, least: int = 9) -> tuple[str, ...]:
    """Return the answers that at least `least` questions have, the most frequent first, equal ones by the alphabet.

    ViLBERT's published classifier has 1,533 answers, in an order that is in its published list alone
    (`vilbert.pipeline.tasks.vqa.answers.load_vocabulary`).
    """
    counts = Counter(question.answer for question in questions if question.answer is not None)
    frequent = [answer for answer, count in counts.items() if count >= least]
    return tuple(sorted(frequent, key=lambda answer: (-counts[answer], answer)))


def gqa_results(answers: Mapping[str, str]) -> list[dict[str, str]]:
    """Return what the evaluation server takes, by question id."""
    return [{"questionId": number, "prediction": answers[number]} for number in sorted(answers)]
