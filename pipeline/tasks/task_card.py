"""final/task.json: what a fine-tuned model answers, so that it can be evaluated and used without its training data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.shards.atomic import write_atomic
from pipeline.shards.canonical import encode_json
from pipeline.shards.errors import RefusedError
from pipeline.tasks.registry import TASKS

TASK_FILE = "task.json"


@dataclass(frozen=True, kw_only=True)
class TaskCard:
    """What was trained, and how items were shown."""

    task: str
    """Its name."""
    labels: tuple[str, ...]
    """Answers by class of the classifier, where the task has one."""
    max_words: int
    """Word pieces of a text."""
    max_regions: int
    """Regions of an image without the global one."""
    seed: int
    """Of what is drawn when annotations are read."""


def write_task_card(folder: Path, card: TaskCard) -> None:
    """Write a model's card beside it."""
    write_atomic(folder / TASK_FILE, encode_json(asdict(card), indent=2) + b"\n")


def read_task_card(folder: Path) -> TaskCard:
    """Read a model's card; RefusedError where the folder holds no fine-tuned model."""
    path = folder / TASK_FILE
    try:
        found = json.loads(path.read_bytes())
        if not isinstance(found, Mapping) or found["task"] not in TASKS:
            raise ValueError("names no task")
        return TaskCard(**{**found, "labels": tuple(found["labels"])})
    except FileNotFoundError:
        raise RefusedError(
            f"{folder}: has no {TASK_FILE}; name the final/ folder of a run of `vilbert finetune`"
        ) from None
    except (ValueError, TypeError, KeyError) as error:
        raise RefusedError(f"{path}: is not what `vilbert finetune` writes ({error}); train again") from error
