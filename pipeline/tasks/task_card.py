"""final/task.json: what a fine-tuned model answers, so that it can be evaluated and used without its training data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Interval, Len

from vilbert.documents import List, document, from_json
from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.shards.canonical import encode_json
from vilbert.pipeline.shards.storage.atomic import write_atomic
from vilbert.pipeline.tasks.registry import TASKS, find_task, task_token
from vilbert.pipeline.train.run.folder import RUN_FILE
from vilbert.settings import Validator
from vilbert.untrusted.documents import read_json

TASK_FILE = "task.json"
MAX_BYTES = 1 << 28
"""Size of a task.json; its answers take most of it."""
FEWEST_WORDS = 3
"""Word pieces of a text, at least: a classifier token, a separator, a word."""
MOST = 65_536
"""Word pieces or regions, at most."""
_OPTIONAL = ("names", "given_boxes", "extractors")
"""Fields that version 0.1.0 did not write."""


def _known_task(name: str) -> str:
    if name not in TASKS:
        raise ValueError(f"must be one of {', '.join(TASKS.built_in)}, or a task of an installed package")
    return name


@document
class TaskCard:
    """What was trained, and how items were shown."""

    task: Annotated[str, Validator("after", _known_task)]
    """Its name."""
    labels: List[str]
    """Answers by class of the classifier, where the task has one."""
    max_words: Annotated[int, Interval(ge=FEWEST_WORDS, le=MOST)]
    """Word pieces of a text."""
    max_regions: Annotated[int, Interval(ge=1, le=MOST)]
    """Regions of an image without the global one."""
    seed: Annotated[int, Interval(gt=-(1 << 63), lt=1 << 63)]
    """Of what is drawn when annotations are read."""
    names: List[str] = ()
    """What people are called in VCR, where it is not by the usual names."""
    given_boxes: bool = False
    """Whether regions at the annotations' boxes were shown beside the detector's."""
    extractors: List[dict[str, Any]] = ()
    """What the regions of its data sets depend on, each way of it once: detector and selection, as in dataset.json."""


@document
class TaskCards:
    """What a model of several tasks was trained for."""

    tasks: Annotated[List[TaskCard], Len(1)]


def name_labels(config: Any, cards: Sequence[TaskCard]) -> None:
    """Give a model's configuration the answers of its cards as `id2label` and `label2id`, where a task has some."""
    labels = next((card.labels for card in cards if find_task(card.task).labels_setting), ())
    if labels:
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: number for number, label in enumerate(labels)}


def write_task_cards(folder: Path, cards: Sequence[TaskCard]) -> None:
    """Write a model's card beside it, or the cards of one that answers several tasks."""
    written = [asdict(card) for card in cards]
    content = {"tasks": written} if len(written) > 1 else written[0]
    write_atomic(folder / TASK_FILE, encode_json(content, indent=2) + b"\n")


def keep_task_cards(run: Path, cards: Sequence[TaskCard]) -> None:
    """Write the cards into a run's folder, for its checkpoints; until run.json is there, where a start may be refused.

    A run that has one already keeps its settings.
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
        raise RefusedError(f"{folder}: was trained for {', '.join(names)}; choose one of them with --task")
    if task is not None and task not in names:
        raise RefusedError(f"{folder}: was trained for {', '.join(names)}, not {task}")
    return cards[names.index(task)] if task is not None else cards[0]


def read_task_cards(folder: Path) -> list[TaskCard]:
    """Read a model's cards, one or more; RefusedError where the folder holds no fine-tuned model."""
    path = folder / TASK_FILE
    try:
        found = read_json(path, max_bytes=MAX_BYTES)
        several = isinstance(found, Mapping) and "tasks" in found
        return list(from_json(TaskCards, found).tasks) if several else [parse_card(found)]
    except FileNotFoundError:
        raise RefusedError(
            f"{folder}: has no {TASK_FILE}; give the final/ folder of a run of `vilbert finetune`"
        ) from None
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise RefusedError(f"{path}: is not what `vilbert finetune` writes ({reason}); train again") from error


def parse_card(values: Any) -> TaskCard:
    """Return the card with these values, as JSON has them; DocumentError naming the one that is missing or wrong."""
    return from_json(TaskCard, values, optional=_OPTIONAL)


def require_card(card: TaskCard, config: Any, folder: Path) -> None:
    """Raise RefusedError where a model's card is not of that model; config: the model's, a `ViLBertConfig`.

    folder: that of the card, for the message.
    """
    where, remedy = folder / TASK_FILE, "they are not of one run; copy the whole folder again, or train again"
    setting = find_task(card.task).labels_setting
    if setting is not None and len(card.labels) != getattr(config, setting):
        raise RefusedError(
            f"{where}: names {len(card.labels):,} answers and the classifier has {getattr(config, setting):,} classes: "
            f"{remedy}"
        )
    if card.max_words > config.max_position_embeddings:
        raise RefusedError(
            f"{where}: max_words is {card.max_words:,}, the model has {config.max_position_embeddings:,} positions: "
            f"{remedy}"
        )
    if config.task_specific_tokens and (token := task_token(card.task)) >= config.num_task_tokens:
        raise RefusedError(f"{where}: {card.task} is task {token}, the model has {config.num_task_tokens}: {remedy}")
