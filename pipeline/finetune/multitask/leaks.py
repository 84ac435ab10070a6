"""Exclude evaluation images of any task from the training items of all tasks.

Tasks share images: RefCOCO's test images are among VQA's training images. 12-in-1 (Lu et al. 2020, 3.1) removes
training items of all tasks whose image is in any test set. Images are compared by name: ids of COCO and Flickr30k are
used as they are; GQA, VCR and NLVR2 have their own numbers, for which a file can give other names.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.tasks.registry import find_task
from vilbert.pipeline.tasks.task import Task
from vilbert.untrusted.documents import parse_json

logger = logging.getLogger(__name__)

NAMED_IN_A_MESSAGE = 5


def name_of(task: str, image_id: str, names: Mapping[str, str]) -> str:
    """Return the name of an image that is common to all tasks; `names`: common names by image id of this task."""
    if image_id in names:
        return names[image_id]
    numbered_as = find_task(task).image_ids
    return image_id if numbered_as is None else f"{numbered_as} {image_id}"


def images_of(task: Task) -> list[str]:
    """Return the distinct images of a task's items."""
    return list(dict.fromkeys(image for item in task.items for image in task.images(item)))


def read_image_ids(path: Path) -> list[str]:
    """Read a file of image ids: a JSON list of strings or integers, or one id per line.

    Raises:
        RefusedError: The file cannot be read, or a JSON file is not such a list.
    """
    if path.suffix == ".json":
        found = _read(path, "leave_out", parse_json)
        if not isinstance(found, list) or any(isinstance(it, bool) or not isinstance(it, str | int) for it in found):
            raise RefusedError(f"leave_out {path}: is not a JSON list of image ids (strings or integers)")
        return [str(it) for it in found]
    return [line.strip() for line in _read(path, "leave_out", str.splitlines) if line.strip()]


def read_image_names(path: Path | None) -> dict[str, str]:
    """Read the common names of images, a JSON object by image id; raise RefusedError if it is not one."""
    found = {} if path is None else _read(path, "image_names", parse_json)
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found.values()):
        raise RefusedError(f"image_names {path}: is not a JSON object from image ids to names")
    return found


def _read(path: Path, setting: str, parse: Callable[[str], Any]) -> Any:
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RefusedError(f"{setting} {path}: cannot be read ({error})") from error


def without_leaks(task: Task, held_out: Mapping[str, str], names: Mapping[str, str], *, split: str) -> Task:
    """Return the task without items about held-out images; the number of removed items is logged.

    Args:
        task: The task with its training items.
        held_out: What holds out an image, by its common name.
        names: Common names by image id, see `name_of`.
        split: Split of the items, for messages.

    Raises:
        RefusedError: No item remains.
    """
    leaks = {
        image: held_out[name] for image in images_of(task) if (name := name_of(task.name, image, names)) in held_out
    }
    if not leaks:
        return task
    kept = [item for item in task.items if leaks.keys().isdisjoint(task.images(item))]
    some = ", ".join(f"{image} by {by}" for image, by in list(leaks.items())[:NAMED_IN_A_MESSAGE])
    message = (
        f"{task.name}, {split}: {len(task.items) - len(kept):,} of {len(task.items):,} are about {len(leaks):,} images "
        f"that are held out ({some}{', ...' * (len(leaks) > NAMED_IN_A_MESSAGE)})"
    )
    if not kept:
        raise RefusedError(f"{message}, and nothing is left to train on: give another split, eval_split or leave_out")
    logger.warning("%s; they are left out", message)
    return task.without_images(leaks)
