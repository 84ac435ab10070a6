"""The fast path for plain pickles: the same values as the machine's, none of what the machine exists to refuse."""

from __future__ import annotations

import pickle
import re
import struct
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vilbert.untrusted.pickles import PickleError, load, load_one
from vilbert.untrusted.plain_pickles import NotPlainError, load_plain

TEXT = st.text(st.characters(max_codepoint=126), max_size=8)
LEAVES = st.one_of(TEXT, st.integers(-(2**55), 2**55), st.floats(allow_nan=False), st.booleans(), st.none())
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXT, inner, max_size=4)),
    max_leaves=20,
)


def annotations(count: int) -> list[dict[str, Any]]:
    """Return entries as REFER's files have them."""
    tokens = ["the", "man", "on", "the", "left"]
    sentence = {"tokens": tokens, "raw": "the man on the left", "sent": "the man on the left"}
    return [
        {"ref_id": i, "image_id": 10**5 + i, "file_name": f"COCO_train2014_{i:012}_{i}.jpg", "split": "train",
         "sent_ids": [2 * i], "sentences": [{**sentence, "sent_id": 2 * i, "tokens": [*tokens]}]}
        for i in range(count)
    ]  # fmt: skip


def of_python_2(data: bytes) -> bytes:
    """Return a pickle of protocol 0 with strings in place of Unicode."""
    return re.sub(rb"V([^\n\\']*)\n", rb"S'\1'\n", data)


@pytest.mark.parametrize("protocol", [0, 1, 2])
def test_annotation_files_take_the_fast_way(protocol: int) -> None:
    entries = annotations(2_000)
    data = pickle.dumps(entries, protocol)
    assert load_plain(data, "latin1") == entries
    assert load_plain(of_python_2(data) if protocol == 0 else data, "latin1") == entries
    assert load(data) == load_one(data, 0)[0] == entries


@given(value=VALUES, protocol=st.integers(0, 2), data=st.data())
def test_what_it_takes_is_what_the_machine_makes(value: Any, protocol: int, data: st.DataObject) -> None:
    content = bytearray(pickle.dumps(value, protocol))
    if data.draw(st.booleans()):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = load_plain(bytes(content), "latin1")
    except NotPlainError:
        return
    try:
        other, _ = load_one(bytes(content), 0)
    except PickleError as error:
        refused = str(error)
    else:
        assert repr(found) == repr(other)
        return
    # Cycles and repeats are found afterwards; an item of a list can be set.
    assert re.search("nested deeper|repeats|sets items of a list", refused), refused


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"cos\nsystem\n.", id="GLOBAL"),
        pytest.param(b"(U\x01aios\nsystem\n.", id="INST"),
        pytest.param(b"(S'a'\nos\nsystem\no.", id="OBJ"),
        pytest.param(b"U\x02osU\x06system\x93.", id="STACK_GLOBAL"),
        pytest.param(b"])R.", id="REDUCE"),
        pytest.param(b"]}b.", id="BUILD"),
        pytest.param(b"\x82\x01.", id="EXT1"),
        pytest.param(b"U\x04fileQ.", id="BINPERSID"),
        pytest.param(b"Pfile\n.", id="PERSID"),
        pytest.param(b"]2\x86.", id="TUPLE2"),
        pytest.param(b"(]t.", id="TUPLE"),
        pytest.param(b"]p99999\n.", id="an index beyond the file"),
        pytest.param(b"]r\xff\xff\xff\x07.", id="a binary index beyond the file"),
        pytest.param(b"]p-1\n.", id="a negative index"),
        pytest.param(b"I" + b"9" * 19 + b"\n.", id="a large integer"),
        pytest.param(b"I010\n.", id="an octal integer"),
        pytest.param(b"L" + b"9" * 5000 + b"L\n.", id="a long integer"),
        pytest.param(b"\x8a\x09" + (2**64).to_bytes(9, "little") + b".", id="LONG1"),
        pytest.param(b"X\xff\xff\xff\xffa.", id="a text beyond the file"),
        pytest.param(b"X\x03\x00\x00\x00\xed\xa0\xbd.", id="a lone surrogate in UTF-8"),
        pytest.param(b"V\\ud83d\n.", id="a lone surrogate"),
        pytest.param(b"].rest", id="bytes behind the end"),
        pytest.param(b"]", id="no end"),
        pytest.param(b"h\x00.", id="an empty memo"),
        pytest.param(b"}]Ns.", id="a list as a key"),
        pytest.param(b"S'\\x'\n.", id="a damaged escape"),
    ],
)
def test_all_else_is_left_to_the_machine(data: bytes) -> None:
    with pytest.raises(NotPlainError):
        load_plain(data, "latin1")


@pytest.mark.parametrize("size", [1 << 10, 1 << 17, pytest.param(1 << 21, marks=pytest.mark.slow)])
@pytest.mark.parametrize("binary", [True, False])
def test_the_largest_index_that_is_taken_sets_aside_memory_in_proportion_to_the_file(size: int, binary: bool) -> None:
    filler = b"]" + b"Na" * (size // 2)
    taken = 0
    for power in range(31, 0, -1):
        put = b"r" + struct.pack("<I", 1 << power) if binary else b"p%d\n" % (1 << power)
        data = filler + put + b"."
        tracemalloc.start()
        try:
            load_plain(data, "latin1")
            taken += 1
        except NotPlainError:
            pass
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < 16 * len(data) + 2_500_000, (power, peak)
    assert taken


def test_short_texts_repeated_through_the_memo_are_counted() -> None:
    data = b"]U\xff" + b"a" * 255 + b"q\x00a(" + b"h\x00" * 200_000 + b"e."
    with pytest.raises(PickleError, match="expands its values"):
        load(data)


def test_many_operations_are_matched_in_little_memory() -> None:
    data = b"](" + b"K\x01" * 500_000 + b"e."
    tracemalloc.start()
    try:
        assert len(load_plain(data, "latin1")) == 500_000
        assert tracemalloc.get_traced_memory()[1] < 16 * len(data)
    finally:
        tracemalloc.stop()
