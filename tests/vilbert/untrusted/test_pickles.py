"""Pickles from outside: plain data comes out as it went in, and nothing runs or costs more than the file is large."""

from __future__ import annotations

import os
import pickle
import struct
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vilbert.untrusted.pickles import MAX_DEPTH, ForbiddenError, PickleError, Stub, load, load_one

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
KEYS = st.one_of(TEXT, st.binary(max_size=4), st.integers(-(2**59), 2**59), st.booleans(), st.none())
LEAVES = st.one_of(KEYS, st.integers(-(2**900), 2**900), st.floats(allow_nan=False), st.binary(max_size=300))
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(KEYS, inner, max_size=4),
        st.tuples(inner, inner),
        st.lists(inner, max_size=5).map(tuple),
        st.sets(KEYS, max_size=3),
        st.frozensets(KEYS, max_size=3),
    ),
    max_leaves=20,
)


class Named(Stub):
    """What the test lets a pickle name: bytes and sets before protocols that have them."""

    def __init__(self, name: str) -> None:
        self.name = name

    def call(self, *arguments: Any) -> Any:
        match self.name:
            case "encode":
                return arguments[0].encode(arguments[1])
            case "set":
                return set(*arguments)
            case "frozenset":
                return frozenset(*arguments)
        return b""


@given(value=VALUES, protocol=st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_plain_values_come_out_as_they_went_in(value: Any, protocol: int) -> None:
    data = pickle.dumps(value, protocol)
    found = load(data, lookup=lambda _module, name: Named(name))
    assert found == value
    assert repr(found) == repr(pickle.loads(data))


@given(value=VALUES, protocol=st.integers(0, pickle.HIGHEST_PROTOCOL), data=st.data())
def test_changed_bytes_give_a_value_or_a_pickle_error(value: Any, protocol: int, data: st.DataObject) -> None:
    content = bytearray(pickle.dumps(value, protocol))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(0, len(content))) :]
    try:
        load(bytes(content))
    except PickleError:
        return


@given(content=st.binary(max_size=60))
def test_any_bytes_give_a_value_or_a_pickle_error(content: bytes) -> None:
    try:
        load(content)
    except PickleError:
        return


def test_strings_of_python_2_are_of_the_encoding_asked_for() -> None:
    data = b"(U\x02\xc3\xa9S'\\xc3\\xa9'\nT\x02\x00\x00\x00\xc3\xa9l."
    assert load(data) == ["Ã©"] * 3
    assert load(data, encoding="utf-8") == ["é"] * 3
    assert load(data, encoding="bytes") == [b"\xc3\xa9"] * 3


def test_pickles_in_a_row_are_read_one_by_one() -> None:
    data = pickle.dumps([1], 2) + pickle.dumps({"a": 2}, 0) + b"rest"
    first, end = load_one(data, 0)
    second, end = load_one(data, end)
    assert (first, second, data[end:]) == ([1], {"a": 2}, b"rest")


def eight(number: int) -> bytes:
    return number.to_bytes(8, "little")


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x80\x02]r\xff\xff\xff\x07.", id="LONG_BINPUT"),
        pytest.param(b"]p2147483647\n.", id="PUT"),
        pytest.param(b"]p" + b"9" * 5000 + b"\n.", id="PUT of many digits"),
        pytest.param(b"\x80\x04\x95" + eight(1 << 40) + b"].", id="FRAME"),
        pytest.param(b"\x80\x04\x8e" + eight(1 << 40) + b"a.", id="BINBYTES8"),
        pytest.param(b"\x80\x04\x8d" + eight(1 << 62) + b"a.", id="BINUNICODE8"),
        pytest.param(b"\x80\x05\x96" + eight(1 << 40) + b"a.", id="BYTEARRAY8"),
        pytest.param(b"X\xff\xff\xff\xffa.", id="BINUNICODE"),
        pytest.param(b"B\xff\xff\xff\xffa.", id="BINBYTES"),
        pytest.param(b"T\xff\xff\xff\x7fa.", id="BINSTRING"),
        pytest.param(b"\x8b\xff\xff\xff\x7fa.", id="LONG4"),
        pytest.param(b"\x80\x05\x97.", id="NEXT_BUFFER"),
        pytest.param(b"I" + b"9" * 5000 + b"\n.", id="INT"),
        pytest.param(b"L" + b"9" * 5000 + b"L\n.", id="LONG"),
    ],
)
def test_a_stated_size_sets_nothing_aside(data: bytes) -> None:
    tracemalloc.start()
    try:
        load(data)
    except PickleError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 1_000_000


