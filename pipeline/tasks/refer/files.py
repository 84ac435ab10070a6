"""Referring expressions in the file formats of REFER: RefCOCO, RefCOCO+ (Yu et al. 2016), RefCOCOg (Mao et al. 2016).

A folder contains `instances.json` with COCO's boxes, and the expressions: `refs(unc).p`, `refs(umd).p` or
`refs(google).p`, Python 2 pickles as published at github.com/lichengunc/refer, or the same list as JSON or JSONL.
Pickles can execute code; here only lists, mappings, text and numbers are read, and any other content is rejected.
`file_name` contains the object's number before its suffix and does not identify an image; `image_id` does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vilbert.manifests.boxes import parse_box, within_unit
from vilbert.manifests.readers.document import read_document
from vilbert.manifests.record import Box
from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.shards.canonical import encode_json
from vilbert.pipeline.shards.storage.atomic import write_atomic
from vilbert.pipeline.tasks.annotation_files import AbsentError, field, json_lines, reading
from vilbert.untrusted import pickles
from vilbert.untrusted.documents import read_json

Placed = tuple[str, dict[str, Any]]

STEMS = ("refs(umd)", "refs(unc)", "refs(google)")
"""Annotation files of a folder in order of preference; refcoco and refcoco+ have no umd."""
SUFFIXES = (".jsonl", ".json", ".p")
INSTANCES = "instances.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Expression:
    """A phrase and the object it refers to."""

    sent_id: int
    """Id of the phrase, unique in its file."""
    ref_id: int
    """Id of the object's entry; several phrases share it."""
    image_id: str
    """The COCO id."""
    text: str
    """As written (`raw`)."""
    box_xyxy: Box
    """Box of the object in pixels of the image."""
    ann_id: int
    """Id of the object in instances.json."""
    split: str
    """Split name in the file."""


def read_refer(folder: Path, split: str) -> list[Expression]:
    """Read the expressions of a split (such as train, val, test, testA, testB), in the file's order.

    Args:
        folder: Folder of one data set, such as .../refcoco+. Preference: umd, unc, google; then JSONL, JSON, pickle.
        split: Name of the split.

    Raises:
        RefusedError: An entry is damaged; the message names file and entry.
        AbsentError: The split does not exist.
    """
    path = _refs_file(folder)
    refs = list(_checked(_read_refs(path), path))
    chosen = [(where, ref) for where, ref in refs if ref["split"] == split]
    if not chosen:
        there = ", ".join(sorted({ref["split"] for _, ref in refs}))
        raise AbsentError(f"{path}: has no split {split!r}; its splits are: {there}")
    boxes = _boxes(folder / INSTANCES, {ref["ann_id"] for _, ref in chosen})
    return [expression for where, ref in chosen for expression in _expressions(where, ref, boxes, folder / INSTANCES)]


def refs_to_jsonl(path: Path, output: Path) -> int:
    """Convert a file of REFER to JSONL, one entry per line, atomically; return the number of entries.

    Raises:
        RefusedError: An entry is damaged or cannot be represented as JSON.
    """
    lines = []
    for where, ref in _checked(_read_refs(path), path):
        try:
            lines.append(encode_json(ref) + b"\n")
        except (TypeError, ValueError) as error:
            raise RefusedError(f"{where}: cannot be written as JSON ({error})") from error
    write_atomic(output, b"".join(lines))
    return len(lines)


def _refs_file(folder: Path) -> Path:
    names = [stem + suffix for stem in STEMS for suffix in SUFFIXES]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise RefusedError(f"{folder}: has none of {', '.join(names)}; give the folder of one data set, such as refcocog")


def _read_refs(path: Path) -> Iterable[Placed]:
    if path.suffix == ".jsonl":
        return json_lines(path)
    with reading(path):
        rows = _unpickled(path) if path.suffix == ".p" else _decoded(path)
    if not isinstance(rows, list) or not rows:
        raise RefusedError(f"{path}: not a list of entries; is this the published file?")
    return ((f"{path}: entry {i}", row) for i, row in enumerate(rows))


