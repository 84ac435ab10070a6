"""NLVR2 (Suhr et al. 2019): statements about two photographs.

Statements are in `{train,dev,test1}.json`, one JSON object per line, as published at github.com/lil-lab/nlvr.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.tasks.annotation_files import field, json_lines, label_field, split_file

_IDENTIFIER = re.compile(r"(.+-\d+-\d+)-\d+")
_LABELS = {"True": True, "False": False}
_PUBLISHED = {"val": "dev", "test": "test1"}


@dataclass(frozen=True, kw_only=True, slots=True)
class NlvrStatement:
    """A sentence about two images."""

    identifier: str
    """`split-set-pair-sentence`, unique."""
    image_ids: tuple[str, str]
    """The left and the right image: their file names without suffix."""
    text: str
    """The sentence."""
    label: bool | None
    """Whether the statement is true; None if it is not public."""


def read_nlvr2(folder: Path, split: str) -> list[NlvrStatement]:
    """Read the statements of a split: train, dev (or val), test1 (or test).

    Raises:
        RefusedError: A line is damaged; the message names file and line.
    """
    statements: dict[str, NlvrStatement] = {}
    for where, row in json_lines(split_file(folder, "{}.json", split, _PUBLISHED)):
        identifier = field(row, "identifier", str, where)
        match = _IDENTIFIER.fullmatch(identifier)
        if match is None:
            raise RefusedError(f"{where}: identifier {identifier!r:.80} is not split-set-pair-sentence")
        if identifier in statements:
            raise RefusedError(f"{where}: identifier {identifier} appears in an earlier line too; remove one of them")
        statements[identifier] = NlvrStatement(
            identifier=identifier,
            image_ids=(f"{match[1]}-img0", f"{match[1]}-img1"),
            text=field(row, "sentence", str, where),
            label=label_field(row, "label", _LABELS, split, where),
        )
    return list(statements.values())


def nlvr2_accuracy(statements: Sequence[NlvrStatement], predictions: Sequence[bool]) -> tuple[float, float]:
    """Return (accuracy, consistency).

    Consistency is the fraction of sentences for which all statements are correct: a sentence is combined with up to
    four pairs of images of one set. Both are 0 without statements. Source: nlvr2/eval/metrics.py of lil-lab/nlvr.
    """
    sentences: dict[str, bool] = {}
    right = 0
    for statement, prediction in zip(statements, predictions, strict=True):
        hit = prediction == statement.label
        right += hit
        image_set, _, sentence = statement.identifier.rsplit("-", 2)
        key = f"{image_set}-{sentence}"
        sentences[key] = sentences.get(key, True) and hit
    return right / max(len(statements), 1), sum(sentences.values()) / max(len(sentences), 1)


def nlvr2_results_csv(identifiers: Sequence[str], predictions: Sequence[bool]) -> str:
    """Return the file for nlvr2/eval/metrics.py of lil-lab/nlvr: lines of `identifier,True` or `identifier,False`."""
    return "".join(
        f"{identifier},{bool(prediction)}\n" for identifier, prediction in zip(identifiers, predictions, strict=True)
    )
