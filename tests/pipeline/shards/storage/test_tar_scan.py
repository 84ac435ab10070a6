"""The fast look at a tar shard's headers finds what the careful one finds, and leaves to it whatever is odd."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vilbert.pipeline.errors import CorruptShardError
from vilbert.pipeline.shards.sample import Sample
from vilbert.pipeline.shards.storage.tar_scan import scan
from vilbert.pipeline.shards.storage.tar_store import TarWriter, read_index

MakeSample = Callable[..., Sample]


def content_of(path: Path, *samples: Sample) -> bytes:
    writer = TarWriter(path)
    for sample in samples:
        writer.add(sample)
    writer.finish()
    return path.read_bytes()


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory, make_sample: MakeSample) -> bytes:
    """A shard of three samples."""
    folder = tmp_path_factory.mktemp("scan")
    return content_of(folder / "a.tar", *(make_sample(key, boxes=n) for key, n in (("a", 3), ("b_2", 0), ("c", 5))))


@pytest.mark.parametrize("attributes", [False, True])
@pytest.mark.parametrize("boxes", [[], [3], [0, 7, 36, 2]])
def test_it_finds_what_the_careful_reader_finds(
    tmp_path: Path, make_sample: MakeSample, attributes: bool, boxes: list[int]
) -> None:
    samples = [make_sample(f"k{at}", boxes=n, attributes=attributes, captions=["é"]) for at, n in enumerate(boxes)]
    content = content_of(tmp_path / "a.tar", *samples)
    found, careful = scan(content), read_index(content, tmp_path / "a.tar")
    assert found is not None
    assert found.keys == tuple(careful)
    for at, members in enumerate(careful.values()):
        assert found.names == tuple(member.name for member in members)
        assert found.starts[at].tolist() == [member.start for member in members]
        assert found.sizes[at].tolist() == [member.size for member in members]


def agrees_with_the_careful_reader(changed: bytes) -> bool:
    """Say whether both refuse or both accept it."""
    try:
        read_index(changed, Path("a.tar"))
    except CorruptShardError:
        return scan(changed) is None
    return scan(changed) is not None


def test_every_flipped_bit_outside_of_contents_is_left_to_the_careful_reader(content: bytes) -> None:
    found = scan(content)
    assert found is not None
    inside = [
        range(start, start + size)
        for start, size in zip(found.starts.ravel().tolist(), found.sizes.ravel().tolist(), strict=True)
    ]
    contents = {at for places in inside for at in places}
    for position in range(0, len(content), 3):
        changed = bytearray(content)
        changed[position] ^= 1 << (position % 8)
        assert (scan(bytes(changed)) is not None) == (position in contents)


@given(st.data())
def test_cut_doubled_and_moved_blocks_are_left_to_the_careful_reader(content: bytes, data: st.DataObject) -> None:
    blocks = [content[at : at + 512] for at in range(0, len(content), 512)]
    start = data.draw(st.integers(0, len(blocks)))
    stop = data.draw(st.integers(start, len(blocks)))
    at = data.draw(st.integers(0, len(blocks)))
    moved = blocks[:start] + blocks[stop:]
    for changed in (
        moved,
        blocks[:at] + blocks[start:stop] + blocks[at:],
        moved[:at] + blocks[start:stop] + moved[at:],
    ):
        joined = b"".join(changed)
        padded = joined + bytes(-len(joined) % 10240)
        assert agrees_with_the_careful_reader(joined)
        assert agrees_with_the_careful_reader(padded)