def laughs(levels: int) -> bytes:
    """Return lists of ten references to the list before: 10 ** levels values in a few bytes a level."""
    data = b"]\x94"
    for level in range(levels):
        data += b"](" + b"j" + struct.pack("<I", level) + (b"j" + struct.pack("<I", level)) * 9 + b"e\x94"
    return b"\x80\x04" + data + b"."


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(laughs(30), "expands its values", id="lists of the same lists"),
        pytest.param(b"\x80\x04]" + b"2\x86" * 60 + b".", "expands its values|too", id="pairs of the same pair"),
        pytest.param(b"]q\x00h\x00a.", "nested deeper than 200 levels, or in itself", id="a list in itself"),
        pytest.param(b"}q\x00U\x01ah\x00s.", "nested deeper than 200 levels, or in itself", id="a mapping in itself"),
        pytest.param(b"]" * 300 + b"a" * 299 + b".", "nested deeper", id="deep lists"),
        pytest.param(b")" + b"\x85" * 300 + b".", "nested deeper", id="deep tuples"),
        pytest.param(b"}" + b")" + b"\x85" * 100_000 + b"Ns.", "tuple as a key", id="a deep tuple as a key"),
        pytest.param(b"})" + b"2\x86" * 60 + b"Ns.", "tuple as a key", id="a tuple of repeats as a key"),
        pytest.param(b"\x8f()" + b"2\x86" * 60 + b"\x90.", "tuple as a key", id="a tuple of repeats in a set"),
        pytest.param(
            b"}\x8a\x09" + (2**64).to_bytes(9, "little") + b"Ns.",
            "that is too large",
            id="a number as a key that is too large",
        ),
        pytest.param(b"}]Ns.", "list as a key", id="a list as a key"),
        pytest.param(
            b"X" + struct.pack("<I", 1 << 20) + b"a" * (1 << 20) + b"q\x00(" + b"h\x00" * 40 + b"l.",
            "expands its strings",
            id="a long text again and again",
        ),
        pytest.param(b"V\\ud83d\n.", "damaged", id="a lone surrogate"),
        pytest.param(b"X\x03\x00\x00\x00\xed\xa0\xbd.", "damaged", id="a lone surrogate in UTF-8"),
    ],
)
def test_what_would_cost_more_than_the_file_is_large_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(PickleError, match=reason):
        load(data)


class Copies(Stub):
    """Copies what it is given, as the stubs of weights files do."""

    def __init__(self) -> None:
        self.copied = 0

    def call(self, *arguments: Any) -> Any:
        return self._copy(arguments[0])

    def set_state(self, state: Any) -> None:
        self._copy(state if isinstance(state, dict) else state[0])

    def _copy(self, value: Any) -> Any:
        self.copied += len(value)
        return type(value)(value)


LONG_LIST = b"]q\x01(" + b"N" * 50_000 + b"e"
LONG_MAPPING = b"}q\x01(" + b"".join(b"M" + struct.pack("<H", key) + b"N" for key in range(50_000)) + b"u"


