"""`vilbert extract --add-to`: a second detector at the boxes of a data set, whose own files stay the same."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vilbert.pipeline.cli import main
from vilbert.pipeline.extract.base_rows import KeptImages
from vilbert.pipeline.shards.columns.info import read_column
from vilbert.pipeline.shards.columns.shard import ColumnShard, open_column_shard
from vilbert.pipeline.shards.location.folder import LocalFolder
from vilbert.pipeline.shards.open_dataset import open_dataset
from vilbert.pipeline.shards.sample import Sample
from vilbert.pipeline.train.data.corpus import Corpus

from ...extractors.encoders.tiny_encoders import save_encoder
from .conftest import BROKEN, SCENES, Harm, contents

SAMPLES = SCENES - len(BROKEN)
OWN = ("--boxes-from", "own", "--boxes", "4")
"""A column of the four regions that the detector selects itself."""


@pytest.fixture(scope="module")
def kept(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set that keeps its images; three rows have no sample."""
    folder = tmp_path_factory.mktemp("kept") / "features"
    options = ["--detector", "shapes", "--backend", "local", "--shard-size", "5", "--keep-images"]
    assert main(["extract", str(manifest), "--output", str(folder), *options]) == 0
    return folder


@pytest.fixture
def base(kept: Path, tmp_path: Path) -> Path:
    """A copy of that data set."""
    return Path(shutil.copytree(kept, tmp_path / "base"))


def add_column(base: Path, *options: str, column: str = "second") -> int:
    arguments = ["--add-to", str(base), "--column", column, "--detector", "shapes", "--backend", "local"]
    return main(["extract", *arguments, *options])


add = add_column


def of_column(base: Path, name: str = "second") -> dict[str, bytes]:
    """Return the files of a column that say what it holds."""
    found = contents(base / "columns" / name)
    return {file: data for file, data in found.items() if not file.startswith(".")}


def features(base: Path, name: str = "second") -> dict[str, Any]:
    info = read_column(LocalFolder(base / "columns" / name))
    assert info is not None
    values: dict[str, Any] = {}
    for shard in range(info.shards):
        with ColumnShard(base / f"columns/{name}/shards/{shard:06}.tar", name=name, member="npy") as opened:
            values |= {key: opened[key] for key in opened.keys}
    return values


def test_the_same_detector_has_the_same_features_at_the_boxes_of_the_base(base: Path) -> None:
    before = contents(base)
    assert add(base) == 0
    assert {name: data for name, data in contents(base).items() if not name.startswith("columns/")} == before
    found = features(base)
    with open_dataset(base) as samples:
        assert list(found) == [sample.key for sample in samples]
        for sample in samples:
            stored = found[sample.key]
            assert stored.shape == sample.regions.features.shape
            # The batches differ, in which images are resized and pooled together.
            assert np.allclose(stored, sample.regions.features, atol=0.02 * float(np.abs(stored).max()))
    info = read_column(LocalFolder(base / "columns/second"))
    assert info is not None
    assert (info.samples, info.missing, info.of_regions) == (SAMPLES, 0, sample.regions.features.shape[1])
    assert main(["verify", str(base), "--deep"]) == 0
    corpus = Corpus.open(base, split=None, features=("base", "second"))
    assert corpus.feature_dim == 2 * sample.regions.features.shape[1]


def regions(base: Path, name: str = "second") -> dict[str, Sample]:
    """Return what a column of regions holds, by key."""
    info = read_column(LocalFolder(base / "columns" / name))
    assert info is not None
    found: dict[str, Sample] = {}
    for shard in range(info.shards):
        with open_column_shard(LocalFolder(base / "columns" / name), info, shard) as opened:
            found |= {key: opened[key] for key in opened.keys}
    return found


@pytest.mark.parametrize("encoder", [None, "dinov2"])
def test_boxes_of_its_own_are_those_that_extract_selects(
    base: Path, manifest: Path, tmp_path: Path, encoder: str | None
) -> None:
    before = contents(base)
    more = () if encoder is None else ("--encoder", str(save_encoder(encoder, tmp_path / encoder)))
    assert add(base, *OWN, *more) == 0
    assert {name: data for name, data in contents(base).items() if not name.startswith("columns/")} == before
    assert main(["verify", str(base), "--deep"]) == 0
    other = tmp_path / "other"
    options = ["--detector", "shapes", "--backend", "local", "--shard-size", "5", "--boxes", "4"]
    assert main(["extract", str(manifest), "--output", str(other), *options, *more]) == 0
    found = regions(base)
    with open_dataset(other) as samples, open_dataset(base / "columns/second") as column:
        assert list(found) == [sample.key for sample in samples] == [sample.key for sample in column]
        for sample in samples:
            ours, theirs = found[sample.key].regions, sample.regions
            assert {name: it.tobytes() for name, it in ours.arrays().items()} == {
                name: it.tobytes() for name, it in theirs.arrays().items()
            }
            assert set(found[sample.key].meta) == {"image_id", "split", "sha256"}
    info = read_column(LocalFolder(base / "columns/second"))
    assert info is not None
    assert (info.boxes, info.of_regions, info.samples, info.missing) == ("own", None, SAMPLES, 0)


def test_labels_at_the_boxes_of_the_base(base: Path) -> None:
    assert add(base, "--labels", "--top-classes", "3") == 0
    assert main(["verify", str(base), "--deep"]) == 0
    found = regions(base)
    with open_dataset(base) as samples:
        for sample in samples:
            column = found[sample.key].regions
            assert np.array_equal(column.boxes, sample.regions.boxes)
            assert column.class_ids is not None
            assert sample.regions.class_ids is not None
            assert column.class_ids.shape == (len(sample.regions), 3)
            assert np.array_equal(column.class_ids[:, 0], sample.regions.class_ids[:, 0])
    assert add(base) == 2  # the column has labels
    assert add(base, "--boxes-from", "own") == 2
    assert add(base, column="plain") == 0
    assert list(features(base, "plain")) == list(found)


