"""Read the results of `vilbert evaluate TASK --output`.

Answers have the form of `Task.answers`, which `Task.figures` expects; captions are text, and an answer of retrieval is
a list of image ids, best first.
"""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

from vilbert.pipeline.errors import RefusedError
from vilbert.untrusted.documents import DocumentError


def read_answers(path: Path, task: Any) -> dict[int, Any]:
    """Read a results file and return answers by item index, in the order of the items.

    A caption belongs to an image and is assigned to its first item.

    Raises:
        RefusedError: The file is not a results file of this task, or has no answer to any item.
    """
    try:
        rows = task.read_rows(path)
        if not isinstance(rows, list):
            raise ValueError("is not a list of answers")
        answers = dict(task.read_row(row) for row in rows)
    except (OSError, DocumentError, ValueError, TypeError, LookupError, OverflowError) as error:
        raise RefusedError(
            f"{path}: is not a file of `vilbert evaluate {task.name} --output` ({error}); evaluate again"
        ) from error
    found: dict[int, Any] = {}
    first: dict[Hashable, int] = {}
    for number, item in enumerate(task.items):
        key = task.item_key(item)
        if key in answers and (not task.answers_images or key not in first):
            found[number] = answers[key]
        first.setdefault(key, number)
    if not found:
        raise RefusedError(f"{path}: has no prediction for this split; evaluate with the same --split")
    return found