@pytest.mark.parametrize("values", [LONG_LIST, LONG_MAPPING, b"\x96" + eight(50_000) + bytes(50_000) + b"q\x01"])
@pytest.mark.parametrize(
    "operations",
    [
        pytest.param(b"h\x00h\x01\x85R", id="REDUCE"),
        pytest.param(b"h\x00h\x01\x85\x81", id="NEWOBJ"),
        pytest.param(b"h\x00h\x01\x85}\x92", id="NEWOBJ_EX"),
        pytest.param(b"(h\x00h\x01o", id="OBJ"),
        pytest.param(b"(h\x01ia\nb\n", id="INST"),
        pytest.param(b"h\x00h\x01\x85b", id="BUILD with a tuple"),
    ],
)
def test_what_is_copied_again_and_again_is_no_larger_than_some_times_the_file(values: bytes, operations: bytes) -> None:
    stub = Copies()
    data = b"\x80\x05ca\nb\nq\x00" + values + operations * 5_000 + b"."
    with pytest.raises(PickleError, match="expands its values to many times the size of the file"):
        load(data, lookup=lambda _module, _name: stub)
    assert stub.copied < 50 * len(data)


def test_a_mapping_that_is_the_state_again_and_again_is_counted() -> None:
    stub = Copies()
    data = b"\x80\x05ca\nb\nq\x00" + LONG_MAPPING + b"h\x00h\x01b" * 5_000 + b"."
    with pytest.raises(PickleError, match="expands its values"):
        load(data, lookup=lambda _module, _name: stub)
    assert stub.copied < 50 * len(data)


def test_a_reference_that_is_long_again_and_again_is_counted() -> None:
    data = b"\x80\x05" + LONG_LIST + b"\x85q\x02" + b"h\x02Q" * 5_000 + b"."
    with pytest.raises(PickleError, match="expands its values"):
        load(data, persistent_load=lambda pid: len([*pid[0]]))


@pytest.mark.parametrize("index", [b"-1", b"4294967296", b"9" * 310])
def test_an_index_of_the_memo_that_no_writer_uses_is_refused(index: bytes) -> None:
    with pytest.raises(PickleError, match="uses an invalid memo index"):
        load(b"]p" + index + b"\n.")


def test_deep_lists_are_let_go_of_without_harm() -> None:
    with pytest.raises(PickleError, match="nested deeper"):
        load(b"]" * 2_000_000 + b"a" * 1_999_999 + b".")


def test_lists_nested_as_deep_as_documents_may_be_are_read() -> None:
    depth = MAX_DEPTH
    assert load(b"]" * depth + b"a" * (depth - 1) + b".") is not None


def test_a_part_in_several_places_is_read() -> None:
    shared = ["a", "b"]
    assert load(pickle.dumps({"x": shared, "y": shared, "z": [shared] * 20})) == {
        "x": shared,
        "y": shared,
        "z": [shared] * 20,
    }


def test_halves_of_a_character_from_python_2_are_put_together() -> None:
    assert load(b"V\\ud83d\\ude00\n.") == "\N{GRINNING FACE}"


class Harm:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_named_function_is_refused_and_not_called(protocol: int, tmp_path: Any) -> None:
    mark = tmp_path / "mark"
    with pytest.raises(ForbiddenError, match=r"asks for \w+\.system"):
        load(pickle.dumps([Harm(f"touch {mark}")], protocol))
    assert not mark.exists()


@pytest.mark.parametrize(
    "data",
    [
        b"(U\x01aios\nsystem\n.",
        b"(cos\nsystem\nU\x01ao.",
        b"cos\nsystem\n)\x81.",
        b"cos\nsystem\n)}\x92.",
        b"\x82\x01.",
        b"Pfile\n.",
        b"U\x04fileQ.",
    ],
)
def test_no_other_way_names_anything(data: bytes) -> None:
    with pytest.raises(PickleError):
        load(data)


@pytest.mark.parametrize("target", ["N", "]", "K\x01", "U\x01a"])
def test_only_stubs_are_called_and_have_attributes(target: str) -> None:
    with pytest.raises(PickleError, match="calls a"):
        load(target.encode() + b")R.")
    with pytest.raises(PickleError, match="attributes of"):
        load(target.encode() + b"}b.")
