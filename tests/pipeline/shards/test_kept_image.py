"""The image's own bytes in a sample: stored and read back in both storages, and held against the metadata."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save

from vilbert.pipeline.errors import CorruptShardError, ShardError
from vilbert.pipeline.shards.dataset import fingerprint_digest, read_dataset, write_dataset
from vilbert.pipeline.shards.sample import Sample, decode_members, encode_members
from vilbert.pipeline.shards.storage.store import open_shard
from vilbert.pipeline.shards.storage.tar_scan import scan
from vilbert.pipeline.shards.storage.tar_store import read_index
from vilbert.pipeline.shards.storage.tensors import decode_part, decode_tensors, encode_tensors
from vilbert.pipeline.shards.storage.writer import ShardWriter

MakeSample = Callable[..., Sample]
HERE = Path("000000.tar")


@given(image=st.binary(max_size=300), attributes=st.booleans())
def test_the_bytes_come_back_and_change_nothing_else(make_sample: MakeSample, image: bytes, attributes: bool) -> None:
    plain = make_sample("a1", attributes=attributes)
    sample = replace(plain, image=image)
    members = encode_members(sample)
    assert [member for member in members if member[0] != "jpg"] == encode_members(plain)
    assert [name for name, _ in members][-2:] == ["jpg", "json"]
    assert decode_members(sample.key, [(name, memoryview(data)) for name, data in members], path=HERE).image == image
    value = encode_tensors(sample)
    assert decode_tensors(sample.key, value, path=HERE).image == image
    assert load(value)["image"].tobytes() == image
    part, without = (
        decode_part(sample.key, memoryview(of), ("boxes",), path=HERE) for of in (value, encode_tensors(plain))
    )
    assert part.metadata == without.metadata
    assert np.array_equal(part.arrays["boxes"], without.arrays["boxes"])


def test_an_image_of_another_type_is_refused(make_sample: MakeSample) -> None:
    sample = replace(make_sample("a1"), image=b"1234")
    value = encode_tensors(sample)
    header = value[8 : 8 + int.from_bytes(value[:8], "little")]
    changed = value.replace(b'"dtype":"U8","shape":[4]', b'"dtype":"U16","shape":[2]')
    assert header != changed[8 : 8 + len(header)]
    length = int.from_bytes(value[:8], "little") + len(changed) - len(value)
    with pytest.raises(CorruptShardError, match="image is uint16"):
        decode_tensors(sample.key, length.to_bytes(8, "little") + changed[8:], path=HERE)


def test_tar_shards_with_images_are_opened_the_fast_way(make_sample: MakeSample, tmp_path: Path) -> None:
    with ShardWriter(tmp_path, shard=0, format="tar") as writer:
        for number in range(3):
            writer.add(replace(make_sample(f"a{number}"), image=bytes([number]) * (100 + 700 * number)))
        writer.commit(rows=(0, 3), failures=[], fingerprint="0" * 64)
    data = (tmp_path / "shards/000000.tar").read_bytes()
    found = scan(data)
    assert found is not None
    index = read_index(data, HERE)
    assert found.keys == tuple(index)
    assert found.starts.tolist() == [[member.start for member in members] for members in index.values()]


@pytest.mark.parametrize("storage", ["tar", "lmdb"])
@pytest.mark.parametrize("images", [(b"1", None), (None, b"2")])
def test_a_shard_keeps_all_images_or_none(
    make_sample: MakeSample, tmp_path: Path, storage: Any, images: tuple[bytes | None, bytes | None]
) -> None:
    with ShardWriter(tmp_path, shard=0, format=storage) as writer:
        writer.add(replace(make_sample("a1"), image=images[0]))
        with pytest.raises(ShardError, match="image"):
            writer.add(replace(make_sample("a2"), image=images[1]))


def with_image(row: int, sample: Sample) -> Sample:
    return replace(sample, image=Path(sample.meta["uri"]).read_bytes())


def declare(directory: Path) -> None:
    """Let dataset.json say that images are kept, and the records with it."""
    info = read_dataset(directory)
    fields = {**info.fingerprint_fields, "keep_images": True}
    write_dataset(directory, replace(info, fingerprint_fields=fields, fingerprint=fingerprint_digest(fields)))


@pytest.mark.parametrize("storage", ["tar", "lmdb"])
def test_verify_takes_kept_images(make_dataset: Callable[..., Any], storage: str) -> None:
    dataset = make_dataset(storage=storage, change=with_image)
    declare(dataset.directory)
    assert "image" not in dataset.codes(deep=True)
    with open_shard(dataset.data_file(0)) as shard:
        for sample in shard:
            assert sample.image is not None
            assert hashlib.sha256(sample.image).hexdigest() == sample.meta["sha256"]


def test_verify_names_an_image_that_is_not_the_samples(make_dataset: Callable[..., Any]) -> None:
    dataset = make_dataset(
        change=lambda row, sample: with_image(row, sample) if row != 4 else replace(sample, image=b"another")
    )
    declare(dataset.directory)
    (finding,) = [finding for finding in dataset.findings(deep=True) if finding.code == "image"]
    assert "another sha256" in finding.what


def test_verify_names_images_that_nobody_declared(make_dataset: Callable[..., Any]) -> None:
    assert make_dataset(change=with_image).codes(deep=True) == {"image"}


def test_verify_names_images_that_are_missing(make_dataset: Callable[..., Any]) -> None:
    dataset = make_dataset()
    declare(dataset.directory)
    assert "image" in dataset.codes(deep=True)


def test_the_image_is_not_one_of_the_fields(make_sample: MakeSample) -> None:
    """A reader that asks for fields by name cannot get the image, nor one that stands for another array."""
    value = save({"image": np.zeros(3, np.uint8)}, metadata={"json": "{}"})
    with pytest.raises(CorruptShardError, match="has arrays"):
        decode_tensors("key", value, path=HERE)
