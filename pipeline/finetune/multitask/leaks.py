"""Images that are evaluated on are not trained on, whichever task shows them.

Tasks share photographs: RefCOCO's test images are among those that VQA trains on. 12-in-1 (Lu et al. 2020, 3.1) takes
the training items of all tasks whose image is in any test set out. Images are compared by name: COCO's and Flickr30k's
ids are names as they are; those of GQA, VCR and NLVR2 are numbers of their own, which a file can give other names.
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
    """Return what every task calls an image; names: those that a file gives images of this task, by id."""
    if image_id in names:
        return names[image_id]
    numbered_as = find_task(task).image_ids
    return image_id if numbered_as is None else f"{numbered_as} {image_id}"


def images_of(task: Task) -> list[str]:
    """Return the images that the items of a task are about, each once."""
    return list(dict.fromkeys(image for item in task.items for image in task.images(item)))


def read_image_ids(path: Path) -> list[str]:
    """Read a file of image ids: a JSON list of strings or whole numbers, or else a line each.

    Raises RefusedError where it cannot be read, or a JSON file is no such list.
    """
    if path.suffix == ".json":
        found = _read(path, "leave_out", parse_json)
        if not isinstance(found, list) or any(isinstance(it, bool) or not isinstance(it, str | int) for it in found):
            raise RefusedError(f"leave_out {path}: is not a JSON list of image ids (strings or integers)")
        return [str(it) for it in found]
    return [line.strip() for line in _read(path, "leave_out", str.splitlines) if line.strip()]


def read_image_names(path: Path | None) -> dict[str, str]:
    """Read the names that other tasks know images by, a JSON object by image id; RefusedError if it is not one."""
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
    """Return a task over those of its items that show no image that is held out; the others are counted in the log.

    held_out: what holds out an image, by its name. names: as for `name_of`. split: of the items, for messages. Raises
    RefusedError where none is left.
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
