"""LMDB shards: the same bytes whoever builds them, readable by plain lmdb, strict and safe across processes in ours."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import pickle
import struct
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import lmdb
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from vilbert.pipeline.errors import CorruptShardError, ShardError, UnsupportedFormatError
from vilbert.pipeline.shards.canonical import encode_json
from vilbert.pipeline.shards.sample import Sample
from vilbert.pipeline.shards.storage import lmdb_store
from vilbert.pipeline.shards.storage.lmdb_store import META_KEY, LmdbReader, LmdbWriter
from vilbert.pipeline.shards.storage.store import open_shard
from vilbert.pipeline.shards.storage.tensors import encode_tensors

MakeSample = Callable[..., Sample]
AssertSame = Callable[[Sample, Sample], None]


def write(path: Path, samples: Iterable[Sample]) -> Path:
    writer = LmdbWriter(path)
    for sample in samples:
        writer.add(sample)
    size, digest = writer.finish()
    content = path.read_bytes()
    assert (size, digest) == (len(content), hashlib.sha256(content).hexdigest())
    assert [left.name for left in path.parent.iterdir() if left.name.startswith(".")] == []
    return path


def put(path: Path, items: dict[bytes, bytes]) -> Path:
    with lmdb.open(str(path), subdir=False, lock=False, lib_version=0) as env, env.begin(write=True) as transaction:
        for key, value in items.items():
            transaction.put(key, value)
    return path


def meta(keys: list[str], **changes: object) -> bytes:
    return encode_json({"format": 1, "count": len(keys), "fields": [], "keys": keys} | changes)


@settings(max_examples=20)
@given(st.lists(st.integers(0, 60), max_size=8), st.randoms(use_true_random=False), st.booleans())
def test_what_is_written_is_read_in_the_order_of_writing(
    tmp_path_factory: pytest.TempPathFactory,
    make_sample: MakeSample,
    assert_same: AssertSame,
    boxes: list[int],
    random: object,
    attributes: bool,
) -> None:
    names = [f"k{number}" for number in range(len(boxes))]
    random.shuffle(names)
    samples = [make_sample(k, boxes=n, attributes=attributes, seed=n) for k, n in zip(names, boxes, strict=True)]
    with open_shard(write(tmp_path_factory.mktemp("lmdb") / "000000.lmdb", samples)) as reader:
        assert len(reader) == len(samples)
        assert reader.keys() == tuple(names)
        for at, sample in enumerate(reader):
            assert_same(sample, samples[at])
            assert_same(reader[at - len(samples)], samples[at])
        with pytest.raises(IndexError):
            reader[len(samples)]


def test_plain_lmdb_and_safetensors_read_it(tmp_path: Path, make_sample: MakeSample) -> None:
    samples = [make_sample(key, boxes=36, feature_dim=64, seed=at) for at, key in enumerate(["b", "a", "c"])]
    path = write(tmp_path / "000000.lmdb", samples)
    with lmdb.open(str(path), subdir=False, readonly=True, lock=False) as env, env.begin() as transaction:
        assert [key for key, _ in transaction.cursor()] == [META_KEY.encode(), b"a", b"b", b"c"]
        assert transaction.get(META_KEY.encode()) == (
            b'{"count":3,"fields":["boxes","features","object_ids","object_scores","class_ids","class_probs"],'
            b'"format":1,"keys":["b","a","c"]}'
        )
        arrays = safetensors.numpy.load(transaction.get(b"b"))
        assert np.array_equal(arrays["features"], samples[0].regions.features)


def test_the_tools_of_lmdb_find_nothing_wrong(tmp_path: Path, make_sample: MakeSample) -> None:
    for name, samples in (("none", []), ("some", [make_sample(f"k{at}", boxes=at) for at in range(200)])):
        path = write(tmp_path / f"{name}.lmdb", samples)
        command = [sys.executable, "-m", "lmdb", "verify", str(path)]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "verify: OK\n"


def test_it_has_the_data_format_that_every_lmdb_reads(tmp_path: Path, make_sample: MakeSample) -> None:
    magic, version = struct.unpack("<II", write(tmp_path / "a.lmdb", [make_sample()]).read_bytes()[16:24])
    assert (magic, version) == (0xBEEFC0DE, 1)  # 0.9's MDB_DATA_VERSION; 1.0 writes 3


WRITE_IN_ANOTHER_PROCESS = """
import os, runpy, sys
from pathlib import Path
from vilbert.pipeline.shards.storage import lmdb_store
lmdb_store._BATCH_BYTES, lmdb_store._FIRST_MAP_BYTES = 200_000, 1 << 18  # many batches, and the map grows
build_sample = runpy.run_path(sys.argv[1])["build_sample"]
litter = [os.urandom(size) for size in range(200, 9000, int(sys.argv[3]))]
del litter[::2]
writer = lmdb_store.LmdbWriter(Path(sys.argv[2]))
for number in range(300):
    writer.add(build_sample(f"k{number * 7919 % 300}", boxes=number % 100, feature_dim=64, seed=number))
