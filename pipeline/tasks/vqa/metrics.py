"""The official accuracy of VQA v2 and its file of results (vqaEval.py of github.com/GT-Vision-Lab/VQA)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from vilbert.pipeline.tasks.vqa.answers import ENOUGH, PEOPLE, normalize, soft_score, strip
from vilbert.pipeline.tasks.vqa.files import Id, Question, in_order


def question_accuracy(answer: str, truths: Sequence[str]) -> float:
    """Return how right an answer is, 0 to 1: the mean, over the people, of min(1, others who agree / 3).

    Answers are normalised only where people did not all give the same, as the official evaluation does. Where fewer
    than ten people answered, which it does not know, the accuracy is the soft score of training.
    """
    answer, truths = strip(answer), [strip(truth) for truth in truths]
    if len(set(truths)) > 1:
        answer, truths = normalize(answer), [normalize(truth) for truth in truths]
    matches = truths.count(answer)
    if len(truths) < PEOPLE:
        return soft_score(matches, len(truths))
    each = [min(1.0, (matches - (truth == answer)) / ENOUGH) for truth in truths]
    return sum(each) / len(each)


def accuracy(questions: Sequence[Question], answers: Mapping[Id, str]) -> dict[str, float]:
    """Return the mean accuracy of all questions that were answered, and of each type: accuracy_yes_no and so on.

    answers: by question id. Shares, not percent, and not rounded.
    """
    found: dict[str, list[float]] = defaultdict(list)
    for question in questions:
        if question.question_id in answers:
            right = question_accuracy(answers[question.question_id], question.answers)
            found["accuracy"].append(right)
            if question.answer_type:
                found[f"accuracy_{question.answer_type.replace('/', '_')}"].append(right)
    return {name: sum(values) / len(values) for name, values in found.items()}


def results(answers: Mapping[Id, str]) -> list[dict[str, Id]]:
    """Return what the evaluation server takes, by question id."""
    return [{"question_id": number, "answer": answers[number]} for number in sorted(answers, key=in_order)]
