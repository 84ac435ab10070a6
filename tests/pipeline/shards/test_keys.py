"""Keys survive the tools that take names apart, and different ids keep different keys."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from webdataset.tariterators import base_plus_ext

from vilbert.pipeline.shards.keys import MAX_KEY_LENGTH, is_key, sample_key
from vilbert.pipeline.shards.sample import MEMBER_LAYOUTS
from vilbert.pipeline.shards.storage.lmdb_store import META_KEY


@given(st.text())
def test_any_id_gets_a_key_that_webdataset_splits_where_we_do(image_id: str) -> None:
    key = sample_key(image_id)
    assert is_key(key)
    assert base_plus_ext(f"{key}.features.npy") == (key, "features.npy")
    assert not re.match(r"__[^/]*__($|/)", key)  # what webdataset skips as metadata


@given(st.text(max_size=6), st.text(max_size=6))
def test_different_ids_get_different_keys(left: str, right: str) -> None:
    assert (sample_key(left) == sample_key(right)) == (left == right)


@pytest.mark.parametrize("image_id", ["000000391895", "COCO_val2014_000000000042", "a", "_x", "9-b_C", "x" * 72])
def test_an_id_that_is_a_key_stays_as_it_is(image_id: str) -> None:
    assert sample_key(image_id) == image_id


@pytest.mark.parametrize(
    "image_id", ["", "a.b", "a/b", "-a", "__a__", "__a", "a\n", "é", "x" * 73, "a b", "..", META_KEY]
)
def test_an_id_that_is_no_key_gets_one_with_a_digest(image_id: str) -> None:
    assert not is_key(image_id)
    assert re.fullmatch(r"[A-Za-z0-9].*-[0-9a-f]{16}", sample_key(image_id))


def test_the_key_of_a_given_id_never_changes() -> None:
    assert sample_key("val/dog.v2.png") == "val_dog_v2_png-7aa9e4d946b9128f"
    assert sample_key("日本") == "x-44da6bbcf285cdb3"


def test_the_longest_key_leaves_room_for_every_member_name() -> None:
    assert all(MAX_KEY_LENGTH + 1 + len(name) <= 100 for name in MEMBER_LAYOUTS[-1])
    assert len(sample_key("y." * 200)) == MAX_KEY_LENGTH
