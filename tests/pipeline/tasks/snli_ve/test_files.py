import json
from pathlib import Path
from typing import Any

import pytest

from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.tasks.snli_ve.files import Hypothesis, read_snli_ve
from vilbert.pipeline.tasks.snli_ve.spec import LABELS


def published(pair: str = "4705552913.jpg#2r1n", **changes: Any) -> dict[str, Any]:
    """Return a line as ViLBERT's files have it."""
    row = {
        "Flikr30kID": "4705552913.jpg",
        "annotator_labels": ["neutral", "entailment", "neutral"],
        "captionID": "4705552913.jpg#2",
        "gold_label": "neutral",
        "pairID": pair,
        "sentence1": "Two women are embracing while holding to go packages.",
        "sentence1_binary_parse": "( ( Two women ) ( ( are embracing ) . ) )",
        "sentence2": "The sisters are hugging goodbye.",
    }
    return row | changes


def write(folder: Path, name: str, *rows: dict[str, Any]) -> Path:
    (folder / f"snli_ve_{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def refusal(folder: Path, split: str = "dev") -> str:
    with pytest.raises(RefusedError) as caught:
        read_snli_ve(folder, split)
    return str(caught.value)


def test_a_hypothesis_is_the_second_sentence(tmp_path: Path) -> None:
    assert read_snli_ve(write(tmp_path, "train", published()), "train") == [
        Hypothesis(
            pair_id="4705552913.jpg#2r1n",
            image_id="4705552913",
            text="The sisters are hugging goodbye.",
            label=1,
        )
    ]


@pytest.mark.parametrize(("label", "number"), [("contradiction", 0), ("neutral", 1), ("entailment", 2), ("-", None)])
def test_labels_have_the_numbers_of_the_reference(tmp_path: Path, label: str, number: int | None) -> None:
    write(tmp_path, "dev", published(gold_label=label))
    assert read_snli_ve(tmp_path, "dev")[0].label == number
    assert number is None or LABELS[number] == label


def test_the_image_is_named_in_either_spelling(tmp_path: Path) -> None:
    row = published()
    del row["Flikr30kID"]
    write(tmp_path, "dev", row | {"Flickr30K_ID": "4705552913"})
    assert read_snli_ve(tmp_path, "dev")[0].image_id == "4705552913"


def test_val_is_the_published_dev(tmp_path: Path) -> None:
    assert len(read_snli_ve(write(tmp_path, "dev", published()), "val")) == 1


def test_only_a_test_split_may_keep_its_labels_secret(tmp_path: Path) -> None:
    row = published()
    del row["gold_label"]
    write(tmp_path, "test", row)
    write(tmp_path, "dev", row)
    assert read_snli_ve(tmp_path, "test")[0].label is None
    assert "snli_ve_dev.jsonl:1: gold_label is missing" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"gold_label": "maybe"}, "gold_label is 'maybe', not one of 'contradiction', 'neutral', 'entailment', '-'"),
        ({"gold_label": 1}, "gold_label is 1, not text"),
        ({"sentence2": None}, "sentence2 is None, not text"),
        ({"Flikr30kID": 4705552913}, "Flikr30kID is 4705552913, not text"),
        ({"Flikr30kID": ""}, "Flikr30kID is empty"),
        ({"pairID": ["x"]}, "pairID is ['x'], not text"),
    ],
)
def test_a_damaged_field_is_named_with_its_line(tmp_path: Path, changes: dict[str, Any], what: str) -> None:
    write(tmp_path, "dev", published("first"), published(**changes))
    assert f"snli_ve_dev.jsonl:2: {what}" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["Flikr30kID", "sentence2", "pairID"])
def test_a_missing_field_is_named_with_its_line(tmp_path: Path, name: str) -> None:
    row = published()
    del row[name]
    write(tmp_path, "dev", row)
    assert f"snli_ve_dev.jsonl:1: {name} is missing" in refusal(tmp_path)


def test_doubled_pairs_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "dev", published(), published())
    assert "snli_ve_dev.jsonl:2: pairID 4705552913.jpg#2r1n appears in an earlier line too" in refusal(tmp_path)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    assert "snli_ve_dev.jsonl: contains no entry" in refusal(write(tmp_path, "dev"))
