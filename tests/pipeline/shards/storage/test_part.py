"""Reading part of a sample gives what reading all of it gives, in either storage, and tells the same damage."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vilbert.pipeline.errors import CorruptShardError
from vilbert.pipeline.shards.sample import FIELDS, Sample
from vilbert.pipeline.shards.storage.part import build_part, parse_metadata
from vilbert.pipeline.shards.storage.store import create_shard, open_shard

MakeSample = Callable[..., Sample]
METADATA: dict[str, Any] = {"image_id": "k", "width": 4, "height": 3, "num_boxes": 2}
PATH = Path("000000.tar")


def arrays(**changes: Any) -> dict[str, Any]:
    shapes: dict[str, tuple[int, ...]] = {
        "boxes": (2, 4),
        "features": (2, 8),
        "class_ids": (2, 3),
        "class_probs": (2, 3),
    }
    return {name: np.zeros(shape, FIELDS[name].dtypes[0]) for name, shape in shapes.items()} | changes


@pytest.mark.parametrize("storage", ["tar", "lmdb"])
def test_a_part_is_part_of_the_whole(tmp_path: Path, make_sample: MakeSample, storage: Any) -> None:
    path = tmp_path / f"000000.{storage}"
    writer = create_shard(path, storage)
    for at in range(3):
        writer.add(make_sample(f"k{at}", boxes=at, seed=at, attributes=True, captions=["é"], split="train"))
    writer.finish()
    with open_shard(path) as reader:
        for at in (0, 1, 2, -1):
            whole = reader[at]
            region = whole.regions
            counts = {"width": region.width, "height": region.height, "num_boxes": len(region)}
            for fields in (tuple(region.arrays()), ("class_ids", "features"), ()):
                part = reader.read(at, fields)
                assert part.metadata == reader.metadata(at) == whole.meta | counts
                assert tuple(part.arrays) == fields
                for name in fields:
                    expected = region.arrays()[name]
                    assert part.arrays[name].dtype == expected.dtype
                    assert np.array_equal(part.arrays[name], expected)
                    assert not part.arrays[name].flags.writeable
        with pytest.raises(IndexError):
            reader.read(3, ())
        with pytest.raises(IndexError):
            reader.metadata(3)


@pytest.mark.parametrize("storage", ["tar", "lmdb"])
def test_an_array_that_is_not_there_is_told(tmp_path: Path, make_sample: MakeSample, storage: Any) -> None:
    path = tmp_path / f"000000.{storage}"
    writer = create_shard(path, storage)
    writer.add(make_sample("k"))
    writer.finish()
    with open_shard(path) as reader, pytest.raises(CorruptShardError, match=r"key 'k': has no array attribute_ids"):
        reader.read(0, ("boxes", "attribute_ids"))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"features": np.zeros((2, 8), np.uint16)}, "features is uint16"),
        ({"features": np.zeros((3, 8), np.float16)}, "features is float16"),
        ({"features": np.zeros(2, np.float16)}, "features is float16"),
        ({"boxes": np.zeros((2, 5), np.float32)}, "boxes is float32"),
        ({"class_probs": np.zeros((2, 4), np.float16)}, "class_probs is float16"),
    ],
)
def test_arrays_that_do_not_go_together_are_damage(changes: dict[str, Any], named: str) -> None:
    assert set(build_part("k", arrays(), json.dumps(METADATA).encode(), path=PATH).arrays) == set(arrays())
    with pytest.raises(CorruptShardError, match=f"key 'k': {named}.* of 2 boxes"):
        build_part("k", arrays(**changes), json.dumps(METADATA).encode(), path=PATH)


@pytest.mark.parametrize(
    "metadata",
    [
        b"{",
        b"[]",
        b"\xff",
        *(json.dumps(METADATA | change).encode() for change in ({"image_id": 3}, {"num_boxes": -1})),
    ],
)
def test_metadata_that_lacks_what_is_always_there_is_damage(metadata: bytes) -> None:
    with pytest.raises(CorruptShardError, match=r"000000\.tar, key 'k': its metadata"):
        parse_metadata("k", metadata, path=PATH)
