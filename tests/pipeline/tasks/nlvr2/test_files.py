import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.tasks.nlvr2.files import (
    NlvrStatement,
    json_lines,
    nlvr2_accuracy,
    nlvr2_results_csv,
    read_nlvr2,
)


def published(identifier: str = "dev-850-0-0", **changes: Any) -> dict[str, Any]:
    """Return a line as published."""
    row = {
        "validation": {"60": "True"},
        "sentence": "The right image shows a curving walkway of dark glass circling a grassy area.",
        "left_url": "https://images.invalid/left.jpg",
        "writer": "104",
        "right_url": "https://images.invalid/right.jpg",
        "synset": "dome.n.04",
        "query": "glass domes29",
        "identifier": identifier,
        "label": "True",
        "extra_validations": {"90": "True", "159": "True"},
    }
    return row | changes


def write(folder: Path, name: str, rows: list[dict[str, Any]]) -> Path:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def refusal(folder: Path, split: str = "dev") -> str:
    with pytest.raises(RefusedError) as caught:
        read_nlvr2(folder, split)
    return str(caught.value)


def test_a_statement_is_about_the_two_images_of_its_pair(tmp_path: Path) -> None:
    write(tmp_path, "dev.json", [published("dev-850-0-1", label="False")])
    assert read_nlvr2(tmp_path, "dev") == [
        NlvrStatement(
            identifier="dev-850-0-1",
            image_ids=("dev-850-0-img0", "dev-850-0-img1"),
            text="The right image shows a curving walkway of dark glass circling a grassy area.",
            label=False,
        )
    ]


def test_the_file_order_is_kept(tmp_path: Path) -> None:
    identifiers = ["dev-9-0-0", "dev-10-3-1", "dev-1-2-0"]
    write(tmp_path, "dev.json", [published(identifier) for identifier in identifiers])
    assert [statement.identifier for statement in read_nlvr2(tmp_path, "dev")] == identifiers


@pytest.mark.parametrize(("split", "name"), [("val", "dev.json"), ("test", "test1.json"), ("train", "train.json")])
def test_splits_have_their_usual_names_too(tmp_path: Path, split: str, name: str) -> None:
    write(tmp_path, name, [published()])
    assert len(read_nlvr2(tmp_path, split)) == 1


def test_a_file_of_the_split_itself_goes_before_the_published_name(tmp_path: Path) -> None:
    write(tmp_path, "test1.json", [published("test1-0-0-0")])
    write(tmp_path, "test.json", [published("test-0-0-0")])
    assert read_nlvr2(tmp_path, "test")[0].identifier == "test-0-0-0"


def test_secret_labels_are_none(tmp_path: Path) -> None:
    row = published("test1-0-1-0")
    del row["label"]
    write(tmp_path, "test1.json", [row])
    assert read_nlvr2(tmp_path, "test1")[0].label is None


def test_a_byte_order_mark_blank_lines_and_windows_line_ends_do_no_harm(tmp_path: Path) -> None:
    line = json.dumps(published())
    (tmp_path / "dev.json").write_bytes(b"\xef\xbb\xbf" + f"{line}\r\n\n  \n".encode())
    assert len(read_nlvr2(tmp_path, "dev")) == 1


def test_a_line_separator_inside_a_sentence_ends_no_line(tmp_path: Path) -> None:
    row = published(sentence="one\u2028two\x85three")
    (tmp_path / "dev.json").write_text(json.dumps(row, ensure_ascii=False) + "\n", "utf-8")
    assert read_nlvr2(tmp_path, "dev")[0].text == "one\u2028two\x85three"


def test_lone_surrogates_become_something_that_utf8_holds(tmp_path: Path) -> None:
    write(tmp_path, "dev.json", [published(sentence="a \ud83d b")])
    assert read_nlvr2(tmp_path, "dev")[0].text == "a \ufffd b"


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"label": "maybe"}, "label is 'maybe'"),
        ({"label": True}, "label is True, not text"),
        ({"label": None}, "label is None"),
        ({"sentence": 3}, "sentence is 3, not text"),
        ({"sentence": ["a"]}, "sentence is ['a'], not text"),
        ({"identifier": "850"}, "identifier '850' is not split-set-pair-sentence"),
    ],
)
def test_a_damaged_field_is_named_with_its_line(tmp_path: Path, changes: dict[str, Any], what: str) -> None:
    write(tmp_path, "dev.json", [published("dev-1-0-0"), published(**changes)])
    assert f"dev.json:2: {what}" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["identifier", "sentence", "label"])
def test_a_missing_field_is_named_with_its_line(tmp_path: Path, name: str) -> None:
    row = published()
    del row[name]
    write(tmp_path, "dev.json", [row])
    assert f"dev.json:1: {name} is missing" in refusal(tmp_path)


def test_doubled_identifiers_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "dev.json", [published(), published()])
    assert "dev.json:2: identifier dev-850-0-0 appears in an earlier line too" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "dev.json: contains no entry"),
        (b"\n\n", "dev.json: contains no entry"),
        (b'{"identifier": "dev', "dev.json:1: not valid JSON"),
        (b"[1]\n", "dev.json:1: expected a JSON object, found [1]"),
        (b'{"a": NaN}\n', "dev.json:1: not valid JSON"),
        (b'{"a": "\xff"}\n', "dev.json:1: not valid JSON"),
        (b"[" * 100_000, "dev.json:1: not valid JSON"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, data: bytes, what: str) -> None:
    (tmp_path / "dev.json").write_bytes(data)
    assert what in refusal(tmp_path)


def test_a_missing_file_is_refused_by_the_name_looked_for_last(tmp_path: Path) -> None:
    assert "dev.json: cannot be read (No such file or directory)" in refusal(tmp_path, "val")


@given(st.lists(st.dictionaries(st.text(), st.integers() | st.text() | st.none()), min_size=1))
def test_lines_come_back_as_they_were_written(rows: list[dict[str, Any]]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)))
        assert [row for _, row in json_lines(path)] == rows


def statement(identifier: str, label: bool | None = True) -> NlvrStatement:
    return NlvrStatement(identifier=identifier, image_ids=("a", "b"), text="", label=label)


# precision=0.6666666666666666 and consistency=0.5 by nlvr2/eval/metrics.py of lil-lab/nlvr on these.
STATEMENTS = [
    statement("dev-1-0-0", True),
    statement("dev-1-1-0", False),
    statement("dev-1-2-1", True),
    statement("dev-1-3-1", True),
    statement("dev-2-0-0", False),
    statement("dev-2-1-1", True),
]
PREDICTIONS = [True, False, True, False, False, False]


def test_accuracy_and_consistency_are_the_official_ones() -> None:
    assert nlvr2_accuracy(STATEMENTS, PREDICTIONS) == (4 / 6, 0.5)


def test_a_statement_without_a_label_is_never_right() -> None:
    assert nlvr2_accuracy([statement("test-1-0-0", None)], [False]) == (0.0, 0.0)


def test_nothing_predicted_is_no_accuracy() -> None:
    assert nlvr2_accuracy([], []) == (0.0, 0.0)


def test_the_file_of_results_has_no_header() -> None:
    assert nlvr2_results_csv(["dev-1-0-0", "dev-1-1-0"], [True, False]) == "dev-1-0-0,True\ndev-1-1-0,False\n"


def test_results_must_be_as_many_as_identifiers() -> None:
    with pytest.raises(ValueError, match="shorter"):
        nlvr2_results_csv(["a", "b"], [True])
