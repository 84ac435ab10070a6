"""Reading samples by their place: what was written comes back, damage is told or skipped, and few shards are open."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vilbert.pipeline.errors import CorruptShardError, RefusedError
from vilbert.pipeline.shards.dataset import Totals, read_dataset, write_dataset
from vilbert.pipeline.shards.record import read_records
from vilbert.pipeline.shards.storage.store import open_shard
from vilbert.pipeline.shards.storage.tar_store import TarReader
from vilbert.pipeline.shards.storage.verified import VerifiedFiles
from vilbert.pipeline.train.data import selection
from vilbert.pipeline.train.data.corpus import Corpus
from vilbert.pipeline.train.data.example import Example
from vilbert.pipeline.train.data.order import Order, Places

MakeDataset = Callable[..., Path]
storages = pytest.mark.parametrize("storage", ["tar", "lmdb"])


def all_places(corpus: Corpus) -> Places:
    order = Order(corpus.shard_sizes, seed=3, window=4)
    return order.at(np.arange(order.epoch_size))


def whole(examples: list[Example | None]) -> list[Example]:
    found = [example for example in examples if example is not None]
    assert len(found) == len(examples)
    return found


def image_ids(corpus: Corpus) -> list[str]:
    return [example.image_id for example in whole(corpus.read(all_places(corpus)))]


def alternate(row: int) -> str:
    """Rows 0 to 3 are of train, then train and val in turns, and the last ones of val."""
    return "train" if row < 4 or (row < 8 and row % 2) else "val"


@storages
def test_what_is_read_is_what_was_written(tmp_path: Path, make_dataset: MakeDataset, storage: str) -> None:
    folder = make_dataset(tmp_path / "a", samples=10, shard_size=4, storage=storage, regions=lambda row: row % 5)
    corpus = Corpus.open([str(folder)], split=None)
    places = all_places(corpus)
    for example, sample in zip(whole(corpus.read(places)), places.sample.tolist(), strict=True):
        with open_shard(folder / "shards" / f"{sample // 4:06}.{storage}") as reader:
            stored = reader[sample % 4]
        assert example.image_id == stored.meta["image_id"] == f"photo.{sample:04}"
        assert example.captions == (f"a photograph of scene {sample}", f"scene {sample} seen again")
        assert (example.width, example.height) == (120, 90)
        for name in ("boxes", "features", "class_ids", "class_probs"):
            ours, theirs = getattr(example, name), stored.regions.arrays()[name]
            assert ours.dtype == theirs.dtype
            assert np.array_equal(ours, theirs)
            assert len(ours) == sample % 5
            assert not ours.flags.writeable


def test_it_says_what_the_data_sets_are(tmp_path: Path, make_dataset: MakeDataset) -> None:
    folders = [
        make_dataset(tmp_path / "a", samples=5, shard_size=4, feature_dim=16),
        make_dataset(tmp_path / "b", samples=3, shard_size=2, feature_dim=16, seed=1, storage="lmdb", detector="b"),
    ]
    corpus = Corpus.open([str(folder) for folder in folders], split="train", allow_mixed=True)
    assert [sizes.tolist() for sizes in corpus.shard_sizes] == [[4, 1], [2, 1]]
    assert (corpus.feature_dim, corpus.top_classes, corpus.class_names[:2]) == (16, 3, ("background", "sky"))
    infos = [read_dataset(folder) for folder in folders]
    assert corpus.fingerprints == [
        {
            "path": str(folder),
            "records_sha256": info.records_sha256,
            "fingerprint": info.fingerprint,
            "samples": samples,
        }
        for folder, info, samples in zip(folders, infos, (5, 3), strict=True)
    ]
    assert corpus.extractors == tuple(info.fingerprint_fields["extractor"] for info in infos)
    more = make_dataset(tmp_path / "more", samples=2, shard_size=2, feature_dim=16, seed=2)
    assert Corpus.open([str(folders[0]), str(more)], split="train").extractors == corpus.extractors[:1]
    assert sorted(image_ids(corpus)) == sorted([f"photo.{row:04}" for row in (0, 1, 2, 3, 4, 0, 1, 2)])


@storages
def test_captions_are_those_of_the_examples_and_may_be_none(
    tmp_path: Path, make_dataset: MakeDataset, storage: str
) -> None:
    folder = make_dataset(
        tmp_path / "a",
        samples=6,
        shard_size=3,
        storage=storage,
        captions=lambda row: [f"é {n}" for n in range(row % 3)],
    )
    corpus = Corpus.open([str(folder)], split=None)
    places = all_places(corpus)
    captions = corpus.captions(places)
    assert captions == [example.captions for example in whole(corpus.read(places))]
    assert sorted(map(len, captions)) == [0, 0, 1, 1, 2, 2]  # type: ignore[arg-type]


def test_captions_are_read_without_touching_arrays(tmp_path: Path, make_dataset: MakeDataset) -> None:
    folder = make_dataset(tmp_path / "a", samples=1, shard_size=1)
    path = folder / "shards/000000.tar"
    content = path.read_bytes()
    path.write_bytes(content.replace(b"\x93NUMPY", b"damaged"[:6]))
    corpus = Corpus.open([str(folder)], split=None)
    assert corpus.captions(all_places(corpus)) == [("a photograph of scene 0", "scene 0 seen again")]
    with pytest.raises(CorruptShardError, match=r"000000\.tar, key 'row0'"):
        corpus.read(all_places(corpus))


@storages
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_takes_its_samples_from_pure_and_mixed_shards(
    tmp_path: Path, make_dataset: MakeDataset, storage: str, split: str
) -> None:
    folder = make_dataset(tmp_path / "a", samples=12, shard_size=4, storage=storage, splits=alternate)
    corpus = Corpus.open([str(folder)], split=split)
    expected = [f"photo.{row:04}" for row in range(12) if alternate(row) == split]
    assert sorted(image_ids(corpus)) == expected
    assert corpus.shard_sizes[0].tolist() == ([4, 2, 0] if split == "train" else [0, 2, 4])


def test_only_mixed_shards_are_searched_for_a_split_and_only_once(
    tmp_path: Path, make_dataset: MakeDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_dataset(tmp_path / "a", samples=12, shard_size=4, splits=alternate)
    searched: list[str] = []
    metadata = TarReader.metadata

    def noted(self: TarReader, index: int) -> dict[str, Any]:
        searched.append(self.path.name)
        return metadata(self, index)

    monkeypatch.setattr(TarReader, "metadata", noted)
    corpus = Corpus.open([str(folder)], split="train", open_shards=1)
    for _ in range(3):
        assert len(image_ids(corpus)) == 6
    assert searched == ["000001.tar"] * 4


def test_failed_rows_and_empty_shards_leave_no_gap(tmp_path: Path, make_dataset: MakeDataset) -> None:
    folder = make_dataset(tmp_path / "a", samples=9, shard_size=3, failed={1, 3, 4, 5})
    corpus = Corpus.open([str(folder)], split="train")
    assert corpus.shard_sizes[0].tolist() == [2, 0, 3]
    assert sorted(image_ids(corpus)) == [f"photo.{row:04}" for row in (0, 2, 6, 7, 8)]


def test_a_split_without_samples_is_refused_and_those_there_are_named(
    tmp_path: Path, make_dataset: MakeDataset
) -> None:
    folder = make_dataset(tmp_path / "a", samples=12, shard_size=4, splits=alternate)
    with pytest.raises(RefusedError, match=r"split 'test'.*'train' \(6 samples\), 'val' \(6 samples\)"):
        Corpus.open([str(folder)], split="test")


def test_one_data_set_without_the_split_is_told_and_left_out(
    tmp_path: Path, make_dataset: MakeDataset, caplog: pytest.LogCaptureFixture
) -> None:
    folders = [
        make_dataset(tmp_path / name, samples=2, shard_size=4, splits=lambda row, name=name: name, seed=seed)
        for seed, name in enumerate(("a", "b"))
    ]
    corpus = Corpus.open([str(folder) for folder in folders], split="b")
    assert len(image_ids(corpus)) == 2
    assert [record.getMessage() for record in caplog.records] == [
        f"{folders[0]}: no sample of split 'b'; the data set is not used"
    ]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"feature_dim": 4}, "feature_dim 8"),
        ({"top_classes": 2}, "top_classes 3"),
        ({"class_names": "abcdef"}, "class_na"),
    ],
)
def test_data_sets_of_different_detectors_are_refused(
    tmp_path: Path, make_dataset: MakeDataset, change: dict[str, Any], what: str
) -> None:
    folders = [
        make_dataset(tmp_path / "a", samples=2, shard_size=4),
        make_dataset(tmp_path / "b", samples=2, shard_size=4, **change),
    ]
    with pytest.raises(RefusedError, match=rf"/a has {what}.*/b has .*one detector"):
        Corpus.open([str(folder) for folder in folders], split=None)


def test_an_incomplete_data_set_is_refused(tmp_path: Path, make_dataset: MakeDataset) -> None:
    folder = make_dataset(tmp_path / "a", samples=2, shard_size=4, complete=False)
    with pytest.raises(RefusedError, match="/a: not complete: run the same `vilbert extract`"):
        Corpus.open([str(folder)], split=None)


def test_records_of_another_extraction_are_told(tmp_path: Path, make_dataset: MakeDataset) -> None:
    folder = make_dataset(tmp_path / "a", samples=8, shard_size=4)
    other = make_dataset(tmp_path / "b", samples=8, shard_size=4, seed=1)
    (folder / "shards/000001.json").write_bytes((other / "shards/000001.json").read_bytes())
    with pytest.raises(CorruptShardError, match=r"dataset\.json: the records in shards/ do not match it"):
        Corpus.open([str(folder)], split=None)


def test_no_data_set_and_a_bad_bound_are_refused(tmp_path: Path, make_dataset: MakeDataset) -> None:
    with pytest.raises(RefusedError, match="no data set"):
        Corpus.open([], split=None)
    folder = make_dataset(tmp_path / "a", samples=2, shard_size=4)
    with pytest.raises(ValueError, match="open_shards 0"):
        Corpus.open([str(folder)], split=None, open_shards=0)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def scribble(path: Path) -> None:
    """Damage a header of a tar, a page of an LMDB, at the same size."""
    content = bytearray(path.read_bytes())
    content[16:24] = b"\xff" * 8
    path.write_bytes(content)


damages = pytest.mark.parametrize("damage", [cut, scribble, Path.unlink])


@storages
@damages
def test_a_damaged_shard_stops_with_its_name(
    tmp_path: Path, make_dataset: MakeDataset, storage: str, damage: Callable[[Path], None]
) -> None:
    folder = make_dataset(tmp_path / "a", samples=12, shard_size=4, storage=storage)
    damage(folder / f"shards/000001.{storage}")
    corpus = Corpus.open([str(folder)], split=None)
    places = all_places(corpus)
    for _ in range(2):
        with pytest.raises(CorruptShardError, match=rf"/a/shards/000001\.{storage}"):
            corpus.read(places)


@storages
@damages
def test_a_damaged_shard_is_skipped_on_request_and_told_once(
    tmp_path: Path,
    make_dataset: MakeDataset,
    storage: str,
    damage: Callable[[Path], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = make_dataset(tmp_path / "a", samples=12, shard_size=4, storage=storage)
    path = folder / f"shards/000001.{storage}"
    damage(path)
    corpus = Corpus.open([str(folder)], split=None, on_corrupt="skip")
    assert corpus.shard_sizes[0].tolist() == [4, 4, 4]  # the order is that of the whole data set
    places = all_places(corpus)
    for _ in range(3):
        for examples in (corpus.read(places), corpus.captions(places)):
            assert [example is None for example in examples] == (places.shard == 1).tolist()
    assert list(corpus.skipped_shards) == [str(path)]
    assert str(path) in corpus.skipped_shards[str(path)]
    assert [record.levelname for record in caplog.records if str(path) in record.getMessage()] == ["WARNING"]


def test_a_damaged_sample_does_not_take_its_neighbours_along(tmp_path: Path, make_dataset: MakeDataset) -> None:
    folder = make_dataset(tmp_path / "a", samples=4, shard_size=4)
    path = folder / "shards/000000.tar"
    content = path.read_bytes()
    at = content.index(b'"num_boxes":4', content.index(b"row2.json"))
    path.write_bytes(content[:at] + b'"num_boxes":5' + content[at + 13 :])
    corpus = Corpus.open([str(folder)], split=None, on_corrupt="skip")
    places = all_places(corpus)
    for _ in range(2):
        assert [example is None for example in corpus.read(places)] == (places.index == 2).tolist()
    assert "key 'row2'" in corpus.skipped_shards[str(path)]


def test_a_class_id_without_a_name_is_damage(tmp_path: Path, make_dataset: MakeDataset) -> None:
    """It would index beyond the classes of the loss."""
    folder = make_dataset(tmp_path / "a", samples=1, shard_size=1, regions=1, top_classes=1)
    path = folder / "shards/000000.tar"
    content = bytearray(path.read_bytes())
    start = content.index(b"class_ids.npy") // 512 * 512 + 512 + 128
    content[start : start + 2] = (7).to_bytes(2, "little")
    path.write_bytes(content)
    corpus = Corpus.open([str(folder)], split=None)
    with pytest.raises(CorruptShardError, match=r"class id 7, dataset\.json names 7 classes"):
        corpus.read(all_places(corpus))


def test_a_shard_with_other_splits_than_its_record_is_damage(tmp_path: Path, make_dataset: MakeDataset) -> None:
    folder = make_dataset(tmp_path / "a", samples=2, shard_size=2, splits=lambda row: ("left", "okay")[row])
    path = folder / "shards/000000.tar"
    path.write_bytes(path.read_bytes().replace(b'"split":"okay"', b'"split":"left"'))
    corpus = Corpus.open([str(folder)], split="left")
    with pytest.raises(CorruptShardError, match=r"000000\.tar: holds 2 samples of split 'left', its record says 1"):
        corpus.read(all_places(corpus))


def test_skipping_does_not_pile_up_memory(tmp_path: Path, make_dataset: MakeDataset) -> None:
    folder = make_dataset(tmp_path / "a", samples=4, shard_size=4)
    (folder / "shards/000000.tar").unlink()
    corpus = Corpus.open([str(folder)], split=None, on_corrupt="skip")
    tracemalloc.start()
    try:
        held = []
        for reads in (50, 200):
            for _ in range(reads):
                corpus.read(all_places(corpus))
            held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert held[1] - held[0] < 200_000  # 670,000 where each error keeps its traceback


def open_shards_of(folder: Path) -> set[int]:
    """Return the numbers of the shards in the folder that this process has open."""
    numbers = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the listing's own is closed by now
            path = Path(os.readlink(descriptor))
            if path.parent == folder / "shards":
                numbers.add(int(path.stem))
    return numbers


@storages
def test_few_shards_are_open_and_the_oldest_is_closed_first(
    tmp_path: Path, make_dataset: MakeDataset, storage: str
) -> None:
    folder = make_dataset(tmp_path / "a", samples=12, shard_size=2, storage=storage)
    corpus = Corpus.open([str(folder)], split=None, open_shards=2)
    found = []
    for shard in (0, 1, 0, 2, 3, 4, 5):
        at = np.array([0])
        corpus.read(Places(at, at + shard, at, at, at, at, at))
        found.append(open_shards_of(folder))
    assert found == [{0}, {0, 1}, {0, 1}, {0, 2}, {2, 3}, {3, 4}, {4, 5}]
    corpus.close()
    assert open_shards_of(folder) == set()


@storages
def test_arrays_outlive_their_shard(tmp_path: Path, make_dataset: MakeDataset, storage: str) -> None:
    folder = make_dataset(tmp_path / "a", samples=12, shard_size=2, storage=storage)
    corpus = Corpus.open([str(folder)], split=None, open_shards=1)
    places = all_places(corpus)
    examples = whole(corpus.read(places))
    corpus.close()
    for example, sample in zip(examples, places.sample.tolist(), strict=True):
        with open_shard(folder / f"shards/{sample // 2:06}.{storage}") as reader:
            assert np.array_equal(example.features, reader[sample % 2].regions.features)


def read_in_child(corpora: list[Corpus], queue: Any) -> None:
    queue.put([contents(corpus) for corpus in corpora])


def contents(corpus: Corpus) -> list[tuple[str, bytes]]:
    return [(example.image_id, example.features.tobytes()) for example in whole(corpus.read(all_places(corpus)))]


@pytest.mark.parametrize(("method", "processes"), [("fork", 2), ("spawn", 1)])  # a spawned one takes seconds to start
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_another_process_reads_while_this_one_has_the_shards_open(
    tmp_path: Path, make_dataset: MakeDataset, method: str, processes: int
) -> None:
    corpora = []
    for storage in ("tar", "lmdb"):
        folder = make_dataset(tmp_path / storage, samples=12, shard_size=4, storage=storage, splits=alternate)
        corpora.append(Corpus.open([str(folder)], split="train"))
    expected = [contents(corpus) for corpus in corpora]
    context: Any = multiprocessing.get_context(method)
    queue = context.Queue()
    children = [context.Process(target=read_in_child, args=(corpora, queue)) for _ in range(processes)]
    for child in children:
        child.start()
    assert [queue.get(timeout=60) for _ in children] == [expected] * processes
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    assert [contents(corpus) for corpus in corpora] == expected


def test_sent_to_another_process_it_takes_no_shard_along(tmp_path: Path, make_dataset: MakeDataset) -> None:
    folder = make_dataset(tmp_path / "a", samples=400, shard_size=4)
    corpus = Corpus.open([str(folder)], split=None)
    ids = image_ids(corpus)
    content = pickle.dumps(corpus)
    copy = pickle.loads(content)
    assert image_ids(copy) == ids
    assert len(content) < 30_000  # 100 shards


def test_opening_looks_at_no_shard(tmp_path: Path, make_dataset: MakeDataset) -> None:
    folder = make_dataset(tmp_path / "a", samples=12, shard_size=4, splits=alternate)
    for record in read_records(folder).values():
        (folder / "shards" / record.file).unlink()
    assert Corpus.open([str(folder)], split="val").shard_sizes[0].tolist() == [0, 2, 4]


def test_a_file_url_is_a_folder_of_this_machine(tmp_path: Path, make_dataset: MakeDataset) -> None:
    folder = make_dataset(tmp_path / "a folder", samples=2, shard_size=2)
    assert len(image_ids(Corpus.open([folder.as_uri()], split=None))) == 2
    assert selection.read_source(folder.as_uri(), split=None, cache=None).folder == folder


def flip_a_value(folder: Path, shard: int, storage: str) -> None:
    """Change one bit of a feature of a shard, which leaves names, sizes and shapes what they were."""
    path = folder / "shards" / f"{shard:06}.{storage}"
    with open_shard(path, verify=False) as reader:
        value = reader[0].regions.features.tobytes()
    content = bytearray(path.read_bytes())
    content[content.index(value[:32]) + 3] ^= 0x10
    path.write_bytes(content)


@storages
def test_a_flipped_bit_inside_a_value_stops_or_skips_before_a_sample_is_used(
    tmp_path: Path, make_dataset: MakeDataset, storage: str
) -> None:
    folder = make_dataset(tmp_path / "a", samples=9, shard_size=3, storage=storage)
    flip_a_value(folder, 1, storage)
    unchecked = Corpus.open([str(folder)], split=None)
    assert None not in unchecked.read(all_places(unchecked))
    corpus = Corpus.open([str(folder)], split=None, verified=VerifiedFiles())
    assert len(image_ids_alone := corpus.image_ids(all_places(corpus))) == 9
    assert None not in image_ids_alone
    part = corpus.with_sources(corpus.sources)  # as what is held out is made from what trains
    for read in (corpus.read, corpus.captions, corpus.read, part.read):
        with pytest.raises(CorruptShardError, match=rf"000001\.{storage}: its SHA-256"):
            read(all_places(corpus))
    assert corpus.captions(all_places(corpus), verify=False) == unchecked.captions(all_places(corpus))
    skipping = Corpus.open([str(folder)], split=None, verified=VerifiedFiles(), on_corrupt="skip")
    assert skipping.read(all_places(skipping)).count(None) == 3
    assert list(skipping.skipped_shards) == [str(folder / "shards" / f"000001.{storage}")]


def test_a_shard_that_is_rotten_in_the_cache_is_deleted_and_fetched_anew(
    tmp_path: Path, make_dataset: MakeDataset
) -> None:
    folder = make_dataset(tmp_path / "a", samples=6, shard_size=3)
    cache = tmp_path / "cache"

    def corpus() -> Corpus:
        import fsspec

        memory = fsspec.filesystem("memory")
        memory.put(f"{folder}/", "/rotten", recursive=True)
        return Corpus.open(["memory://rotten"], split=None, cache_dir=cache, verified=VerifiedFiles(tmp_path / "log"))

    first = corpus()
    assert len(whole(first.read(all_places(first)))) == 6
    first.close()
    (fetched,) = cache.glob("*/shards/000001.tar")
    flip_a_value(fetched.parents[1], 1, "tar")
    (tmp_path / "log").unlink()  # another run: of it nothing is known
    second = corpus()
    with pytest.raises(CorruptShardError, match="it was deleted: run the same command again to download it again"):
        second.read(all_places(second))
    assert not fetched.exists()
    second.close()
    third = corpus()
    assert len(whole(third.read(all_places(third)))) == 6


@pytest.mark.parametrize(
    "forged",
    [
        {"totals": Totals(samples=5, failures={}, bytes=1)},
        {"splits": {"val": 6}},
        {"rows": 7},
    ],
)
def test_a_dataset_json_that_disagrees_with_its_records_is_refused(
    tmp_path: Path, make_dataset: MakeDataset, forged: dict[str, Any]
) -> None:
    folder = make_dataset(tmp_path / "a", samples=6, shard_size=4)
    write_dataset(folder, replace(read_dataset(folder), **forged))
    with pytest.raises(CorruptShardError, match=r"dataset\.json: .*vilbert verify"):
        Corpus.open([str(folder)], split=None)
