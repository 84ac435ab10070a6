"""GQA (Hudson and Manning 2019): the balanced questions, the official accuracy and the file of results.

Files as published at cs.stanford.edu/people/dorarad/gqa: one JSON object of questions by id. Answers are compared as
they stand (`eval.py` beside the files); VQA's normalisation would change some of them, such as `t-shirt`.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from manifests.document import read_document
from pipeline.shards.errors import RefusedError
from pipeline.tasks.annotation_files import field, reading

FILE = "{}_balanced_questions.json"
SPLITS = ("train", "val", "testdev", "test")
SECRET = "test"  # noqa: S105  # the split without answers
# Most of a file, and not asked for here: thrown away as it is parsed.
UNREAD = ("semantic", "semanticStr", "annotations", "entailed", "equivalent", "groups", "fullAnswer")


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
    answer_type: str
    """open, or binary where the question names what it chooses from; empty where the file does not say."""


def read_gqa(folder: Path, split: str) -> list[GqaQuestion]:
    """Read the balanced questions of a split, train, val, testdev or test, in the order of the file.

    Raises RefusedError naming the file and the question where one is missing or damaged, or has no answer in a split
    that has them.
    """
    if split not in SPLITS:
        raise RefusedError(f"split {split}: GQA has {', '.join(SPLITS)}")
    path = folder / FILE.format(split)
    with reading(path):
        document = read_document(path, (), drop=UNREAD)
    if not document:
        raise RefusedError(f"{path}: holds no questions")
    questions = []
    for number, row in document.items():
        where = f"{path}: question {number}"
        if not isinstance(row, dict):
            raise RefusedError(f"{where}: is {row!r:.80}, not an object; is this the published file?")
        secret = split == SECRET and row.get("answer") is None
        questions.append(
            GqaQuestion(
                question_id=number,
                image_id=sys.intern(field(row, "imageId", str, where)),
                text=sys.intern(field(row, "question", str, where).strip()),
                answer=None if secret else sys.intern(field(row, "answer", str, where)),
                answer_type=_answer_type(row.get("types"), where),
            )
        )
    return questions


def _answer_type(types: object, where: str) -> str:
    if types is None:
        return ""
    if not isinstance(types, dict):
        raise RefusedError(f"{where}: types is {types!r:.80}, not an object")
    return "open" if field(types, "structural", str, where) == "query" else "binary"


def build_gqa_vocabulary(questions: Iterable[GqaQuestion], *, least: int = 9) -> tuple[str, ...]:
    """Return the answers that at least `least` questions have, the most frequent first, equal ones by the alphabet.

    ViLBERT's published classifier has 1,533 answers, in an order that is in its published list alone
    (`pipeline.tasks.vqa_answers.load_vocabulary`).
    """
    counts = Counter(question.answer for question in questions if question.answer is not None)
    frequent = [answer for answer, count in counts.items() if count >= least]
    return tuple(sorted(frequent, key=lambda answer: (-counts[answer], answer)))


def gqa_accuracy(questions: Sequence[GqaQuestion], answers: Mapping[str, str]) -> dict[str, float]:
    """Return the share of answered questions that are answered rightly, of all, of the open and of the binary ones.

    answers: by question id; they are right where they equal the answer letter by letter. Questions whose answer is
    secret do not count. Shares, not percent, and not rounded.
    """
    found: dict[str, list[bool]] = defaultdict(list)
    for question in questions:
        if question.answer is None or question.question_id not in answers:
            continue
        right = answers[question.question_id] == question.answer
        found["accuracy"].append(right)
        if question.answer_type:
            found[f"accuracy_{question.answer_type}"].append(right)
    return {name: sum(values) / len(values) for name, values in found.items()}


def gqa_results(answers: Mapping[str, str]) -> list[dict[str, str]]:
    """Return what the evaluation server takes, by question id."""
    return [{"questionId": number, "prediction": answers[number]} for number in sorted(answers)]