def test_options_that_do_not_go_together(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        add(base, "--boxes", "4")
    assert "--boxes-from own" in capsys.readouterr().err
    assert add(base, "--labels", "--detector", "grid", "--weights", "random") == 2
    assert "names no classes" in capsys.readouterr().err
    assert not (base / "columns/second/column.json").exists()


def test_a_base_of_int8_features_takes_a_column(kept: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    assert main(["convert", str(kept), "--output", str(small), "--feature-dtype", "int8"]) == 0
    before = contents(small)
    assert add(small) == 0
    assert {name: data for name, data in contents(small).items() if not name.startswith("columns/")} == before
    assert main(["verify", str(small), "--deep"]) == 0
    found = features(small)
    with open_dataset(small) as samples:
        assert list(found) == [sample.key for sample in samples]
        for sample in samples:
            assert sample.small is not None
            assert found[sample.key].dtype == np.float16
            assert np.allclose(found[sample.key], sample.regions.features, atol=0.03 * float(found[sample.key].max()))
    assert Corpus.open(small, split=None, features=("base", "second")).feature_dim == 2 * found[sample.key].shape[1]


def test_images_that_are_not_kept_are_read_from_where_they_were(base: Path, manifest: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    options = ["--detector", "shapes", "--backend", "local", "--shard-size", "5"]
    assert main(["extract", str(manifest), "--output", str(other), *options]) == 0
    assert add(other) == add(base) == 0
    for file in ("shards/000000.tar", "shards/000004.tar"):
        assert of_column(other)[file] == of_column(base)[file]


def test_a_second_run_changes_no_byte_and_other_settings_are_refused(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert add(base) == 0
    first = of_column(base)
    assert add(base) == 0
    assert of_column(base) == first
    assert add(base, "--batch-size", "3") == 2
    assert "batch_size" in capsys.readouterr().err
    document = base / "columns/second/column.json"
    document.write_text(json.dumps({**json.loads(document.read_text()), "base": "0" * 64}))
    assert add(base) == 2
    assert "vilbert column drop" in capsys.readouterr().err
    assert main(["column", "drop", str(base), "--column", "second"]) == 0
    assert not (base / "columns/second").exists()


@pytest.mark.parametrize("options", [(), OWN], ids=["features", "own boxes"])
def test_a_killed_run_is_resumed_to_the_same_bytes(
    base: Path, harm: Harm, tmp_path: Path, options: tuple[str, ...]
) -> None:
    undisturbed = Path(shutil.copytree(base, tmp_path / "undisturbed"))
    assert add(undisturbed, *options) == 0
    harm.by(17, "decode", "kill")
    command = ["--add-to", base, "--column", "second", "--detector", "shapes", "--backend", "local", *options]
    status, _ = harm.run(*command)
    assert status == -signal.SIGKILL
    assert not (base / "columns/second/column.json").exists()
    assert main(["verify", str(base)]) == 1
    assert add(base, *options) == 0
    assert of_column(base) == of_column(undisturbed)


def test_what_cannot_be(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert add(base, column="features") == 2
    assert add(tmp_path / "nowhere") == 2
    assert "no such folder" in capsys.readouterr().err
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("options", [(), OWN], ids=["features", "own boxes"])
def test_failed_samples_are_tried_again_and_others_are_kept(
    base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    def add(base: Path, *more: str) -> int:
        return add_column(base, *options, *more)

    assert add(base, "--retry-failed") == 2
    assert "run without it first" in capsys.readouterr().err
    undisturbed = base.parent / "undisturbed"
    shutil.copytree(base, undisturbed)
    assert add(undisturbed) == 0
    read = KeptImages.read
    with monkeypatch.context() as patch:
        patch.setattr(KeptImages, "read", lambda self, row, key: b"" if row in (1, 6) else read(self, row, key))
        assert add(base) == 0
    info = read_column(LocalFolder(base / "columns/second"))
    assert info is not None
    assert (info.samples, info.missing) == (SAMPLES - 2, 2)
    untouched = (base / "columns/second/shards/000003.tar").stat().st_mtime_ns

    before = of_column(base)
    assert add(base, "--dry-run", "--retry-failed") == 0
    assert "to try again: 2 failed rows" in capsys.readouterr().out
    assert of_column(base) == before
    assert add(base, "--retry-failed", "timeout") == 0  # nothing failed for that reason
    assert of_column(base) == before
    assert add(base, "--retry-failed") == 0
    assert main(["verify", str(base), "--deep"]) == 0
    assert (base / "columns/second/shards/000003.tar").stat().st_mtime_ns == untouched
    info = read_column(LocalFolder(base / "columns/second"))
    assert info is not None
    assert (info.samples, info.missing) == (SAMPLES, 0)
    if options:
        found, expected = (
            {key: sample.regions.boxes for key, sample in regions(it).items()} for it in (base, undisturbed)
        )
    else:
        found, expected = features(base), features(undisturbed)
    assert list(found) == list(expected)
    for key, value in expected.items():
        assert np.allclose(found[key], value, atol=0.02 * float(np.abs(value).max()))


@pytest.mark.parametrize("options", [(), OWN], ids=["features", "own boxes"])
def test_a_dry_run_writes_nothing(base: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...]) -> None:
    before = contents(base)
    assert add(base, "--dry-run", *options) == 0
    assert contents(base) == before
    assert not (base / "columns").exists()
    assert f"5 shards of 5 rows, {SCENES} rows" in capsys.readouterr().out
