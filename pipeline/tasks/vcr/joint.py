"""Q -> AR of VCR: answer and reason right at once, and the file that its server takes.

`vilbert evaluate vcr-qa --output answers.json` first, then `vilbert evaluate vcr-qar --answers-from answers.json`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.tasks.vcr.files import CHOICES, q_ar_accuracy, submission_csv
from vilbert.untrusted.documents import read_json

if TYPE_CHECKING:
    from vilbert.pipeline.tasks.vcr.task import VcrTask


def joint_results(
    path: Path, task: VcrTask, reasons: Mapping[int, Sequence[float]]
) -> tuple[dict[str, float], bytes | None]:
    """Return Q -> A, QA -> R and Q -> AR, where labels are known, and the CSV, where all answers got reasons.

    path: results of vcr-qa on the same split. reasons: probabilities by number of the item, as the model gave them.
    Raises RefusedError where the file is not that, or has not the same questions.
    """
    answers = _read(path)
    found: dict[str, NDArray[np.float64]] = {}
    for number, probabilities in reasons.items():
        question, given = task.items[number]
        found.setdefault(question.annot_id, np.full((CHOICES, CHOICES), np.nan))[given] = probabilities
    if missing := found.keys() - answers.keys():
        raise RefusedError(f"{path}: has no answer to {sorted(missing)[0]} and {len(missing) - 1} more questions")
    questions = {item.question.annot_id: item.question for item in task.items}
    names = [name for name in questions if name in found]
    chosen = np.array([answers[name] for name in names])
    explained = np.stack([found[name] for name in names])
    figures = {}
    labels = [(questions[name].answer_label, questions[name].rationale_label) for name in names]
    if all(None not in pair for pair in labels):
        known = np.array(cast(list[tuple[int, int]], labels))
        accuracies = q_ar_accuracy(chosen, explained[np.arange(len(names)), known[:, 0]], known[:, 0], known[:, 1])
        figures = {"q_a": accuracies.q_a, "qa_r": accuracies.qa_r, "q_ar": accuracies.q_ar}
    whole = bool(np.isfinite(explained).all())
    return figures, submission_csv(names, chosen, explained).encode() if whole else None


def _read(path: Path) -> dict[str, list[float]]:
    try:
        rows: Any = read_json(path)
        if any("given" in row for row in rows):
            raise ValueError("it is a file of vcr-qar")
        found = {str(row["annot_id"]): [float(value) for value in row["answer"]] for row in rows}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RefusedError(f"--answers-from {path}: is not a results file of vcr-qa ({error})") from error
    if any(len(values) != CHOICES for values in found.values()):
        raise RefusedError(
            f"--answers-from {path}: an answer does not have {CHOICES} probabilities; give results of vcr-qa"
        )
    return found