writer.finish()
"""


@pytest.mark.slow
def test_the_bytes_do_not_depend_on_the_process(tmp_path: Path) -> None:
    conftest = Path(__file__).parents[2] / "conftest.py"
    digests = set()
    for number, (step, fill) in enumerate([("7", "0"), ("3", "165"), ("11", "90")]):
        path = tmp_path / f"{number}.lmdb"
        # glibc fills what it hands out and takes back with a pattern: memory written out unset would show.
        environment = {**os.environ, "MALLOC_PERTURB_": fill, "PYTHONHASHSEED": str(number), "PYTHONPATH": os.getcwd()}
        subprocess.run(
            [sys.executable, "-c", WRITE_IN_ANOTHER_PROCESS, conftest, path, step], check=True, env=environment
        )
        digests.add(hashlib.sha256(path.read_bytes()).hexdigest())
    assert len(digests) == 1


@pytest.mark.parametrize(("batch", "first_map"), [(1, 1 << 16), (5000, 1 << 17), (1 << 30, 1 << 16)])
def test_a_full_map_grows_and_loses_nothing(
    tmp_path: Path,
    make_sample: MakeSample,
    assert_same: AssertSame,
    monkeypatch: pytest.MonkeyPatch,
    batch: int,
    first_map: int,
) -> None:
    samples = [make_sample(f"k{at * 7 % 60:03}", boxes=20, feature_dim=64, seed=at) for at in range(60)]
    size = write(tmp_path / "expected.lmdb", samples).stat().st_size
    monkeypatch.setattr(lmdb_store, "_BATCH_BYTES", batch)
    monkeypatch.setattr(lmdb_store, "_FIRST_MAP_BYTES", first_map)
    path = write(tmp_path / "got.lmdb", samples)
    assert path.stat().st_size == size > first_map
    with open_shard(path) as reader:
        for read, written in zip(reader, samples, strict=True):
            assert_same(read, written)


def test_two_readers_share_a_file_and_arrays_outlive_both(
    tmp_path: Path, make_sample: MakeSample, assert_same: AssertSame
) -> None:
    sample = make_sample(boxes=100, feature_dim=64)
    path = write(tmp_path / "000000.lmdb", [sample])
    first, second = open_shard(path), open_shard(path)
    kept = first[0]
    first.close()
    assert_same(second[0], sample)
    second.close()
    assert_same(kept, sample)
    assert not kept.regions.features.flags.writeable
    with pytest.raises(ShardError, match="reader is closed"):
        first[0]
    with lmdb.open(str(path), subdir=False, readonly=True, lock=False):
        pass  # would raise if an environment were still open


def test_a_shard_made_anew_under_an_open_reader_is_another_file(
    tmp_path: Path, make_sample: MakeSample, assert_same: AssertSame
) -> None:
    path = write(tmp_path / "000000.lmdb", [make_sample(seed=1)])
    old = open_shard(path)
    os.replace(write(tmp_path / "new", [make_sample(seed=2)]), path)
    with open_shard(path) as new:
        assert_same(new[0], make_sample(seed=2))
        assert_same(old[0], make_sample(seed=1))
    old.close()


def _first(reader: LmdbReader) -> bytes:
    return reader[0].regions.features.tobytes()


def _both(readers: list[LmdbReader]) -> list[bytes]:
    return [_first(reader) for reader in readers]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_reader_works_in_another_process(tmp_path: Path, make_sample: MakeSample, method: str) -> None:
    path = write(tmp_path / "000000.lmdb", [make_sample()])
    with open_shard(path) as reader, ProcessPoolExecutor(2, multiprocessing.get_context(method)) as pool:
        expected = _first(reader)
        assert list(pool.map(_first, [reader] * 3)) == [expected] * 3
        assert pickle.loads(pickle.dumps(reader)).keys() == reader.keys()


def test_readers_inherited_by_a_fork_work_in_child_and_parent(tmp_path: Path, make_sample: MakeSample) -> None:
    path = write(tmp_path / "000000.lmdb", [make_sample()])
    readers = [open_shard(path), open_shard(path)]
    expected = _both(readers)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            fresh = open_shard(path)
            status = 0 if _both([*readers, fresh]) == [*expected, expected[0]] else 2
        finally:
            os._exit(status)
    assert _both(readers) == expected
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert _both(readers) == expected


def test_torch_workers_carry_readers(tmp_path: Path, make_sample: MakeSample) -> None:
    from torch.utils.data import DataLoader

    samples = [make_sample(f"k{at}", seed=at) for at in range(8)]
    with open_shard(write(tmp_path / "000000.lmdb", samples)) as reader:
        loader = DataLoader(reader, batch_size=None, num_workers=2, collate_fn=_key)
        assert list(loader) == [sample.key for sample in samples]


def _key(sample: Sample) -> str:
    return sample.key


def test_threads_may_open_one_file_at_once(tmp_path: Path, make_sample: MakeSample) -> None:
    path = write(tmp_path / "000000.lmdb", [make_sample()])
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: _first(open_shard(path)), range(64)))
    assert len(found) == 1


def test_cut_and_damaged_files_are_refused_and_never_crash(tmp_path: Path, make_sample: MakeSample) -> None:
    path = write(tmp_path / "000000.lmdb", [make_sample(f"k{at}", boxes=30, feature_dim=64) for at in range(20)])
    content = path.read_bytes()
    damaged = tmp_path / "damaged.lmdb"
    for length in (0, 1, 100, 4096, 8192, len(content) // 2 // 4096 * 4096, len(content) - 4096, len(content) - 1):
        damaged.write_bytes(content[:length])
        with pytest.raises(CorruptShardError, match=r"damaged\.lmdb.*vilbert extract"):
            open_shard(damaged)
    draw = np.random.default_rng(0)
    outcomes = {"refused": 0, "read": 0}
    for _ in range(200):
        changed = bytearray(content)
        start = int(draw.integers(len(changed) - 64))
        changed[start : start + 64] = draw.bytes(64)
        damaged.unlink()
        damaged.write_bytes(changed)
        try:
            with open_shard(damaged) as reader:
                assert len(list(reader)) == 20
            outcomes["read"] += 1  # damage inside an array's numbers shows in the sha256 alone
        except CorruptShardError:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 0


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ({}, "'__meta__'.*has no value"),
        ({META_KEY.encode(): b"{"}, "is not JSON"),
        ({META_KEY.encode(): b"[1]"}, "does not list the keys"),
        ({META_KEY.encode(): meta(["a"])}, "its keys do not match the list in __meta__; the first difference is b'a'"),
        ({META_KEY.encode(): meta([]), b"x": b""}, "the first difference is b'x'"),
        ({META_KEY.encode(): meta([], count=1)}, "does not list the keys"),
        ({META_KEY.encode(): meta(["a", "a"]), b"a": b""}, "does not list the keys"),
        ({META_KEY.encode(): meta(["a.b"]), b"a.b": b""}, "does not list the keys"),
    ],
)
def test_a_file_whose_order_is_not_its_content_is_refused(
    tmp_path: Path, items: dict[bytes, bytes], message: str
) -> None:
    with pytest.raises(CorruptShardError, match=message):
        open_shard(put(tmp_path / "000000.lmdb", items))


def test_a_value_of_another_kind_is_named(tmp_path: Path, make_sample: MakeSample) -> None:
    value = encode_tensors(make_sample("a"))
    path = put(tmp_path / "000000.lmdb", {META_KEY.encode(): meta(["a", "b"]), b"a": value, b"b": value[:-1]})
    with open_shard(path) as reader:
        assert reader[0].key == "a"
        with pytest.raises(CorruptShardError, match=r"000000\.lmdb, key 'b'"):
            reader[1]


def test_another_format_number_is_refused(tmp_path: Path) -> None:
    path = put(tmp_path / "000000.lmdb", {META_KEY.encode(): meta([], format=4)})
    with pytest.raises(UnsupportedFormatError, match="format 4, this version reads 3"):
        open_shard(path)
