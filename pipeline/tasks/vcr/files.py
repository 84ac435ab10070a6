"""VCR v1 (Zellers et al. 2019): questions about people in films, four answers to each, four rationales.

A text is a list of words and of lists of objects, such as `["Why", "is", [0, 2], "here", "?"]`. Objects are called by
their class, and a person by a name that is drawn once for each image. Two objects of one class (two dogs) read alike,
as published; `tags` say which object each word is about. Source of the form: the readme of vcr1annots and
github.com/rowanz/r2c.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vilbert.manifests.boxes import parse_box, within_unit
from vilbert.manifests.captions import storable
from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.shards.canonical import encode_json
from vilbert.pipeline.tasks.annotation_files import field, json_lines, reading
from vilbert.pipeline.tasks.captioned_images import coco_number
from vilbert.untrusted.documents import parse_json

CHOICES = 4
PERSON = "person"
# Of r2c, where Peyton stands twice.
NAMES = (
    *("Casey", "Riley", "Jessie", "Jackie", "Avery", "Jaime", "Peyton"),
    *("Kerry", "Jody", "Kendall", "Skyler", "Frankie", "Pat", "Quinn"),
)
"""What people are called unless told otherwise."""
COLUMNS = [
    "annot_id",
    *(f"answer_{i}" for i in range(CHOICES)),
    *(f"rationale_conditioned_on_a{i}_{j}" for i in range(CHOICES) for j in range(CHOICES)),
]
"""Of the file that the server takes."""


class Tag(NamedTuple):
    """Where a text speaks of an object."""

    object: int
    """Its number in the image's metadata, and so the number of its given box."""
    start: int
    """Character of the text where its name begins."""
    end: int
    """Character behind its name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VcrQuestion:
    """A question with its choices, in words."""

    annot_id: str
    """Unique."""
    img_fn: str
    """The image's file below vcr1images."""
    image_id: str
    """As manifests name the image: its path below the folder without suffix, or the COCO id of shapes."""
    metadata_fn: str
    """The file of its boxes, for `vcr_boxes`."""
    question: str
    """Words with one space between them."""
    answers: tuple[str, ...]
    """Four."""
    rationales: tuple[str, ...]
    """Four."""
    answer_label: int | None
    """Number of the right answer; None where it is secret."""
    rationale_label: int | None
    """Number of the rationale of the right answer; None where it is secret."""
    tags: tuple[tuple[Tag, ...], ...]
    """Of the question, the four answers and the four rationales: what they refer to, in order."""


class VcrBoxes(NamedTuple):
    """The objects of an image."""

    boxes: NDArray[np.float32]
    """[N, 4] xyxy in pixels."""
    names: tuple[str, ...]
    """[N] classes."""
    width: int
    """Pixels of the image."""
    height: int
    """Pixels of the image."""


class VcrAccuracy(NamedTuple):
    """Shares of questions, in [0, 1]."""

    q_a: float
    """With the right answer."""
    qa_r: float
    """With the right rationale, the right answer given."""
    q_ar: float
    """With both."""


