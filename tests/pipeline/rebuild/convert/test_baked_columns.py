"""`vilbert convert --columns`: columns of a source become part of the samples."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vilbert.extractors.regions import Regions
from vilbert.pipeline.cli import main
from vilbert.pipeline.errors import CorruptShardError, RefusedError
from vilbert.pipeline.rebuild.convert.command import convert
from vilbert.pipeline.rebuild.convert.settings import ConvertSettings
from vilbert.pipeline.shards.canonical import encode_json
from vilbert.pipeline.shards.columns.info import Boxes
from vilbert.pipeline.shards.dataset import read_dataset
from vilbert.pipeline.shards.sample import Sample

from ...shards.columns.made import make_region_column
from .conftest import samples

Source = Callable[..., Path]
Run = Callable[..., Path]


@pytest.fixture
def columned(source: Source, tmp_path: Path) -> Callable[[str], Path]:
    """A function that writes a data set with the columns `second` [N, 3], `score`, `vector` [2] and `captions`."""

    def write(name: str) -> Path:
        data = source(name, image_id=lambda row: f"{name}{row}")
        found = samples(data)
        second = {key: np.full((len(one.regions), 3), ord(key[-1]), np.float32) for key, one in found.items()}
        kind = pa.list_(pa.list_(pa.float32()))
        table = {"image_id": list(second), "second": pa.array([array.tolist() for array in second.values()], kind)}
        pq.write_table(pa.table(table), tmp_path / f"{name}.parquet")
        np.save(tmp_path / f"{name}.npy", np.float32([[row, 0.1] for row in range(len(found))]))
        (tmp_path / f"{name}.txt").write_text("\n".join(found))
        rows = [{"image_id": key, "score": row / 4} for row, key in enumerate(list(found)[:-1])]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        rows = [{"image_id": key, "captions": [f"a {key}"]} for key in found]
        (tmp_path / f"{name}-captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
        for column, options in {
            "second": [f"{name}.parquet"],
            "score": [f"{name}.jsonl", "--missing", "skip"],
            "vector": [f"{name}.npy", "--ids", str(tmp_path / f"{name}.txt")],
            "captions": [f"{name}-captions.jsonl"],
        }.items():
            file, *rest = options
            assert main(["column", "add", str(data), str(tmp_path / file), "--column", column, *rest]) == 0
        return data

    return write


def test_columns_become_features_and_metadata(
    columned: Callable[[str], Path], run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    data = columned("a")
    before = samples(data)
    output = run("out", data, columns=("second", "score", "vector"), shard_size=3)
    after = samples(output)
    assert list(after) == list(before)
    for row, (key, sample) in enumerate(after.items()):
        old, new = before[key].regions.features, sample.regions.features
        assert new.dtype == np.float32
        np.testing.assert_array_equal(new[:, : old.shape[1]], old)
        np.testing.assert_array_equal(new[:, old.shape[1] :], ord(key[-1]))
        score = {} if row == len(after) - 1 else {"score": row / 4}
        assert sample.meta == {**before[key].meta, **score, "vector": [row, float(np.float32(0.1))]}
    info = read_dataset(output)
    assert info.feature_dim == read_dataset(data).feature_dim + 3
    (converted,) = info.fingerprint_fields["extractor"]["converted"]
    assert list(converted) == ["columns"]
    assert list(info.converted[0]["operations"]["columns"][0]) == ["score", "second", "vector"]
    assert "a/data: its columns are not copied: captions; --columns stores" in caplog.text
    assert len(samples(run("half", data, columns=("second",), feature_dtype="float16", max_boxes=2))) == len(after)


def test_metadata_of_columns_is_seen_by_where_and_leaves_the_fingerprint(
    columned: Callable[[str], Path], run: Run
) -> None:
    data, other = columned("a"), columned("b")
    output = run("out", data, other, columns=("score", "captions"), where="has('score') and score > 0.3")
    found = samples(output)
    assert [sample.meta["score"] for sample in found.values()] == 2 * [0.5, 0.75, 1.0, 1.25]
    assert all(sample.meta["captions"] == [f"a {key}"] for key, sample in found.items())
    assert read_dataset(output).fingerprint == read_dataset(data).fingerprint


def test_a_sample_without_vectors_is_a_failure(source: Source, run: Run, tmp_path: Path) -> None:
    data = source("a")
    found = samples(data)
    rows = [{"image_id": key, "v": [[1.0]] * len(one.regions)} for key, one in list(found.items())[1:]]
    kind = pa.list_(pa.list_(pa.float32()))
    columns = {"image_id": [row["image_id"] for row in rows], "v": pa.array([row["v"] for row in rows], kind)}
    pq.write_table(pa.table(columns), tmp_path / "v.parquet")
    assert main(["column", "add", str(data), str(tmp_path / "v.parquet"), "--column", "v", "--missing", "skip"]) == 0
    output = run("out", data, columns=("v",))
    assert read_dataset(output).totals.failures["no_column_value"] == 1
    assert list(samples(output)) == list(found)[1:]
    assert list(samples(run("chosen", data, columns=("v",), where="width > 0"))) == list(found)[1:]


def test_columns_that_cannot_be_had_are_refused_by_name(columned: Callable[[str], Path], tmp_path: Path) -> None:
    data = columned("a")
    for name, said in {
        "none": "has no such column; its columns: captions, score, second, vector",
        "image_id": "which a column cannot replace",
        "n_boxes": "which a column cannot replace",
        "Nö": "give a name",
    }.items():
        with pytest.raises(RefusedError, match=said):
            convert(ConvertSettings(sources=(data,), output=tmp_path / "out", columns=(name,)))
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_stale_and_damaged_columns_are_refused(columned: Callable[[str], Path], tmp_path: Path) -> None:
    data = columned("a")
    shard = data / "columns" / "second" / "shards" / "000001.tar"
    content = bytearray(shard.read_bytes())
    content[512 + 130] ^= 1
    shard.write_bytes(content)
    settings = ConvertSettings(sources=(data,), output=tmp_path / "out", columns=("second",))
    with pytest.raises(CorruptShardError, match=r"second/shards/000001\.tar: its SHA-256 .*; drop the column"):
        convert(settings)
    record = shard.with_suffix(".json")
    document: dict[str, Any] = json.loads(record.read_text())
    record.write_bytes(encode_json({**document, "sha256": hashlib.sha256(content).hexdigest()}) + b"\n")
    with pytest.raises(CorruptShardError, match=r"second/column\.json: its records_sha256 .*; drop the column"):
        convert(settings)
    with pytest.raises(RefusedError, match="is a file of published features, which has no columns"):
        convert(ConvertSettings(sources=(published(tmp_path),), output=tmp_path / "more", columns=("second",)))
    description = data / "columns" / "score" / "column.json"
    document = json.loads(description.read_text())
    description.write_text(json.dumps({**document, "base": "0" * 64}))
    with pytest.raises(RefusedError, match="of an older state of the data set"):
        convert(ConvertSettings(sources=(data,), output=tmp_path / "older", columns=("score",)))


@pytest.fixture
def with_regions(source: Source) -> Callable[..., Path]:
    """A function that writes a data set with a column of regions `other`, whose last sample of shard 1 is missing."""

    def write(name: str, boxes: Boxes = "own") -> Path:
        data = source(name, failed={3: "corrupt"})
        change = {} if boxes == "base" else {"change": halve_boxes}
        other = source(f"{name}-other", failed={3: "corrupt", 6: "no_regions"}, **change)
        make_region_column(data, other, "other", boxes=boxes)
        return data

    return write


def halve_boxes(row: int, sample: Sample) -> Sample:
    """Return a sample with the first region alone, of half the size."""
    arrays = {name: array[:1] for name, array in sample.regions.arrays().items()}
    boxes = arrays["boxes"] / 2
    size = {"width": sample.regions.width, "height": sample.regions.height}
    return dataclasses.replace(
        sample, regions=Regions(**{**arrays, "boxes": boxes}, **size), meta={**sample.meta, "captions": []}
    )


def test_regions_with_boxes_of_their_own_replace_those_of_the_samples(
    with_regions: Callable[..., Path], run: Run
) -> None:
    data = with_regions("a")
    before, column = samples(data), samples(data / "columns/other")
    output = run("out", data, columns=("other",))
    after = samples(output)
    assert read_dataset(output).totals.failures == {"corrupt": 1, "no_column_value": 1}
    assert list(after) == list(column)
    for key, sample in after.items():
        assert sample.meta == before[key].meta
        expected = column[key].regions.arrays()
        assert {name: it.tobytes() for name, it in sample.regions.arrays().items()} == {
            name: it.tobytes() for name, it in expected.items()
        }
    was, now = read_dataset(data / "columns/other"), read_dataset(output)
    assert now.fingerprint == was.fingerprint  # it fits what the column's detector extracts
    few = run("few", data, columns=("other",), where="num_boxes == 1")
    assert list(samples(few)) == list(after)


@pytest.mark.parametrize("columns", [(), ("other",)], ids=["none", "regions"])
def test_a_selection_is_kept_with_columns(
    with_regions: Callable[..., Path], run: Run, tmp_path: Path, columns: tuple[str, ...]
) -> None:
    data = with_regions("a")
    where = "has('other') and image_id != 'photo.001'"
    assert main(["select", str(data), "--where", where, "--output", str(tmp_path / "s.parquet")]) == 0
    output = run("out", data, columns=columns, selection=(tmp_path / "s.parquet",))
    assert list(samples(output)) == [f"photo.{row:03}" for row in (0, 2, 4, 5, 7, 8, 9)]
    assert "no_column_value" not in read_dataset(output).totals.failures


def test_regions_at_the_boxes_of_the_samples_give_features(
    with_regions: Callable[..., Path], run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    data = with_regions("a", boxes="base")
    before = samples(data)
    for key, sample in samples(run("out", data, columns=("other",))).items():
        old = before[key].regions
        np.testing.assert_array_equal(sample.regions.features, np.concatenate([old.features, old.features], axis=1))
        np.testing.assert_array_equal(sample.regions.boxes, old.boxes)
    assert "not copied: labels of other (--add-fields-from" in caplog.text
    bare = run("bare", data, drop_fields=("objects", "classes"))
    labelled = samples(run("labelled", bare, add_fields_from=data / "columns/other"))
    for key, sample in labelled.items():
        np.testing.assert_array_equal(sample.regions.class_probs, before[key].regions.class_probs)


def test_features_at_other_boxes_are_not_joined(with_regions: Callable[..., Path], tmp_path: Path) -> None:
    data = with_regions("a")
    found = samples(data)
    kind = pa.list_(pa.list_(pa.float32()))
    values = pa.array([[[1.0]] * len(one.regions) for one in found.values()], kind)
    pq.write_table(pa.table({"image_id": list(found), "v": values}), tmp_path / "v.parquet")
    assert main(["column", "add", str(data), str(tmp_path / "v.parquet"), "--column", "v"]) == 0
    with pytest.raises(RefusedError, match="column other has boxes of its own and replaces the regions"):
        convert(ConvertSettings(sources=(data,), output=tmp_path / "out", columns=("v", "other")))


def published(folder: Path) -> Path:
    """Return a file of published features, of one image."""
    path = folder / "features.npy.d"
    path.mkdir()
    regions = {"features": np.ones((1, 4), np.float32), "bbox": np.float32([[0, 0, 2, 2]])}
    np.save(path / "7.npy", {**regions, "image_width": 4, "image_height": 4, "num_boxes": 1})  # type: ignore[arg-type]
    return path
