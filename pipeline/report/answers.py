"""The results of `vilbert evaluate TASK --output`, read back: the model's answer to each item, and whether it is right.

An answer has the form that `Task.answers` gives, so that `Task.figures` takes it; captions are text, and retrieval's
answer is a list of image ids, best first.
"""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

from vilbert.pipeline.errors import RefusedError
from vilbert.untrusted.documents import DocumentError


def read_answers(path: Path, task: Any) -> dict[int, Any]:
    """Return the answers of a file of results by number of the item, in the order of the items.

    A caption is of an image and stands at the first of its items. Raises RefusedError where the file is not one of this
    task, or answers no item.
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