def _unpickled(path: Path) -> Any:
    try:
        return pickles.load(path.read_bytes())
    except pickles.ForbiddenError as error:
        raise RefusedError(f"{path}: {error}; get the file from a source you trust, as JSON") from error
    except pickles.PickleError as error:
        raise RefusedError(f"{path}: not a complete pickle ({error}); is the download complete?") from error


def _decoded(path: Path) -> Any:
    try:
        return read_json(path, allow_surrogates=True)
    except ValueError as error:
        raise RefusedError(f"{path}: not valid JSON ({error}); is the download complete?") from error


def _checked(rows: Iterable[Placed], path: Path) -> Iterator[Placed]:
    """Yield the entries after checking their fields, types and the uniqueness of ids."""
    ref_ids: set[int] = set()
    sent_ids: set[int] = set()
    for where, row in rows:
        if not isinstance(row, dict):
            raise RefusedError(f"{where}: expected an object, found {row!r:.80}")
        for name in ("ann_id", "image_id"):
            field(row, name, int, where)
        field(row, "split", str, where)
        _add(ref_ids, field(row, "ref_id", int, where), f"{where}: ref_id")
        for i, sentence in enumerate(field(row, "sentences", list, where)):
            place = f"{where}: sentences[{i}]"
            if not isinstance(sentence, dict):
                raise RefusedError(f"{place}: expected an object, found {sentence!r:.80}")
            field(sentence, "raw", str, place)
            _add(sent_ids, field(sentence, "sent_id", int, place), f"{place}: sent_id")
        yield where, row


def _add(numbers: set[int], number: int, where: str) -> None:
    if number in numbers:
        raise RefusedError(f"{where} {number} appears earlier too; remove one of them")
    numbers.add(number)


def _boxes(path: Path, wanted: set[int]) -> dict[int, tuple[int, Box]]:
    """Return (image id, box) of the requested annotations by id."""
    with reading(path):
        rows = read_document(path, ["annotations"], drop=["segmentation"])["annotations"]
    boxes: dict[int, tuple[int, Box]] = {}
    for i, row in enumerate(rows):
        where = f"{path}: annotations[{i}]"
        number = field(row, "id", int, where)
        if number not in wanted:
            continue
        if number in boxes:
            raise RefusedError(f"{where}: id {number} appears in an earlier entry too; remove one of them")
        boxes[number] = field(row, "image_id", int, where), _xyxy(field(row, "bbox", list, where), where)
    if boxes and within_unit(box for _, box in boxes.values()):
        raise RefusedError(f"{path}: all boxes lie within 0..1; expected x, y, width and height in pixels")
    return boxes


def _xyxy(xywh: list[Any], where: str) -> Box:
    corners = None
    if len(xywh) == 4 and all(type(value) in (int, float) for value in xywh):
        with contextlib.suppress(OverflowError):  # an integer that exceeds the float range
            x, y, width, height = map(float, xywh)
            corners = parse_box((x, y, x + width, y + height))
    if corners is None:
        raise RefusedError(f"{where}: bbox is {xywh!r:.80}, not x, y, width and height of a box")
    return corners


def _expressions(
    where: str, ref: dict[str, Any], boxes: dict[int, tuple[int, Box]], instances: Path
) -> Iterator[Expression]:
    ann_id, image_id = ref["ann_id"], ref["image_id"]
    if ann_id not in boxes:
        raise RefusedError(f"{where}: ann_id {ann_id} is not in {instances}; do both belong to one data set?")
    if boxes[ann_id][0] != image_id:
        raise RefusedError(
            f"{where}: image_id is {image_id}, but {instances} has object {ann_id} in image {boxes[ann_id][0]}; do "
            "both belong to one data set?"
        )
    for sentence in ref["sentences"]:
        yield Expression(
            sent_id=sentence["sent_id"],
            ref_id=ref["ref_id"],
            image_id=str(image_id),
            text=field(sentence, "raw", str, where),
            box_xyxy=boxes[ann_id][1],
            ann_id=ann_id,
            split=ref["split"],
        )
