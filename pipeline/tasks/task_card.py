"""final/task.json: what a fine-tuned model answers, so that it can be evaluated and used without its training data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.shards.atomic import write_atomic
from pipeline.shards.canonical import encode_json
from pipeline.shards.errors import RefusedError
from pipeline.tasks.registry import TASKS
from pipeline.train.run_folder import RUN_FILE

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
    names: tuple[str, ...] = ()
    """What people are called in VCR, where it is not by the usual names."""
    given_boxes: bool = False
    """Whether regions at the annotations' boxes were shown beside the detector's."""
    extractors: tuple[dict[str, Any], ...] = ()
    """What the regions of its data sets depend on, each way of it once: detector and selection, as in dataset.json."""


def write_task_cards(folder: Path, cards: Sequence[TaskCard]) -> None:
    """Write a model's card beside it, or the cards of one that answers several tasks."""
    written = [asdict(card) for card in cards]
    content = {"tasks": written} if len(written) > 1 else written[0]
    write_atomic(folder / TASK_FILE, encode_json(content, indent=2) + b"\n")


def keep_task_cards(run: Path, cards: Sequence[TaskCard]) -> None:
    """Write the cards into a run's folder, for its checkpoints; until run.json is there, where a start may be refused.

    A run that has one already goes on as it began.
    """
    if not ((run / RUN_FILE).is_file() and (run / TASK_FILE).is_file()):
        write_task_cards(run, cards)


def read_task_card(folder: Path, task: str | None = None) -> TaskCard:
    """Read a model's card for a task, which may be left out where it has one alone.

    Raises RefusedError where the folder holds no fine-tuned model, or one of other tasks.
    """
    cards = read_task_cards(folder)
    names = [card.task for card in cards]
    if task is None and len(cards) > 1:
        raise RefusedError(f"{folder}: was trained for {', '.join(names)}; say which of them is meant")
    if task is not None and task not in names:
        raise RefusedError(f"{folder}: was trained for {', '.join(names)}, not {task}")
    return cards[names.index(task)] if task is not None else cards[0]


def read_task_cards(folder: Path) -> list[TaskCard]:
    """Read a model's cards, one or more; RefusedError where the folder holds no fine-tuned model."""
    path = folder / TASK_FILE
    try:
        found = json.loads(path.read_bytes())
        cards = found["tasks"] if isinstance(found, Mapping) and "tasks" in found else [found]
        if not cards or not all(isinstance(card, Mapping) and card["task"] in TASKS for card in cards):
            raise ValueError("names no task")
        return [
            TaskCard(
                **{
                    **card,
                    "labels": tuple(card["labels"]),
                    "names": tuple(card.get("names", ())),
                    "extractors": tuple(dict(way) for way in card.get("extractors", ())),
                }
            )
            for card in cards
        ]
    except FileNotFoundError:
        raise RefusedError(
            f"{folder}: has no {TASK_FILE}; name the final/ folder of a run of `vilbert finetune`"
        ) from None
    except (ValueError, TypeError, KeyError) as error:
        raise RefusedError(f"{path}: is not what `vilbert finetune` writes ({error}); train again") from error