def load_names(path: Path) -> tuple[str, ...]:
    """Return the names in a CSV file's column `name`, such as ViLBERT's unisex_names_table.csv, each once.

    Raises RefusedError if there is no such column, or a row without a name.
    """
    with reading(path):
        data = path.read_bytes()
    try:
        rows = list(csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise RefusedError(f"{path}: not a CSV file in UTF-8 ({error})") from error
    if not rows or "name" not in rows[0]:
        raise RefusedError(f"{path}: its first line has no column `name`; add it")
    column = rows[0].index("name")
    names: dict[str, None] = {}
    for number, row in enumerate(rows[1:], 2):
        if row and not (name := row[column].strip() if len(row) > column else ""):
            raise RefusedError(f"{path}: row {number} has no name; remove it")
        if row:
            names[name] = None
    if not names:
        raise RefusedError(f"{path}: has no names")
    return tuple(names)


def object_names(objects: Sequence[str], *, image_id: str, seed: int, names: Sequence[str]) -> tuple[str, ...]:
    """Return what each object of an image is called: a person by a name, anything else by its class.

    A name depends on the seed, the image and the objects before it, and on nothing else. Persons of one image differ
    as long as there are names; then they come round again.
    """
    called = list(objects)
    left: list[str] = []
    for i, kind in enumerate(objects):
        if kind == PERSON:
            left = left or list(dict.fromkeys(names))
            digest = hashlib.sha256(encode_json([seed, image_id, i])).digest()
            called[i] = left.pop(int.from_bytes(digest[:8], "big") % len(left))
    return tuple(called)


def read_vcr(
    folder: str | os.PathLike[str], split: str, *, seed: int, names: Sequence[str] = NAMES
) -> list[VcrQuestion]:
    """Read `{train,val,test}.jsonl` of a folder; only test may go without labels.

    seed, names: of the names of people. Raises RefusedError naming file and line.
    """
    if not names:
        raise RefusedError("names: the list of names for people is empty; give at least one")
    path = Path(folder) / f"{split}.jsonl"
    questions: dict[str, VcrQuestion] = {}
    shared: dict[tuple[Tag, ...], tuple[Tag, ...]] = {}  # the same few tags in most of a million texts
    for where, row in json_lines(path):
        annot_id, img_fn = field(row, "annot_id", str, where), field(row, "img_fn", str, where)
        if annot_id in questions:
            raise RefusedError(f"{where}: annot_id {annot_id} appears in an earlier line too; remove one of them")
        image_id = vcr_image_id(img_fn)
        called = object_names(_words(row, "objects", where), image_id=image_id, seed=seed, names=names)
        texts = [
            field(row, "question", list, where),
            *_choices(row, "answer", where),
            *_choices(row, "rationale", where),
        ]
        spelled = [_spell(tokens, called, where) for tokens in texts]
        questions[annot_id] = VcrQuestion(
            annot_id=annot_id,
            img_fn=img_fn,
            image_id=image_id,
            metadata_fn=field(row, "metadata_fn", str, where),
            question=spelled[0][0],
            answers=tuple(text for text, _ in spelled[1 : 1 + CHOICES]),
            rationales=tuple(text for text, _ in spelled[1 + CHOICES :]),
            answer_label=_label(row, "answer_label", split, where),
            rationale_label=_label(row, "rationale_label", split, where),
            tags=tuple(shared.setdefault(tags, tags) for _, tags in spelled),
        )
    return list(questions.values())


def vcr_image_id(img_fn: str) -> str:
    """Return what manifests call an image: its path below the folder without suffix, or the COCO id of shapes."""
    return coco_number(img_fn) or os.path.splitext(img_fn)[0]


def vcr_boxes(folder: str | os.PathLike[str], metadata_fn: str) -> VcrBoxes:
    """Read the objects of an image from its metadata below a folder, vcr1images.

    Raises RefusedError naming the file, and the box where one has no area.
    """
    path = Path(folder) / metadata_fn
    with reading(path):
        data = path.read_bytes()
    try:
        row = parse_json(data, allow_surrogates=True)
    except ValueError as error:
        raise RefusedError(f"{path}: not valid JSON ({error}); is the download complete?") from error
    if not isinstance(row, dict):
        raise RefusedError(f"{path}: not a JSON object but {row!r:.80}")
    names, boxes = _words(row, "names", str(path)), field(row, "boxes", list, str(path))
    width, height = field(row, "width", int, str(path)), field(row, "height", int, str(path))
    if len(names) != len(boxes) or width <= 0 or height <= 0:
        raise RefusedError(f"{path}: has {len(boxes)} boxes, {len(names)} names and a size of {width}x{height}")
    corners = [parse_box(box[:4]) if isinstance(box, list) else None for box in boxes]  # a score may follow
    if None in corners:
        i = corners.index(None)
        raise RefusedError(f"{path}: boxes[{i}] is {boxes[i]!r:.80}, not x1, y1, x2, y2 of a box and a score")
    if corners and within_unit(corner for corner in corners if corner is not None):
        raise RefusedError(f"{path}: all boxes lie within 0..1; expected pixels of an image of {width}x{height}")
    return VcrBoxes(np.array(corners, dtype=np.float32).reshape(-1, 4), tuple(names), width, height)


def submission_csv(annot_ids: Sequence[str], answer_probs: NDArray[Any], rationale_probs: NDArray[Any]) -> str:
    """Return the file that the server of VCR takes.

    answer_probs: [Q, 4]. rationale_probs: [Q, 4, 4], of each rationale with each answer taken for the right one.
    Raises ValueError for other shapes, doubled ids, and numbers that are not finite.
    Source: models/README.md and eval_for_leaderboard.py of rowanz/r2c.
    """
    count = len(annot_ids)
    if answer_probs.shape != (count, CHOICES) or rationale_probs.shape != (count, CHOICES, CHOICES):
        raise ValueError(f"{count} questions, but probabilities {answer_probs.shape} and {rationale_probs.shape}")
    if len(set(annot_ids)) < count:
        raise ValueError("annot_ids: some appear twice")
    numbers = np.concatenate([answer_probs, rationale_probs.reshape(count, CHOICES * CHOICES)], axis=1)
    if not np.isfinite(numbers).all():
        raise ValueError("probabilities are not all finite")
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    # Nine digits give a float32 back as it was.
    writer.writerows([name, *(f"{value:.9g}" for value in row)] for name, row in zip(annot_ids, numbers, strict=True))
    return file.getvalue()


def q_ar_accuracy(
    answer_probs: NDArray[Any],
    rationale_probs: NDArray[Any],
    answer_labels: Sequence[int] | NDArray[np.integer],
    rationale_labels: Sequence[int] | NDArray[np.integer],
) -> VcrAccuracy:
    """Return VCR's three accuracies; all are 0 if there is no question.

    answer_probs: [Q, 4], of the first highest. rationale_probs: [Q, 4] with the right answer given, or [Q, 4, 4] with
    each answer given, of which the right one's count. labels: [Q]. Source: vcr/evaluator of allenai/mosaic-leaderboard.
    """
    answers, rationales = np.asarray(answer_labels, dtype=np.int64), np.asarray(rationale_labels, dtype=np.int64)
    if not len(answers):
        return VcrAccuracy(0.0, 0.0, 0.0)
    given = rationale_probs[np.arange(len(answers)), answers] if rationale_probs.ndim == 3 else rationale_probs
    answered, explained = answer_probs.argmax(1) == answers, given.argmax(1) == rationales
    return VcrAccuracy(float(answered.mean()), float(explained.mean()), float((answered & explained).mean()))


def _words(row: Mapping[str, Any], name: str, where: str) -> list[str]:
    words = field(row, name, list, where)
    if not all(isinstance(word, str) for word in words):
        raise RefusedError(f"{where}: {name} is {words!r:.80}, not a list of text")
    return [storable(word) for word in words]


def _choices(row: Mapping[str, Any], of: str, where: str) -> list[list[Any]]:
    choices = field(row, f"{of}_choices", list, where)
    if len(choices) != CHOICES or not all(isinstance(tokens, list) for tokens in choices):
        raise RefusedError(f"{where}: {of}_choices is {choices!r:.80}, not {CHOICES} lists of words")
    return choices


def _spell(tokens: Sequence[Any], called: Sequence[str], where: str) -> tuple[str, tuple[Tag, ...]]:
    """Return a text with names for objects, and where they are; several in one list follow one another."""
    words: list[str] = []
    tags: list[Tag] = []
    start = 0
    for token in tokens:
        if isinstance(token, str):
            words.append(storable(token))
            start += len(token) + 1  # what is replaced is as long as before
            continue
        if not isinstance(token, list):
            raise RefusedError(f"{where}: {token!r:.80} is neither a word nor a list of objects")
        for number in token:
            if type(number) is not int or not 0 <= number < len(called):
                raise RefusedError(
                    f"{where}: {token!r:.80} refers to no object; there are {len(called)}, numbered from 0"
                )
            words.append(called[number])
            tags.append(Tag(number, start, start + len(words[-1])))
            start += len(words[-1]) + 1
    return " ".join(words), tuple(tags)


def _label(row: Mapping[str, Any], name: str, split: str, where: str) -> int | None:
    if row.get(name) is None and split.startswith("test"):
        return None
    label = field(row, name, int, where)
    if not 0 <= label < CHOICES:
        raise RefusedError(f"{where}: {name} is {label}, not 0 to {CHOICES - 1}")
    return label
