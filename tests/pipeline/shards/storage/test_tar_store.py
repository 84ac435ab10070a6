"""Tar shards: plain for everyone else's readers, strict in ours."""

from __future__ import annotations

import gc
import hashlib
import io
import json
import pickle
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st

from vilbert.pipeline.errors import CorruptShardError, ShardError
from vilbert.pipeline.shards.sample import Sample, encode_members
from vilbert.pipeline.shards.storage.store import open_shard
from vilbert.pipeline.shards.storage.tar_store import TarReader, TarWriter, read_index
from vilbert.pipeline.shards.storage.ustar import RECORD, ustar_header

MakeSample = Callable[..., Sample]
AssertSame = Callable[[Sample, Sample], None]


def write(path: Path, samples: Iterable[Sample]) -> Path:
    writer = TarWriter(path)
    for sample in samples:
        writer.add(sample)
    size, digest = writer.finish()
    content = path.read_bytes()
    assert (size, digest) == (len(content), hashlib.sha256(content).hexdigest())
    return path


def archive(path: Path, members: Iterable[tuple[tarfile.TarInfo | str, bytes]], **options: object) -> Path:
    """Write a tar of our making, closed as our writer closes it, from names or whole headers."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=options.pop("format", tarfile.USTAR_FORMAT)) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name) if isinstance(name, str) else name
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    path.write_bytes(buffer.getvalue())
    return path


def members_of(*samples: Sample) -> list[tuple[str, bytes]]:
    return [(f"{sample.key}.{name}", content) for sample in samples for name, content in encode_members(sample)]


@given(st.from_regex(r"[a-z0-9_]{1,72}\.[a-z_.]{1,20}", fullmatch=True), st.integers(0, 8**11 - 1))
def test_headers_are_those_of_tarfile(name: str, size: int) -> None:
    info = tarfile.TarInfo(name)
    info.size = size
    assert ustar_header(name, size) == info.tobuf(tarfile.USTAR_FORMAT)


@pytest.mark.parametrize(("name", "size"), [("x" * 101, 1), ("x", 8**11)])
def test_what_ustar_cannot_say_is_refused(name: str, size: int) -> None:
    with pytest.raises(ValueError, match="USTAR cannot store"):
        ustar_header(name, size)


def test_the_whole_file_is_that_of_tarfile(tmp_path: Path, make_sample: MakeSample) -> None:
    samples = [make_sample(f"k{number}", boxes=number, seed=number) for number in range(5)]
    ours = write(tmp_path / "ours.tar", samples)
    assert ours.read_bytes() == archive(tmp_path / "theirs.tar", members_of(*samples)).read_bytes()


@given(st.lists(st.integers(0, 40), max_size=6), st.booleans())
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    make_sample: MakeSample,
    assert_same: AssertSame,
    boxes: list[int],
    attributes: bool,
) -> None:
    samples = [make_sample(f"k{at}", boxes=n, attributes=attributes, seed=at) for at, n in enumerate(boxes)]
    path = write(tmp_path_factory.mktemp("tar") / "000000.tar", samples)
    with open_shard(path) as reader:
        assert len(reader) == len(samples)
        assert reader.keys() == tuple(sample.key for sample in samples)
        for at, sample in enumerate(reader):
            assert_same(sample, samples[at])
            assert_same(reader[at - len(samples)], samples[at])
        with pytest.raises(IndexError):
            reader[len(samples)]


def test_webdataset_reads_it(tmp_path: Path, make_sample: MakeSample) -> None:
    samples = [make_sample(f"k{number}", seed=number, captions=["ä"]) for number in range(3)]
    path = write(tmp_path / "000000.tar", samples)
    read = list(webdataset.WebDataset(str(path), shardshuffle=False).decode())
    assert [item["__key__"] for item in read] == [sample.key for sample in samples]
    for item, sample in zip(read, samples, strict=True):
        for name, array in sample.regions.arrays().items():
            assert item[f"{name}.npy"].dtype == array.dtype
            assert np.array_equal(item[f"{name}.npy"], array)
        assert item["json"] == sample.meta | {"width": 640, "height": 480, "num_boxes": 3}


def test_plain_tarfile_and_numpy_read_it(tmp_path: Path, make_sample: MakeSample) -> None:
    sample = make_sample("k")
    with tarfile.open(write(tmp_path / "000000.tar", [sample])) as tar:
        assert [(i.mode, i.mtime, i.uid, i.gid, i.uname, i.gname, i.pax_headers) for i in tar] == [
            (0o644, 0, 0, 0, "", "", {})
        ] * 7
        features = np.load(io.BytesIO(tar.extractfile("k.features.npy").read()), allow_pickle=False)
        assert np.array_equal(features, sample.regions.features)
        assert json.load(tar.extractfile("k.json"))["num_boxes"] == 3


def test_arrays_are_aligned_views_of_the_file_that_outlive_the_reader(tmp_path: Path, make_sample: MakeSample) -> None:
    sample = make_sample(boxes=36, feature_dim=64)
    with open_shard(write(tmp_path / "000000.tar", [sample])) as reader:
        features = reader[0].regions.features
    gc.collect()
    assert not features.flags.owndata
    assert features.ctypes.data % 64 == 0
    assert np.array_equal(features, sample.regions.features)
    with pytest.raises(ShardError, match="reader is closed"):
        reader[0]
    reader.close()


def test_a_reader_can_be_sent_to_another_process(
    tmp_path: Path, make_sample: MakeSample, assert_same: AssertSame
) -> None:
    sample = make_sample()
    with open_shard(write(tmp_path / "000000.tar", [sample])) as reader, pickle.loads(pickle.dumps(reader)) as copy:
        assert_same(copy[0], sample)


def test_every_flipped_header_bit_is_noticed(tmp_path: Path, make_sample: MakeSample) -> None:
    path = write(tmp_path / "000000.tar", [make_sample("a"), make_sample("b")])
    content = path.read_bytes()
    with tarfile.open(path) as tar:
        headers = [member.offset for member in tar]
    for position in (header + at for header in headers for at in range(512)):
        changed = bytearray(content)
        changed[position] ^= 1 << (position % 8)
        with pytest.raises(CorruptShardError, match="byte "):
            read_index(changed, path)


def test_every_flipped_byte_outside_of_contents_is_noticed(tmp_path: Path, make_sample: MakeSample) -> None:
    path = write(tmp_path / "000000.tar", [make_sample("a")])
    content = path.read_bytes()
    inside: set[int] = set()
    with tarfile.open(path) as tar:
        for member in tar:
            inside.update(range(member.offset_data, member.offset_data + member.size))
    for position in set(range(len(content))) - inside:
        changed = bytearray(content)
        changed[position] ^= 0xFF
        with pytest.raises(CorruptShardError, match=r"000000\.tar, byte \d+.*vilbert extract"):
            read_index(changed, path)


def test_every_cut_is_noticed(tmp_path: Path, make_sample: MakeSample) -> None:
    path = write(tmp_path / "000000.tar", [make_sample("a"), make_sample("b")])
    content = path.read_bytes()
    cut = tmp_path / "cut.tar"
    for length in (*range(0, len(content), 97), *range(0, len(content), 512), len(content) - 1):
        cut.write_bytes(content[:length])
        with pytest.raises(CorruptShardError):
            open_shard(cut)
    for tail in (b"\0", bytes(RECORD), content):
        cut.write_bytes(content + tail)
        with pytest.raises(CorruptShardError, match="appended"):
            open_shard(cut)


def _info(name: str, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    return info


@pytest.mark.parametrize(
    "extra",
    [
        ("/etc/passwd", b""),
        ("../a.json", b"{}"),
        ("x/a.json", b"{}"),
        ("noext", b""),
        ("__a.json", b"{}"),
        (_info("a.json", type=tarfile.SYMTYPE, linkname="/etc/passwd"), b""),
        (_info("a.json", type=tarfile.LNKTYPE, linkname="a.json"), b""),
        (_info("a.json", type=tarfile.DIRTYPE), b""),
        (_info("a.json", type=tarfile.CHRTYPE), b""),
        (_info("a.json", type=tarfile.FIFOTYPE), b""),
        (_info("a.json", type=tarfile.CONTTYPE), b"{}"),
        (_info("a.json", type=tarfile.AREGTYPE), b"{}"),
        (_info("a.json", mtime=1), b"{}"),
        (_info("a.json", mode=0o600), b"{}"),
        (_info("a.json", uid=1000), b"{}"),
        (_info("a.json", uname="root"), b"{}"),
    ],
    ids=lambda extra: (
        extra[0] if isinstance(extra[0], str) else repr({k: v for k, v in extra[0].get_info().items() if v})
    ),
)
def test_members_that_we_never_write_are_refused(
    tmp_path: Path, make_sample: MakeSample, extra: tuple[tarfile.TarInfo | str, bytes]
) -> None:
    path = archive(tmp_path / "000000.tar", [*members_of(make_sample("k")), extra])
    with pytest.raises(CorruptShardError, match=r"header"):
        open_shard(path)


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_names_in_pax_or_gnu_headers_are_refused(tmp_path: Path, make_sample: MakeSample, kind: int) -> None:
    path = archive(tmp_path / "000000.tar", [("y" * 120 + ".json", b"{}")], format=kind)
    with pytest.raises(CorruptShardError, match="header"):
        open_shard(path)


def test_samples_mixed_torn_or_repeated_are_refused(tmp_path: Path, make_sample: MakeSample) -> None:
    a, b = members_of(make_sample("a")), members_of(make_sample("b"))
    rich = members_of(make_sample("c", attributes=True))
    path = tmp_path / "000000.tar"
    for wrong, message in (
        ([*a[:3], *b, *a[3:]], "ends without its json member"),
        ([*a[:3], *b[:3], *a[3:], *b[3:]], "ends without its json member"),
        ([*a, *b, *a], "not adjacent, or it appears twice"),
        ([*a, *b, a[0]], "not adjacent, or it appears twice"),
        (a[:-1], "ends inside the sample"),
        (a[1:], "has members"),
        ([a[1], a[0], *a[2:]], "has members"),
        ([*a[:-1], a[0], a[-1]], "has members"),
        ([*a[:-1], ("a.extra.npy", b""), a[-1]], "has members"),
        ([a[-1]], "has members"),
        ([*a, *rich], "has members"),
    ):
        archive(path, wrong)
        with pytest.raises(CorruptShardError, match=message):
            open_shard(path)


def test_what_is_no_shard_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="No such file"):
        open_shard(tmp_path / "absent.tar")
    with pytest.raises(ShardError, match=r"ends in \.tar or \.lmdb"):
        open_shard(tmp_path / "x.zip")
    (tmp_path / "folder.tar").mkdir()
    with pytest.raises(ShardError, match="directory"):
        open_shard(tmp_path / "folder.tar")
    (tmp_path / "empty.tar").write_bytes(b"")
    with pytest.raises(CorruptShardError, match="is empty"):
        open_shard(tmp_path / "empty.tar")
    (tmp_path / "noise.tar").write_bytes(np.random.default_rng(0).bytes(RECORD))
    with pytest.raises(CorruptShardError, match="byte 0: expected the header of a member"):
        open_shard(tmp_path / "noise.tar")


@pytest.mark.parametrize("counts", [[3], [0, 7, 36, 2], [5, 5, 5]])
def test_joined_arrays_are_those_of_each_sample(tmp_path: Path, make_sample: MakeSample, counts: list[int]) -> None:
    path = tmp_path / "000000.tar"
    write(path, (make_sample(f"k{at}", boxes=n) for at, n in enumerate(counts)))
    fields = ("boxes", "object_ids", "object_scores")
    with TarReader(path) as reader:
        joined = reader.joined_arrays(fields)
        assert joined is not None
        arrays, rows = joined
        assert rows == counts
        for name in fields:
            parts = [reader.read(at, fields).arrays[name] for at in range(len(counts))]
            expected = np.concatenate(parts)
            assert arrays[name].dtype == expected.dtype
            np.testing.assert_array_equal(arrays[name], expected)
        assert reader.joined_arrays(("attribute_ids",)) is None


@pytest.mark.parametrize(
    ("old", "new"),
    [(b"(3, 4)", b"(2, 4)"), (b"(3, 4)", b"(3, 9)"), (b"'<f4'", b"'|O8'"), (b"\x93NUMPY", b"\x93numpy")],
)
def test_arrays_with_a_changed_header_are_neither_joined_nor_read(
    tmp_path: Path, make_sample: MakeSample, old: bytes, new: bytes
) -> None:
    path = write(tmp_path / "000000.tar", (make_sample(f"k{at}", boxes=3) for at in range(3)))
    content = path.read_bytes()
    at = content.rindex(old)  # in the last sample: equal headers were read before it
    path.write_bytes(content[:at] + new + content[at + len(old) :])
    with TarReader(path) as reader:
        fields = tuple(name.removesuffix(".npy") for name in reader.index.names[:-1])
        assert reader.joined_arrays(fields) is None
        for sound in (0, 1):
            assert reader.read(sound, fields).metadata["num_boxes"] == 3
        with pytest.raises(CorruptShardError, match=r"key 'k2': \w+(\.npy)? (is|has|holds) "):
            reader.read(2, fields)


def test_regions_that_the_metadata_does_not_count_are_damage(tmp_path: Path, make_sample: MakeSample) -> None:
    path = write(tmp_path / "000000.tar", [make_sample(f"k{at}", boxes=3) for at in range(2)])
    content = path.read_bytes()
    at = content.rindex(b'"num_boxes":3')
    path.write_bytes(content[:at] + b'"num_boxes":4' + content[at + 13 :])
    with TarReader(path) as reader:
        assert len(reader.read(0, ("boxes",)).arrays["boxes"]) == 3
        assert reader.read(1, ()).metadata["num_boxes"] == 4
        with pytest.raises(CorruptShardError, match=r"key 'k1': boxes is float32\[3, 4\], expected .* of 4 boxes"):
            reader.read(1, ("boxes",))
