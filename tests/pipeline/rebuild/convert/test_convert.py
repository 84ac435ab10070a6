"""`vilbert convert`: each operation, and that no row is lost."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vilbert.manifests.manifest import ManifestWriter
from vilbert.manifests.record import ImageRecord
from vilbert.pipeline.cli import main
from vilbert.pipeline.errors import CorruptShardError, FingerprintError, RefusedError, ShardError
from vilbert.pipeline.rebuild import dataset_source
from vilbert.pipeline.rebuild.convert.command import convert
from vilbert.pipeline.rebuild.convert.settings import ConvertSettings
from vilbert.pipeline.shards.checks.verify import examine
from vilbert.pipeline.shards.dataset import read_dataset
from vilbert.pipeline.shards.record import read_records
from vilbert.pipeline.shards.sample import Sample
from vilbert.pipeline.shards.storage import verified

from ...conftest import compare_samples
from .conftest import files, samples

Source = Callable[..., Path]
Run = Callable[..., Path]
ALL = [f"photo.{row:03}" for row in range(10) if row not in (2, 5, 6)]
VAL = ["photo.003", "photo.007"]


def totals(directory: Path) -> tuple[int, int, dict[str, int]]:
    """Return samples, failed rows and dropped rows, which add up to the rows."""
    info = read_dataset(directory)
    found = info.totals
    failed = sum(found.failures.values())
    assert found.samples + failed + sum(found.dropped.values()) == info.rows
    assert sum(sum(record.dropped.values()) for record in read_records(directory).values()) == sum(
        found.dropped.values()
    )
    return found.samples, failed, found.dropped


@pytest.mark.parametrize("storage", ["tar", "lmdb"])
@pytest.mark.parametrize("target", ["tar", "lmdb"])
def test_another_shard_size_and_storage_keep_every_bit(source: Source, run: Run, storage: str, target: str) -> None:
    data = source("a", storage=storage)
    output = run("out", data, format=target, shard_size=3)
    before, after = samples(data), samples(output)
    assert list(after) == list(before) == ALL
    for image_id, sample in before.items():
        compare_samples(after[image_id], sample)
    assert totals(output) == (7, 3, {})
    assert len(read_records(output)) == 4
    info = read_dataset(output)
    assert (info.fingerprint, info.converted[0]["rows"]) == (read_dataset(data).fingerprint, 10)
    assert not (output / ".plan").exists()


@pytest.mark.parametrize("storage", ["tar", "lmdb"])
def test_there_and_back_again_are_the_same_bytes(source: Source, run: Run, storage: str) -> None:
    data = source("a", storage=storage, failed={})
    other = "lmdb" if storage == "tar" else "tar"
    output = run("back", run("there", data, format=other, shard_size=3), format=storage, shard_size=4)
    assert all(files(output)[name] == content for name, content in files(data).items() if name.startswith("shards/"))


def test_merging_counts_the_rows_of_all_sources(source: Source, run: Run) -> None:
    sources = [source(name, image_id=lambda row, name=name: f"{name}{row}") for name in "abc"]
    output = run("out", *sources, shard_size=4)
    expected = [image_id for one in sources for image_id in samples(one)]
    assert list(samples(output)) == expected
    assert totals(output) == (21, 9, {})
    assert [one["rows"] for one in read_dataset(output).converted[0]["sources"]] == [10, 10, 10]


@pytest.mark.parametrize(
    ("options", "kept", "dropped"),
    [
        ({"split": ("val",)}, VAL, {"split": 5, "failed": 3}),
        (
            {"where": "'caption 0' in captions and width == 120"},
            ["photo.001", "photo.004", "photo.007", "photo.008"],
            0,
        ),
        ({"where": "n_boxes < 4 or split == 'val'"}, VAL, {"where": 5, "failed": 3}),
    ],
)
def test_subsets(
    source: Source, run: Run, options: dict[str, object], kept: list[str], dropped: dict[str, int] | int
) -> None:
    output = run("out", source("a"), shard_size=2, **options)
    assert list(samples(output)) == kept
    found = totals(output)
    assert found[:2] == (len(kept), 0)
    if dropped:
        assert found[2] == dropped
    assert max(record.samples for record in read_records(output).values()) == 2


@pytest.mark.parametrize("kind", ["text", "json", "manifest"])
def test_a_list_of_ids(source: Source, run: Run, tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    ids = ["photo.008", "photo.001", "photo.005", "elsewhere"]
    path = tmp_path / {"text": "ids.txt", "json": "ids.json", "manifest": "ids.parquet"}[kind]
    if kind == "manifest":
        with ManifestWriter(path) as writer:
            writer.write([ImageRecord(image_id=image_id, uri="x.jpg") for image_id in ids])
            writer.commit()
    else:
        path.write_text(json.dumps(ids) if kind == "json" else "\n".join(ids))
    output = run("out", source("a"), ids=path)
    assert list(samples(output)) == ["photo.001", "photo.008"]
    assert totals(output) == (2, 1, {"ids": 7})
    assert "1 of 4 ids are in no source" in caplog.text


def test_captions_and_splits_are_joined_by_id_and_seen_by_the_selection(
    source: Source, run: Run, tmp_path: Path
) -> None:
    rows = [{"image_id": "photo.001", "captions": ["new"], "split": "test", "licence": 3}, {"image_id": "no such"}]
    (tmp_path / "new.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "more.csv").write_text('image_id,caption,width\nphoto.003,"one, two",7\nphoto.003,three,7\n')
    joins = (tmp_path / "new.jsonl", tmp_path / "more.csv")
    data = source("a")
    output = run("out", data, join=joins)
    found, before = samples(output), samples(data)
    assert found["photo.001"].meta == before["photo.001"].meta | {"captions": ["new"], "split": "test", "licence": 3}
    assert found["photo.003"].meta == before["photo.003"].meta | {"captions": ["one, two", "three"]}
    assert found["photo.003"].regions.width == 120
    assert found["photo.004"].meta == before["photo.004"].meta
    assert totals(output) == (7, 3, {})
    assert list(samples(run("chosen", data, join=joins, where="split == 'test'", format="lmdb"))) == ["photo.001"]
    only = run("only", data, join=joins, unjoined="drop", join_fields=("captions",))
    assert [sample.meta["split"] for sample in samples(only).values()] == ["train", "val"]
    assert totals(only)[2] == {"not_joined": 5, "failed": 3}


@pytest.mark.parametrize("kind", ["coco", "karpathy"])
def test_published_caption_files_are_joined(source: Source, run: Run, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "captions_val2014.json"
    names = [f"COCO_val2014_{row:012}.jpg" for row in range(10)]
    if kind == "coco":
        images = [{"id": row, "file_name": name} for row, name in enumerate(names)]
        document = {"images": images, "annotations": [{"image_id": 4, "caption": "a"}, {"image_id": 4, "caption": "b"}]}
    else:
        sentences = {4: [{"raw": "a"}, {"raw": "b"}]}
        document = {
            "images": [
                {"filename": name, "cocoid": row, "split": "val", "sentences": sentences.get(row, [])}
                for row, name in enumerate(names)
            ]
        }
    path.write_text(json.dumps(document))
    output = run("out", source("a", image_id=str), join=(path,))
    assert samples(output)["4"].meta["captions"] == ["a", "b"]
    assert {sample.meta["split"] for sample in samples(output).values()} == {"val"}


def test_fewer_boxes_are_those_of_the_highest_scores_in_their_order(source: Source, run: Run) -> None:
    data = source("a")
    output = run("out", data, max_boxes=2)
    for before, after in zip(samples(data).values(), samples(output).values(), strict=True):
        best = np.sort(np.argsort(-before.regions.object_scores, kind="stable")[:2])
        for name, array in before.regions.arrays().items():
            np.testing.assert_array_equal(after.regions.arrays()[name], array[best])
    assert read_dataset(output).fingerprint_fields["extractor"]["converted"] == [{"max_boxes": 2}]
    again = run("again", output, min_score=0.5)
    assert read_dataset(again).fingerprint_fields["extractor"]["converted"] == [{"max_boxes": 2}, {"min_score": 0.5}]
    assert all((sample.regions.object_scores >= 0.5).all() for sample in samples(again).values())
    none_left = sum((sample.regions.object_scores < 0.5).all() for sample in samples(output).values())
    assert totals(again)[2] == ({"no_boxes": none_left} if none_left else {})


def test_a_sample_without_a_box_left_is_dropped_and_an_empty_output_is_an_error(
    source: Source, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    def weak(row: int, sample: Sample) -> Sample:
        regions = sample.regions
        scores = np.full(len(regions), 0.1 if row < 4 else 0.9, np.float32)
        return replace(sample, regions=replace(regions, object_scores=scores))

    data = source("a", change=weak, failed={})
    output = run("out", data, min_score=0.5, shard_size=3)
    assert totals(output) == (6, 0, {"no_boxes": 4})
    run("none", data, min_score=1.0, status=1)
    assert "no sample is left: all of 10 rows failed or were dropped" in caplog.text


def test_fields_are_dropped_and_added_back(source: Source, run: Run) -> None:
    data = source("a")
    bare = run("bare", data, drop_fields=("objects", "classes", "attributes"), format="lmdb")
    info = read_dataset(bare)
    assert list(info.fields) == ["boxes", "features"]
    assert (info.class_names, info.attribute_names, info.format) == ((), (), 2)
    whole = run("whole", bare, add_fields_from=data, format="tar", shard_size=4)
    for before, after in zip(samples(data).values(), samples(whole).values(), strict=True):
        compare_samples(before, after)
    assert read_dataset(whole).class_names == read_dataset(data).class_names


def test_added_fields_are_those_of_the_same_boxes(source: Source, run: Run) -> None:
    def moved(row: int, sample: Sample) -> Sample:
        regions = sample.regions
        return replace(sample, regions=replace(regions, boxes=regions.boxes * np.float32(0.5 if row == 1 else 1)))

    bare = run("bare", source("a"), drop_fields=("classes",))
    donor = source("b", change=moved, rows=9)
    output = run("out", bare, add_fields_from=donor)
    assert totals(output) == (5, 3, {"other_boxes": 1, "no_fields": 1})


def test_dtype_and_soft_labels(source: Source, run: Run) -> None:
    data = source("a")
    wide = run("wide", data, feature_dtype="float32", max_classes=2)
    for before, after in zip(samples(data).values(), samples(wide).values(), strict=True):
        assert after.regions.features.dtype == np.float32
        np.testing.assert_array_equal(after.regions.features, before.regions.features)
        np.testing.assert_array_equal(after.regions.class_ids, before.regions.class_ids[:, :2])
    back = run("back", wide, feature_dtype="float16")
    for before, after in zip(samples(data).values(), samples(back).values(), strict=True):
        np.testing.assert_array_equal(after.regions.features, before.regions.features)


def test_features_beyond_float16_are_dropped_not_made_infinite(source: Source, run: Run) -> None:
    def large(row: int, sample: Sample) -> Sample:
        features = sample.regions.features.astype(np.float32) * (1e6 if row == 0 else 1)
        return replace(sample, regions=replace(sample.regions, features=features))

    wide = source("wide", failed={})
    output = run("wider", wide, feature_dtype="float32")
    assert totals(run("back", output, feature_dtype="float16")) == (10, 0, {})
    from vilbert.pipeline.rebuild.convert.operations import DroppedError, cast_features

    with pytest.raises(DroppedError, match="float16_overflow"):
        cast_features(np.float32([[1e6]]), "float16")
    assert large(1, next(iter(samples(output).values()))).regions.features.dtype == np.float32


def test_shuffling_is_a_permutation_that_depends_on_the_seed_alone(source: Source, run: Run) -> None:
    data = source("a", rows=40, failed={7: "corrupt"})
    first = run("first", data, shuffle_seed=1, shard_size=5)
    assert list(samples(first)) != list(samples(data))
    assert sorted(samples(first)) == sorted(samples(data))
    assert list(samples(run("other", data, shuffle_seed=2))) != list(samples(first))
    again = run("again", data, shuffle_seed=1, shard_size=8)
    assert list(samples(again)) == list(samples(first))
    assert totals(first) == (39, 1, {})


def test_shards_of_one_split_each(source: Source, run: Run) -> None:
    output = run("out", source("a", rows=20), one_split_per_shard=True, shard_size=4, shuffle_seed=3)
    splits = [record.splits for record in read_records(output).values()]
    assert [list(of_shard) for of_shard in splits] == [["train"]] * 3 + [["val"]] * 2
    assert [sum(of_shard.values()) for of_shard in splits] == [4, 4, 4, 4, 1]
    assert totals(output) == (17, 0, {"failed": 3})


def test_the_same_id_twice_is_an_error_unless_the_first_is_kept(source: Source, run: Run, tmp_path: Path) -> None:
    sources = source("a"), source("b", rows=12)
    with pytest.raises(ShardError, match=r"the image id 'photo.\d+' is there twice: in source 1 .*row.* source 2"):
        convert(ConvertSettings(sources=sources, output=tmp_path / "out"))
    output = run("kept", *sources, deduplicate="id", shard_size=5)
    assert sorted(samples(output)) == sorted({**samples(sources[0]), **samples(sources[1])})
    assert totals(output)[2] == {"duplicate_id": 7}


def test_the_same_image_under_another_id_is_dropped(source: Source, run: Run, tmp_path: Path) -> None:
    first = source("a", failed={})
    second = source("b", rows=13, failed={}, image_id=lambda row: f"renamed{row}")
    output = run("out", first, second, deduplicate="image")
    assert list(samples(output)) == [*samples(first), "renamed10", "renamed11", "renamed12"]
    assert totals(output)[2] == {"duplicate_image": 10}


@pytest.mark.parametrize("storage", ["tar", "lmdb"])
def test_appending_to_a_data_set(source: Source, run: Run, tmp_path: Path, storage: str) -> None:
    data = source("a", storage=storage)
    first = files(data)
    more = source("b", image_id=lambda row: f"more{row}")
    settings = ConvertSettings(sources=(more,), output=data, append=True, shard_size=4, format=storage)
    assert convert(settings) == 0
    assert examine(data, deep=True).findings == ()
    assert list(samples(data)) == [*ALL, *samples(more)]
    after = files(data)
    assert all(after[name] == content for name, content in first.items() if name.startswith(("shards", "failures")))
    info = read_dataset(data)
    assert info.shard_starts == (0, 4, 8, 10, 14, 18)
    assert [step["rows"] for step in info.converted] == [10, 10]
    assert convert(settings) == 0
    assert files(data) == after
    with pytest.raises(ShardError, match="the image id 'more0' is there twice: in the data set that is appended to"):
        convert(replace(settings, sources=(run("copy", more, where="image_id == 'more0'"),)))


def test_appending_needs_the_same_fingerprint(source: Source, run: Run, tmp_path: Path) -> None:
    data = source("a")
    more = run("fewer", source("b", image_id=str), max_boxes=2)
    with pytest.raises(FingerprintError, match=r"(?s)max_boxes.*To merge them, write a new data set: vilbert convert"):
        convert(ConvertSettings(sources=(more,), output=data, append=True, shard_size=4))
    with pytest.raises(RefusedError, match="give --shard-size 4 --format tar"):
        convert(ConvertSettings(sources=(more,), output=data, append=True))
    with pytest.raises(RefusedError, match="holds no data set"):
        convert(ConvertSettings(sources=(more,), output=tmp_path / "none", append=True))


def test_a_run_with_other_sources_or_settings_is_refused_and_names_what_differs(
    source: Source, run: Run, tmp_path: Path
) -> None:
    data = source("a")
    output = run("out", data)
    with pytest.raises(FingerprintError, match=r"step 1\.operations\.split"):
        convert(ConvertSettings(sources=(data,), output=output, split=("val",)))
    with pytest.raises(FingerprintError, match=r"step 1\.source 1\.content"):
        convert(ConvertSettings(sources=(source("b", rows=11),), output=output))


def test_nothing_left_is_an_error_that_says_why(source: Source, tmp_path: Path) -> None:
    settings = ConvertSettings(sources=(source("a"),), output=tmp_path / "out", split=("test",))
    with pytest.raises(ShardError, match="no row is left, so nothing is written: 3 by failed, 7 by split dropped"):
        convert(settings)
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_sources_that_do_not_go_together_are_refused(source: Source, run: Run, tmp_path: Path) -> None:
    first, second = source("a"), source("b", image_id=str)
    wide = run("wide", second, feature_dtype="float32")
    with pytest.raises(RefusedError, match=r"features is float32\[N, 8\] in place of float16.*--feature-dtype"):
        convert(ConvertSettings(sources=(first, wide), output=tmp_path / "out"))
    run("out", first, wide, feature_dtype="float16")
    renamed = json.loads((second / "dataset.json").read_text())
    renamed["class_names"][1] = "heaven"
    (second / "dataset.json").write_text(json.dumps(renamed))
    with pytest.raises(RefusedError, match="different class names"):
        convert(ConvertSettings(sources=(first, second), output=tmp_path / "other"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["no-such"], "no-such"),
        (["a/data", "--where", "__import__('os')"], "functions are len"),
        (["a/data", "--where", "nothing > 3"], "has no column 'nothing'"),
        (["a/data", "--ids", "none.txt"], "none.txt"),
        (["a/data", "--join", "broken.jsonl"], "broken.jsonl: 1 rows cannot be read"),
        (["a/data", "--join", "other.csv"], "not a header with a column image_id"),
        (["a/data", "--join", "captions.jsonl"], "expected a list of texts"),
        (["a/data", "--join", "latin.csv"], "latin.csv"),
        (["a/data", "--join", "strangers.csv"], "no image id of the sources is in the files"),
        (["a/data", "--join-fields", "captions"], "--join-fields requires"),
        (["a/data", "--add-fields-from", "a/data"], "has no field that the sources lack"),
        (["a/data", "--max-classes", "0"], "--max-classes"),
        (["a/data", "--join", "fine.csv", "--join-fields", "caption"], "no row of --join has this field"),
        (["a/data", "--source-format", "tvs"], "no format 'tvs'"),
        (["a/data", "--number-ids", "--origin", "x"], "--number-ids --origin: for files of published features"),
        (["a/data", "--source-format", "hdf5"], "--source-format: for files of published features"),
        (["a/data", "--columns", "../x"], "--columns '../x': give a name"),
        (["a/data", "--shard-size", "99999999999999999999"], "--shard-size"),
    ],
)
def test_mistakes_are_named_without_a_traceback(
    source: Source,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    source("a")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.jsonl").write_text('{"image_id": "photo.001"}\n{"image_id"\n')
    (tmp_path / "other.csv").write_text("name,text\na,b\n")
    (tmp_path / "captions.jsonl").write_text('{"image_id": "photo.001", "captions": [1]}\n')
    (tmp_path / "latin.csv").write_bytes(b"image_id,caption\nphoto.001,caf\xe9\n")
    (tmp_path / "fine.csv").write_text("image_id,caption,score\nphoto.001,c,inf\n")
    (tmp_path / "strangers.csv").write_text("image_id,caption\nx,y\n")
    try:
        status = main(["convert", *arguments, "--output", "out"])
    except SystemExit as exit_:  # tyro's own refusal of a value
        status = exit_.code
    assert status in (1, 2)
    text = capsys.readouterr().err
    assert said in " ".join(text.split())
    assert "Traceback" not in text
    assert not (tmp_path / "out" / "dataset.json").exists()


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("link", "is one of the sources"),
        ("a/../a/data", "is one of the sources"),
        ("a/data/new", "is inside the source"),
        ("link/shards/new", "is inside the source"),
    ],
)
def test_a_source_is_not_written_to_by_any_path(source: Source, tmp_path: Path, output: str, said: str) -> None:
    data = source("a")
    (tmp_path / "link").symlink_to(data)
    with pytest.raises(ValueError, match=said):
        ConvertSettings(sources=(data,), output=tmp_path / output)


def test_csv_cells_that_are_no_json_numbers_remain_texts(source: Source, run: Run, tmp_path: Path) -> None:
    (tmp_path / "more.csv").write_text("image_id,a,b,c\nphoto.001,nan,inf,0.5\n")
    output = run("out", source("a"), join=(tmp_path / "more.csv",))
    meta = samples(output)["photo.001"].meta
    assert (meta["a"], meta["b"], meta["c"]) == ("nan", "inf", 0.5)


def test_folders_may_have_names_that_are_not_utf8(
    source: Source, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = os.fsdecode(b"a\xff")
    data = source("b").rename(tmp_path / name)
    output = run(os.fsdecode(b"out\xe9"), data)
    assert list(samples(output)) == ALL
    assert read_dataset(output).converted[0]["sources"][0]["name"].endswith("a\\xff")
    assert main(["convert", str(tmp_path / "none"), "--output", str(tmp_path / os.fsdecode(b"x\xe9"))]) == 2
    assert main(["status", str(output)]) == 0
    parquet = tmp_path / os.fsdecode(b"p\xfe.parquet")
    assert main(["export", str(output), "--to", "parquet", "--output", str(parquet)]) == 0
    assert parquet.read_bytes().startswith(b"PAR1")
    assert "Traceback" not in capsys.readouterr().err


def test_long_runs_are_the_same_bytes(source: Source, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    data = source("a", rows=30)
    mapped = files(run("mapped", data, shard_size=7, where="split == 'train'"))
    monkeypatch.setattr(dataset_source, "MAPPED", 0)
    assert files(run("read", data, shard_size=7, where="split == 'train'")) == mapped


@pytest.mark.parametrize("mapped", [0, 16])
def test_a_damaged_source_stops_and_names_the_shard(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mapped: int
) -> None:
    monkeypatch.setattr(dataset_source, "MAPPED", mapped)
    data = source("a")
    shard = data / "shards" / "000001.tar"
    content = bytearray(shard.read_bytes())
    content[2000] ^= 1
    shard.write_bytes(content)
    with pytest.raises(CorruptShardError, match=r"000001\.tar"):
        convert(ConvertSettings(sources=(data,), output=tmp_path / "out"))
    assert not list((tmp_path / "out" / "shards").glob("0*"))


def test_a_record_that_was_changed_is_refused(source: Source, tmp_path: Path) -> None:
    data = source("a")
    record = data / "shards" / "000001.json"
    record.write_bytes(
        record.read_bytes().replace(b'"samples":2', b'"samples":1').replace(b'"corrupt":1', b'"corrupt":2')
    )
    with pytest.raises(ShardError, match=r"records are not those|splits"):
        convert(ConvertSettings(sources=(data,), output=tmp_path / "out"))


def test_the_dry_run_says_what_a_run_does_and_writes_nothing(
    source: Source, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = source("a", rows=40)
    settings = ConvertSettings(sources=(data,), output=tmp_path / "out", shard_size=4, split=("val",), dry_run=True)
    with monkeypatch.context() as patched:
        patched.setattr(verified, "compare_sha256", lambda path, *_: pytest.fail(f"{path} was read whole"))
        assert convert(settings) == 0
    text = capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    assert "3 shards of 4 rows, 40 rows" in text
    promised = float(text.partition("more, ")[2].split()[0]) * 1000
    output = run("out", data, shard_size=4, split=("val",))
    assert read_dataset(output).totals.bytes == pytest.approx(promised, rel=0.2)
    assert "rows that are kept: 10 of 40" in text
    a_row = read_dataset(output).totals.bytes / 10
    assert float(text.partition("just now")[2].partition(": ")[2].split()[0].replace(",", "")) == pytest.approx(
        a_row, rel=0.2
    )
