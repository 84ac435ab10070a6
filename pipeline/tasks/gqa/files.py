"""GQA (Hudson and Manning 2019): questions and the results file.

The files are those published at cs.stanford.edu/people/dorarad/gqa: one JSON object of questions by id. Answers are
compared without normalisation, as in the published `eval.py`; VQA's normalisation would change some, such as `t-shirt`.
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
"""File name by split. val_all is needed for the official consistency, submission for the evaluation server."""
SECRET = ("test", "submission")
"""Splits whose answers are not public."""
# Unused fields, which take most of a file: dropped while it is parsed.
UNREAD = ("semanticStr", "annotations", "equivalent", "fullAnswer", "operation", "dependencies", "argument")


@dataclass(frozen=True, kw_only=True, slots=True)
class GqaQuestion:
    """A question about an image."""

    question_id: str
    """Unique; digits, some with zeros in front."""
    image_id: str
    """Image id of Visual Genome, or `n` and a number."""
    text: str
    """The question."""
    answer: str | None
    """The correct answer; None if it is not public."""
    kinds: tuple[str, ...] = ()
    """`open` or `binary` (the question names its choices), then the structural and the semantic type; empty if the file
    does not contain them."""
    common: bool = False
    """Whether the question asks what things have in common."""
    group: str | None = None
    """Group of questions about the same property, such as colours."""
    balanced: bool = True
    """Whether the metrics include it."""
    entailed: tuple[str, ...] = ()
    """Ids of questions whose answers follow from this one; known in val_all only."""


def read_gqa(folder: Path, split: str) -> list[GqaQuestion]:
    """Read the questions of a split, one of `FILES`, in the order of the file.

    Raises:
        RefusedError: A file or field is missing or damaged, or a question of a labelled split has no answer. The
            message names the file and the question.
    """
    if split not in FILES:
        raise RefusedError(f"split {split}: GQA has {', '.join(FILES)}")
    path = folder / FILES[split]
    with reading(path):
        document = read_document(path, (), drop=(*UNREAD, *(() if split == "val_all" else ("entailed",))))
    if not document:
        raise RefusedError(f"{path}: contains no questions")
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
    """Return the fields of a `GqaQuestion` that metrics need."""
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
    """Return the answers of at least `least` questions, in descending order of frequency, then alphabetically.

    ViLBERT's published classifier has 1,533 answers in an order that only its published list contains
    (`vilbert.pipeline.tasks.vqa.answers.load_vocabulary`).
    """
    counts = Counter(question.answer for question in questions if question.answer is not None)
    frequent = [answer for answer, count in counts.items() if count >= least]
    return tuple(sorted(frequent, key=lambda answer: (-counts[answer], answer)))


def gqa_results(answers: Mapping[str, str]) -> list[dict[str, str]]:
    """Return the predictions in the evaluation server's format, by question id."""
    return [{"questionId": number, "prediction": answers[number]} for number in sorted(answers)]
