"""SNLI-VE (Xie et al. 2019): does an image of Flickr30k entail a sentence, contradict it, or neither?

Pairs are in `snli_ve_{train,dev,test}.jsonl` as github.com/necla-ml/SNLI-VE creates them. The image field has two
spellings: `Flikr30kID` with a file name (ViLBERT's files), and `Flickr30K_ID` without the suffix.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.tasks.annotation_files import field, json_lines, label_field, split_file
from vilbert.pipeline.tasks.snli_ve.spec import LABELS

UNDECIDED = "-"
"""Label of pairs on which annotators disagree."""
_NUMBERS: dict[str, int | None] = {label: number for number, label in enumerate(LABELS)} | {UNDECIDED: None}
_IMAGE_FIELDS = ("Flikr30kID", "Flickr30K_ID")
_PUBLISHED = {"val": "dev"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Hypothesis:
    """A sentence to be classified given an image."""

    pair_id: str
    """Unique."""
    image_id: str
    """The file's name without its suffix, as manifests name images of Flickr30k."""
    text: str
    """The sentence."""
    label: int | None
    """Index of the class in LABELS; None if annotators disagree or the label is not public."""


def read_snli_ve(folder: Path, split: str) -> list[Hypothesis]:
    """Read the sentences of a split: train, dev (or val), test.

    Raises:
        RefusedError: A line is damaged; the message names file and line.
    """
    hypotheses: dict[str, Hypothesis] = {}
    for where, row in json_lines(split_file(folder, "snli_ve_{}.jsonl", split, _PUBLISHED)):
        pair_id = field(row, "pairID", str, where)
        if pair_id in hypotheses:
            raise RefusedError(f"{where}: pairID {pair_id} appears in an earlier line too; remove one of them")
        name = next((name for name in _IMAGE_FIELDS if name in row), _IMAGE_FIELDS[0])
        image_id = PurePosixPath(field(row, name, str, where)).stem
        if not image_id:
            raise RefusedError(f"{where}: {name} is empty; it must identify an image")
        hypotheses[pair_id] = Hypothesis(
            pair_id=pair_id,
            image_id=image_id,
            text=field(row, "sentence2", str, where),
            label=label_field(row, "gold_label", _NUMBERS, split, where),
        )
    return list(hypotheses.values())
