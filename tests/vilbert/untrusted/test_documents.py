"""JSON and YAML from outside: the values of the standard readers, DocumentError for all that they stumble over."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from vilbert.untrusted.documents import MAX_DEPTH, DocumentError, parse_json, parse_yaml, read_json, read_yaml

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda parts: st.lists(parts, max_size=4) | st.dictionaries(st.text(), parts, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_json_is_read_as_the_standard_library_reads_it(value: Any):
    assert parse_json(json.dumps(value)) == value
    assert parse_json(b"\xef\xbb\xbf" + json.dumps(value, ensure_ascii=False).encode()) == value


@given(VALUES)
def test_yaml_is_read_as_pyyaml_reads_it(value: Any):
    text = yaml.safe_dump(value)
    assert parse_yaml(text) == yaml.safe_load(text)


@pytest.mark.parametrize("opening", ["[", '{"a":'])
@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 100_000])
@pytest.mark.parametrize("parse", [parse_json, parse_yaml])
def test_a_deep_document_is_refused(parse: Any, depth: int, opening: str):
    closing = {"[": "]", '{"a":': "}"}[opening]
    with pytest.raises(DocumentError, match="nested deeper"):
        parse(opening * depth + "1" + closing * depth)


def test_the_deepest_document_is_read():
    assert parse_json("[" * MAX_DEPTH + "]" * MAX_DEPTH)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[1,]", "NaN", "[Infinity]", '"\\ud83d"', '{"\\ud83d": 1}', "1" * 5000, "[1] [2]", '"\ud83d"'],
)
def test_what_is_no_json_is_refused(text: str):
    with pytest.raises(DocumentError):
        parse_json(text)


def test_a_caller_may_take_nan():
    (number,) = parse_json("[NaN]", allow_nan=True)
    assert number != number
    assert parse_json('{"a": -Infinity}', allow_nan=True, object_hook=lambda row: row) == {"a": float("-inf")}


def test_a_caller_may_take_lone_surrogates():
    assert parse_json('["\\ud83d", "\\ud83d\\ude00"]', allow_surrogates=True) == ["\ud83d", "😀"]
    assert parse_json('"\\ud83d\\ude00"') == "😀"


@pytest.mark.parametrize(
    "text",
    ["a: [", "!!python/object/apply:os.system [true]", "when: 2001-99-99", "? [a]\n: b", "!!int x", "a: &x [*x]",
     "a: 1\n---\nb: 2", "@", '"\\ud83d"', "\0", "? {a: b}\n: c", "!!binary x", "!!timestamp x", "<<: 3", "!!float x"],
)  # fmt: skip
def test_what_is_no_plain_yaml_is_refused(text: str):
    with pytest.raises(DocumentError):
        parse_yaml(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("a: 1" + ":1" * 500_000, "is not a text", id="base 60"),
        pytest.param("a: 1" + ":1" * 500_000 + ".5", "is not a text", id="base 60 with a fraction"),
        pytest.param("a: 0x" + "f" * 1_000, "is not a text", id="base 16"),
        pytest.param("a: !!binary " + "YWFh" * 1_000, "is not a text", id="binary"),
        pytest.param("- 1" + ":1" * 600, "is not a text", id="in a list"),
        pytest.param("".join(f"{(2**61 - 1) * key}: x\n" for key in range(1, 50)), "is a key", id="keys of one hash"),
        pytest.param("? 1:1:1:1:1:1:1:1:1:1\n: x", "is a key", id="a key of base 60"),
    ],
)
def test_long_numbers_of_yaml_are_refused_before_they_are_converted(text: str, reason: str):
    with pytest.raises(DocumentError, match=reason):
        parse_yaml(text)


def test_long_texts_of_yaml_are_read():
    texts = ["x" * 5_000, "1" * 5_000]
    assert parse_yaml(f"[{texts[0]}, '{texts[1]}']") == texts
    assert parse_yaml("999999999999999999: a") == {999_999_999_999_999_999: "a"}


def test_aliases_are_expanded_within_bounds():
    assert parse_yaml("a: &x {b: 1}\nc: *x\nd: {<<: *x, e: 2}") == {"a": {"b": 1}, "c": {"b": 1}, "d": {"b": 1, "e": 2}}
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
    )
    with pytest.raises(DocumentError, match="expands to more"):
        parse_yaml(bomb)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_value_or_refused(data: bytes):
    for parse in (parse_json, parse_yaml):
        try:
            parse(data)
        except DocumentError as error:
            str(error).encode()


def test_files_are_bounded(tmp_path: Any):
    path = tmp_path / "a.json"
    path.write_text("[1, 2, 3]")
    assert read_json(path) == read_yaml(path) == [1, 2, 3]
    for read in (read_json, read_yaml):
        with pytest.raises(DocumentError, match="larger than 4 bytes"):
            read(path, max_bytes=4)
        with pytest.raises(OSError, match="No such file"):
            read(tmp_path / "absent", max_bytes=4)


@pytest.mark.parametrize("text", ['{"a": 1, "b": 2, "a": 3}', '[{"c": {"a": 1, "\\u0061": 1}}]'])
@pytest.mark.parametrize("options", [{}, {"allow_nan": True}, {"object_hook": lambda row: row}])
def test_a_key_that_appears_twice_in_an_object_is_refused_by_name(text: str, options: dict[str, Any]):
    with pytest.raises(DocumentError, match="key 'a' appears twice"):
        parse_json(text, **options)


@pytest.mark.parametrize("text", ["x: 1\na: 1\na: 2", "x:\n  - {a: 1, a: 1}", '{"a": 1, "a": 2}', "a: 1\n'a': 2"])
def test_a_key_that_appears_twice_in_a_mapping_of_yaml_is_refused_by_name(text: str):
    with pytest.raises(DocumentError, match="key 'a' appears twice in the mapping that starts at line"):
        parse_yaml(text)


def test_keys_of_other_objects_may_be_the_same():
    assert parse_json('[{"a": {"a": 1}}, {"a": 2}]') == [{"a": {"a": 1}}, {"a": 2}]
    assert parse_yaml("a: {a: 1}\nb: {a: 2}\n1: x\n'1': y") == {"a": {"a": 1}, "b": {"a": 2}, 1: "x", "1": "y"}


def test_a_caller_may_say_what_becomes_of_an_object_with_a_repeated_key():
    found = parse_json('[{"a": 1, "a": 2}, {"b": 3}]', repeated=lambda values, key: (values, key))
    assert found == [({"a": 2}, "a"), {"b": 3}]
