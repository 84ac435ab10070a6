"""A sample becomes members or one value and comes back the same, and nothing else comes back as a sample."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from vilbert.extractors.regions import Regions
from vilbert.pipeline.errors import CorruptShardError, ShardError
from vilbert.pipeline.shards.sample import (
    FIELDS,
    SCALES,
    Sample,
    decode_members,
    describe_fields,
    encode_members,
    member_names,
)
from vilbert.pipeline.shards.storage.npy import decode_npy, encode_npy
from vilbert.pipeline.shards.storage.tensors import decode_tensors, encode_tensors

SHARD = Path("shards/000003.tar")
MakeSample = Callable[..., Sample]
AssertSame = Callable[[Sample, Sample], None]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=3),
    max_leaves=6,
)


def views(members: list[tuple[str, bytes]]) -> list[tuple[str, memoryview]]:
    return [(name, memoryview(content)) for name, content in members]


@given(
    boxes=st.integers(0, 5),
    feature_dim=st.integers(1, 9),
    top_classes=st.integers(1, 4),
    attributes=st.booleans(),
    seed=st.integers(0, 99),
    captions=json_values,
)
def test_members_and_tensors_bring_back_every_bit(
    make_sample: MakeSample, assert_same: AssertSame, captions: object, **shape: int
) -> None:
    sample = make_sample("key", captions=captions, **shape)
    assert_same(decode_members("key", views(encode_members(sample)), path=SHARD), sample)
    assert_same(decode_tensors("key", encode_tensors(sample), path=SHARD), sample)


def test_infinities_and_nan_keep_their_bits(make_sample: MakeSample, assert_same: AssertSame) -> None:
    sample = make_sample()
    sample.regions.features.view(np.uint16)[0, :4] = [0x7C00, 0xFC00, 0x7E01, 0x8000]  # inf, -inf, a NaN, -0
    assert_same(decode_members("k", views(encode_members(sample)), path=SHARD), sample)
    assert_same(decode_tensors("k", encode_tensors(sample), path=SHARD), sample)


def test_npy_is_what_numpy_reads_and_writes() -> None:
    for array in (np.arange(6, dtype=np.float16).reshape(2, 3), np.zeros(0, np.uint16), np.float32([[1.5]])):
        encoded = encode_npy(array)
        buffer = io.BytesIO()
        np.save(buffer, array)
        assert encoded == buffer.getvalue()
        assert np.array_equal(np.load(io.BytesIO(encoded), allow_pickle=False), array)


@pytest.mark.parametrize("array", [np.array([{}]), np.zeros(2), np.zeros((1, 1, 1), np.float32), np.float32(1)])
def test_npy_of_other_kinds_is_refused(array: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    with pytest.raises(ValueError, match="npy header"):
        decode_npy(buffer.getvalue())


def test_npy_that_claims_terabytes_is_refused_before_anything_is_allocated() -> None:
    encoded = encode_npy(np.zeros((2, 2), np.float32))
    claim = encoded.replace(b"(2, 2), }            ", b"(999999999999, 2), } ")
    assert len(claim) == len(encoded)
    with pytest.raises(ValueError, match=r"holds 16 bytes of data.* needs 7999999999992"):
        decode_npy(claim)
    with pytest.raises(ValueError, match="header of 65545 bytes"):
        decode_npy(encoded[:8] + b"\xff\xff" + encoded[10:])


def test_every_changed_or_missing_npy_header_byte_is_noticed_or_harmless() -> None:
    array = np.arange(4, dtype=np.float16).reshape(2, 2)
    encoded = encode_npy(array)
    for position in range(128):
        for flip in (0x01, 0x20, 0x80):
            changed = bytearray(encoded)
            changed[position] ^= flip
            with pytest.raises(ValueError, match=r"npy|header"):
                decode_npy(bytes(changed))
    for length in range(len(encoded)):
        with pytest.raises(ValueError, match=r"npy|bytes"):
            decode_npy(encoded[:length])


def test_arrays_read_are_views_that_cannot_be_written(make_sample: MakeSample) -> None:
    members = views(encode_members(make_sample()))
    features = decode_members("k", members, path=SHARD).regions.features
    assert not features.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        features[0] = 0
    with pytest.raises(ValueError, match=r"writeable|WRITEABLE"):
        features.flags.writeable = True


def test_tensors_are_what_the_safetensors_library_reads(make_sample: MakeSample) -> None:
    sample = make_sample(attributes=True)
    loaded = safetensors.numpy.load(encode_tensors(sample))
    assert {name: array.tobytes() for name, array in loaded.items()} == {
        name: array.tobytes() for name, array in sample.regions.arrays().items()
    }


def test_every_changed_or_missing_byte_of_a_tensor_header_is_noticed(make_sample: MakeSample) -> None:
    value = encode_tensors(make_sample())
    header = 8 + int.from_bytes(value[:8], "little")
    text_start = value.index(b'"json":"') + len(b'"json":"')
    text = range(text_start, value.index(b'"}', text_start))  # our own JSON, in which a letter may become another
    for position in sorted(set(range(header)) - set(text)):
        for flip in (0x01, 0x04, 0x80):
            changed = bytearray(value)
            changed[position] ^= flip
            with pytest.raises(CorruptShardError, match="key 'k'"):
                decode_tensors("k", bytes(changed), path=SHARD)
    for length in range(len(value)):
        with pytest.raises(CorruptShardError):
            decode_tensors("k", value[:length], path=SHARD)
    with pytest.raises(CorruptShardError, match="do not belong to an array"):
        decode_tensors("k", value + b"\0", path=SHARD)


def _replace(members: list[tuple[str, bytes]], name: str, content: bytes) -> list[tuple[str, bytes]]:
    return [(known, content if known == name else old) for known, old in members]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("json", b"{", "do not match"),
        ("json", b"[]", "not an object"),
        ("json", b"\xff", "do not match"),
        ("json", b"[" * 100_000, "nested deeper than 200"),
        ("json", b'{"image_id":"k","width":640,"height":480,"num_boxes":4}', "has num_boxes 4 for 3 regions"),
        ("json", b'{"image_id":"k","width":640.0,"height":480,"num_boxes":3}', "width is 640.0"),
        ("json", b'{"image_id":"k","width":true,"height":480,"num_boxes":3}', "width is True"),
        ("json", b'{"image_id":"k","width":NaN,"height":480,"num_boxes":3}', "NaN is not JSON"),
        ("json", b'{"width":640,"height":480,"num_boxes":3}', "image_id"),
        ("boxes.npy", encode_npy(np.zeros((3, 4), np.float16)), "boxes is float16"),
        ("boxes.npy", encode_npy(np.zeros((3, 5), np.float32)), "boxes is float32"),
        ("boxes.npy", encode_npy(np.zeros((2, 4), np.float32)), "expected"),
        ("features.npy", encode_npy(np.zeros(3, np.float16)), r"expected float16\[N, D\]"),
        ("object_ids.npy", b"", "not a version 1.0 .npy"),
    ],
)
def test_a_member_of_another_kind_is_named(make_sample: MakeSample, name: str, content: bytes, message: str) -> None:
    members = _replace(encode_members(make_sample()), name, content)
    with pytest.raises(CorruptShardError, match=message) as caught:
        decode_members("k", views(members), path=SHARD)
    assert "shards/000003.tar" in str(caught.value)
    assert "'k'" in str(caught.value)
    assert "vilbert extract" in str(caught.value)


def test_members_missing_twice_or_strange_are_named(make_sample: MakeSample) -> None:
    members = encode_members(make_sample())
    for wrong in (members[1:], members[:-1], [*members, ("txt", b"")], members[::-1], [*members[:6], members[5]]):
        with pytest.raises(CorruptShardError, match="has members"):
            decode_members("k", views(wrong), path=SHARD)


def test_metadata_is_canonical(make_sample: MakeSample) -> None:
    sample = make_sample("k", split="train", captions=["naïve 猫"])
    (_, *_, (name, document)) = encode_members(sample)
    assert name == "json"
    expected = '{"captions":["naïve 猫"],"height":480,"image_id":"k","num_boxes":3,"split":"train","width":640}'
    assert document == expected.encode()


@pytest.mark.parametrize(
    ("key", "meta", "message"),
    [
        ("a.b", {"image_id": "a.b"}, "create keys with sample_key"),
        ("a", {}, "image_id"),
        ("a", {"image_id": 3}, "expected a string"),
        ("a", {"image_id": "a", "width": 3}, "width"),
    ],
)
def test_a_sample_that_cannot_be_stored_is_refused(
    make_sample: MakeSample, key: str, meta: dict[str, object], message: str
) -> None:
    with pytest.raises(ShardError, match=message):
        Sample(key=key, regions=make_sample().regions, meta=meta)


@pytest.mark.parametrize("value", [float("nan"), "\ud800", object(), {1, 2}])
def test_meta_that_json_has_no_word_for_is_refused(make_sample: MakeSample, value: object) -> None:
    with pytest.raises(ShardError, match="cannot be written as JSON"):
        encode_members(make_sample(odd=value))


def test_fields_are_those_of_regions_in_their_order(make_sample: MakeSample) -> None:
    for attributes in (False, True):
        arrays = make_sample(attributes=attributes).regions.arrays()
        described = describe_fields(feature_dim=8, top_classes=2, attributes=attributes)
        assert list(described) == list(arrays)
        assert [f"{name}.npy" for name in arrays] == list(member_names(described))[:-1]
        for name, array in arrays.items():
            assert described[name]["dtype"] == str(array.dtype)
            assert [3 if side == "N" else side for side in described[name]["shape"]] == list(array.shape)
    assert set(FIELDS) - {SCALES} < set(Regions.__dataclass_fields__)
    json.dumps(described)
