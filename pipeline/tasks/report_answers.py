"""The results of `vilbert evaluate TASK --output`, read back: the model's answer to each item, and whether it is right.

An answer has the form that `Task.answers` gives, so that `Task.figures` takes it; captions are text, and retrieval's
answer is a list of image ids, best first.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from vilbert.pipeline.shards.errors import RefusedError
from vilbert.pipeline.tasks.predict_settings import METHODS
from vilbert.pipeline.tasks.refer import RIGHT_ABOVE
from vilbert.pipeline.tasks.snli_ve_files import LABELS
from vilbert.pipeline.tasks.vqa_accuracy import question_accuracy
from vilbert.untrusted.documents import DocumentError, read_json


class Form(NamedTuple):
    """How a row of the results names its item, and what it says."""

    item: Callable[[Any], Hashable]
    """An item's key."""
    row: Callable[[Any], tuple[Hashable, Any]]
    """A row's key and its answer; raises LookupError, TypeError or ValueError where it is no such row."""


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value


def _numbers(value: Any, count: int) -> list[float]:
    if not isinstance(value, list) or len(value) != count:
        raise ValueError(f"{value!r} is not a list of {count} numbers")
    return [float(number) for number in value]


def _box(row: Mapping[str, Any]) -> dict[str, Any]:
    x1, y1, x2, y2 = box = _numbers(row["box"], 4)
    if not (x1 <= x2 and y1 <= y2):
        raise ValueError(f"{box} is not a box x1, y1, x2, y2")
    return {"target": int(row["target"]), "box": box, "iou": float(row["iou"])}


FORMS = {
    "vqa": Form(lambda item: item.question_id, lambda row: (row["question_id"], _text(row["answer"]))),
    "gqa": Form(lambda item: item.question_id, lambda row: (row["questionId"], _text(row["prediction"]))),
    "vcr-qa": Form(lambda item: item.question.annot_id, lambda row: (row["annot_id"], _numbers(row["answer"], 4))),
    "vcr-qar": Form(
        lambda item: (item.question.annot_id, item.given),
        lambda row: ((row["annot_id"], row["given"]), _numbers(row["answer"], 4)),
    ),
    **dict.fromkeys(
        ("refcoco", "refcoco+", "refcocog"), Form(lambda item: item.sent_id, lambda row: (row["sent_id"], _box(row)))
    ),
    **dict.fromkeys(
        ("retrieval", "retrieval-coco"),
        Form(
            lambda item: (item.image_id, item.text),
            lambda row: ((row["image_id"], row["caption"]), [_text(image) for image in row["ranked"]]),
        ),
    ),
    "captioning": Form(lambda item: item.image_id, lambda row: (str(row["image_id"]), _text(row["caption"]))),
    "nlvr2": Form(
        lambda item: item.identifier,
        lambda row: (row.rpartition(",")[0], ("False", "True").index(row.rpartition(",")[2])),
    ),
    "snli-ve": Form(lambda item: item.pair_id, lambda row: (row["pairID"], LABELS.index(row["prediction"]))),
}
"""Of each task's results; a task without one has no report."""


def read_answers(path: Path, task: Any) -> dict[int, Any]:
    """Return the answers of a file of results by number of the item, in the order of the items.

    A caption is of an image and stands at the first of its items. Raises RefusedError where the file is not one of this
    task, or answers no item.
    """
    form = FORMS[task.name]
    try:
        rows = path.read_text(encoding="utf-8").split() if task.name == "nlvr2" else read_json(path)
        if not isinstance(rows, list):
            raise ValueError("is no list of answers")
        answers = dict(form.row(row) for row in rows)
    except (OSError, DocumentError, ValueError, TypeError, LookupError, OverflowError) as error:
        raise RefusedError(
            f"{path}: cannot be read as what `vilbert evaluate {task.name} --output` writes ({error}); evaluate again"
        ) from error
    found: dict[int, Any] = {}
    first: dict[Hashable, int] = {}
    for number, item in enumerate(task.items):
        key = form.item(item)
        if key in answers and (task.name != "captioning" or key not in first):
            found[number] = answers[key]
        first.setdefault(key, number)
    if not found:
        raise RefusedError(f"{path}: answers no item of this split; evaluate it with the same --split")
    return found


def has_truth(task: Any, number: int) -> bool:
    """Say whether the right answer to an item is known."""
    item = task.items[number]
    if task.name == "vqa":
        return bool(item.answers)
    if task.name == "gqa":
        return item.answer is not None
    return METHODS[task.name] in ("point", "rank", "describe") or task.label(number) is not None


def score(task: Any, number: int, answer: Any) -> float:
    """Return how right an answer is, from 0 to 1; of a caption its ROUGE-L with those of people."""
    item = task.items[number]
    match METHODS[task.name]:
        case "choose":
            return float(int(np.argmax(answer)) == task.label(number))
        case "point":
            return float(answer["iou"] > RIGHT_ABOVE)
        case "rank":
            return float(bool(answer) and answer[0] == item.image_id)
        case "describe":
            return overlap(answer, captions_of(task, item.image_id))
        case "answer" if task.name == "vqa":
            return question_accuracy(answer, item.answers)
        case "answer" if task.name == "gqa":
            return float(answer == item.answer)
    return float(answer == task.label(number))


def captions_of(task: Any, image_id: str) -> Sequence[str]:
    """Return the captions that people wrote of an image."""
    return cast(Sequence[str], next(image.captions for image in task.captioned if image.image_id == image_id))


def overlap(caption: str, truths: Sequence[str]) -> float:
    """Return ROUGE-L of a caption with those of people, of words in lower case without punctuation."""
    from vilbert.pipeline.tasks.caption_metrics import require_pycocoevalcap, words_without_java

    require_pycocoevalcap()
    from pycocoevalcap.rouge.rouge import Rouge

    said = words_without_java(caption)
    if not said:
        return 0.0
    return float(Rouge().calc_score([said], [words_without_java(truth) for truth in truths]))
