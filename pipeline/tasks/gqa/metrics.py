"""GQA's official metrics: accuracy, consistency, validity, plausibility and distribution.

Source: eval.py of gqadataset.org, without accuracy by numbers of words and steps and without grounding.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vilbert.manifests.readers.document import read_document
from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.tasks.annotation_files import reading
from vilbert.pipeline.tasks.gqa.files import GqaQuestion

CHOICES_FILE = "{}_choices.json"
"""File name by split; published in one file for val, and in parts, which are not read, for train."""
COMMON = frozenset(("color", "material", "shape"))
"""Valid answers of questions about something in common, regardless of their choices."""


class Choices(NamedTuple):
    """Valid and plausible answers of a question."""

    valid: frozenset[str]
    """Answers of the right kind, such as a colour for a question about a colour."""
    plausible: frozenset[str]
    """Answers that are plausible in the real world."""


def read_choices(path: Path, questions: Sequence[GqaQuestion]) -> dict[str, Choices]:
    """Read the choices of balanced questions by id, from a published file.

    Raises:
        RefusedError: The choices of a question are missing or damaged; the message names file and question.
    """
    with reading(path):
        document = read_document(path, ())
    same: dict[frozenset[str], frozenset[str]] = {}

    def answers(row: Any, name: str, where: str) -> frozenset[str]:
        found = row.get(name) if isinstance(row, dict) else None
        if not isinstance(found, list) or not all(isinstance(it, str) for it in found):
            raise RefusedError(f"{where}: has no list of answers under {name!r}; is this the published file?")
        fitting = frozenset(found)
        return same.setdefault(fitting, fitting)

    choices = {}
    for number in (question.question_id for question in questions if question.balanced):
        where, row = f"{path}: question {number}", document.pop(number, None)
        if row is None:
            raise RefusedError(f"{where}: has no choices; does the file belong to another split?")
        choices[number] = Choices(answers(row, "valid", where), answers(row, "plausible", where))
    return choices


def gqa_figures(
    questions: Sequence[GqaQuestion], answers: Mapping[str, str], choices: Mapping[str, Choices] | None = None
) -> dict[str, float]:
    """Compute the metrics over balanced questions that have a prediction and a known answer.

    Metrics without any question are left out.

    Args:
        questions: The questions.
        answers: Predictions by question id; correct if they equal the answer exactly.
        choices: Choices by question id, for validity and plausibility.

    Returns:
        `accuracy` over all, over open and binary questions, and by structural and semantic type. `consistency`:
        fraction of correct predictions among the questions that a correctly answered one entails, if they were asked;
        most of these are not balanced. All are fractions, except `distribution`: a chi-square statistic over the groups
        of questions, divided by 100; lower is better.
    """
    by_id = {question.question_id: question for question in questions if question.answer is not None}
    right = {number: answers[number] == question.answer for number, question in by_id.items() if number in answers}
    found: dict[str, list[float]] = defaultdict(list)
    gold: dict[str, Counter[str]] = defaultdict(Counter)
    predicted: dict[str, Counter[str]] = defaultdict(Counter)
    for number, hit in right.items():
        question, answer = by_id[number], answers[number]
        if not question.balanced:
            continue
        for name in ("accuracy", *(f"accuracy_{kind}" for kind in question.kinds)):
            found[name].append(hit)
        entailed = [right[other] for other in question.entailed if other != number and other in right]
        if hit and entailed:
            found["consistency"].append(sum(entailed) / len(entailed))
        if choices is not None:
            for name, fitting in choices[number]._asdict().items():
                found[NAMES[name]].append(answer in (COMMON if question.common else fitting))
        if question.group is not None and question.answer is not None:
            gold[question.group][question.answer] += 1
            predicted[question.group][answer] += 1
    figures = {name: sum(values) / len(values) for name, values in found.items()}
    return figures | ({"distribution": _distribution(gold, predicted)} if gold else {})


NAMES = {"valid": "validity", "plausible": "plausibility"}


def _distribution(gold: Mapping[str, Counter[str]], predicted: Mapping[str, Counter[str]]) -> float:
    """Return the chi-square statistic of the answers per group, averaged by group size and divided by 100."""
    total = 0.0
    for group, counts in gold.items():
        off = sum((predicted[group][answer] - count) ** 2 / count for answer, count in counts.items())
        total += off * counts.total()
    return total / sum(counts.total() for counts in gold.values()) / 100
