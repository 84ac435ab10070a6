"""The rows of a scene in the files of three tasks: VQA v2, VCR v1 and REFER (RefCOCOg).

Field for field as published: visualqa.org/download, visualcommonsense.com/download (readme of vcr1annots),
github.com/lichengunc/refer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vilbert.pipeline.shapes.choices import Choices, Tokens
from vilbert.pipeline.shapes.expressions import Reference
from vilbert.pipeline.shapes.image_rows import Row
from vilbert.pipeline.shapes.layout import FOLDERS, LABELLED_SPLITS, image_id, image_path, metadata_path, numbered_id
from vilbert.pipeline.shapes.questions import Question
from vilbert.pipeline.shapes.scene import Scene, split_of

_SECRETS = [
    "answer_likelihood",
    "answer_orig",
    "answer_label",
    "answer_match_iter",
    "rationale_orig",
    "rationale_label",
    "rationale_match_iter",
]


def question_rows(scene: Scene, questions: Sequence[Question]) -> list[Row]:
    """Return the scene's entries in `questions`."""
    image = image_id(scene.index)
    return [
        {"image_id": image, "question": question.text, "question_id": image * 1000 + position}
        for position, question in enumerate(questions)
    ]


def answer_rows(scene: Scene, questions: Sequence[Question]) -> list[Row]:
    """Return the scene's entries in `annotations` of the answers."""
    image = image_id(scene.index)
    return [
        {
            "question_type": question.question_type,
            "multiple_choice_answer": question.answer,
            "answers": [
                {"answer": answer, "answer_confidence": confidence, "answer_id": number}
                for number, (answer, confidence) in enumerate(question.answers, start=1)
            ],
            "image_id": image,
            "answer_type": question.answer_type,
            "question_id": image * 1000 + position,
        }
        for position, question in enumerate(questions)
    ]


def _spelled(tokens: Tokens) -> str:
    """Return tokens as typed by an annotator, with tags that count from 1."""
    words = [token if isinstance(token, str) else ",".join(str(tag + 1) for tag in token) for token in tokens]
    return " ".join(words).replace(" .", ".").replace(" ?", "?")


def _origins(label: int, count: int) -> list[int]:
    """Return the round of matching that each choice came from: 0 the true one, then 1, 2, 3."""
    others = iter(range(1, count))
    return [0 if position == label else next(others) for position in range(count)]


def choices_row(scene: Scene, asked: Choices, position: int) -> Row:
    """Return a line of VCR's `{train,val,test}.jsonl`; `test` does not include the answers."""
    split, number = split_of(scene.index), numbered_id(scene.index, position)
    row: dict[str, Any] = {
        "movie": FOLDERS[split],
        "objects": [item.shape for item in scene.objects],
        "interesting_scores": [0],
        "answer_likelihood": "possible",
        "img_fn": str(image_path(scene.index)),
        "metadata_fn": str(metadata_path(scene.index)),
        "answer_orig": _spelled(asked.answers[asked.answer_label]),
        "question_orig": _spelled(asked.question),
        "rationale_orig": _spelled(asked.rationales[asked.rationale_label]),
        "question": asked.question,
        "answer_match_iter": _origins(asked.answer_label, len(asked.answers)),
        "answer_sources": [number] * len(asked.answers),
        "answer_choices": list(asked.answers),
        "answer_label": asked.answer_label,
        "rationale_choices": list(asked.rationales),
        "rationale_sources": [number] * len(asked.rationales),
        "rationale_match_iter": _origins(asked.rationale_label, len(asked.rationales)),
        "rationale_label": asked.rationale_label,
        "img_id": f"{split}-{image_id(scene.index)}",
        "question_number": position,
        "annot_id": f"{split}-{number}",
        "match_fold": f"{split}-0",
        "match_index": number,
    }
    if split not in LABELLED_SPLITS:
        row = {name: value for name, value in row.items() if name not in _SECRETS}
    return row


def metadata(scene: Scene) -> Row:
    """Return the content of an image's VCR metadata file; the outline is the box's."""
    boxes = [item.box_xyxy for item in scene.objects]
    return {
        "boxes": [[*map(float, box), 1.0] for box in boxes],
        "segms": [[[[x1, y1], [x2, y1], [x2, y2], [x1, y2]]] for x1, y1, x2, y2 in boxes],
        "names": [item.shape for item in scene.objects],
        "width": scene.width,
        "height": scene.height,
    }


def reference_row(scene: Scene, reference: Reference) -> Row:
    """Return an entry of `refs(umd)`; as published, `file_name` has the object's id before its suffix."""
    number = numbered_id(scene.index, reference.position)
    sentence_ids = [number * 10 + k for k in range(len(reference.expressions))]
    path = image_path(scene.index)
    return {
        "sent_ids": sentence_ids,
        "file_name": f"{path.stem}_{number}{path.suffix}",
        "ann_id": number,
        "ref_id": number,
        "image_id": image_id(scene.index),
        "split": split_of(scene.index),
        "sentences": [
            {"tokens": text.split(), "raw": text, "sent_id": sentence_id, "sent": text}
            for sentence_id, text in zip(sentence_ids, reference.expressions, strict=True)
        ],
        "category_id": scene.objects[reference.position].class_id,
    }
