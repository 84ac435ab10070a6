"""`--one-split-per-shard`: where shards begin, and what other tools and a resumed run see of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from vilbert.manifests.build import ManifestSettings, build_manifest
from vilbert.manifests.manifest import Manifest, ManifestWriter
from vilbert.manifests.record import ImageRecord
from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.extract.run import extract
from vilbert.pipeline.extract.settings import ExtractSettings
from vilbert.pipeline.extract.split_starts import split_starts
from vilbert.pipeline.shards.checks.verify import examine
from vilbert.pipeline.shards.dataset import read_dataset
from vilbert.pipeline.shards.record import read_records

from .conftest import contents

Make = Callable[..., ExtractSettings]


def write_manifest(path: Path, splits: list[str]) -> Manifest:
    rows = [ImageRecord(image_id=f"i{row}", uri="none", split=split) for row, split in enumerate(splits)]
    with ManifestWriter(path) as writer:
        writer.write(rows)
        return writer.commit()


@pytest.mark.parametrize(
    ("splits", "rows", "starts"),
    [
        ("aaaabbbb", 8, None),  # the same shards as without the option
        ("aaaaabbb", 8, (0, 4, 5)),
        ("aaaaabbb", 5, None),
        ("aaabbbcc", 8, (0, 3, 6)),
        ("aaaaaaaaa", 9, None),
    ],
)
def test_a_shard_ends_where_the_split_changes(
    tmp_path: Path, splits: str, rows: int, starts: tuple[int, ...] | None
) -> None:
    assert split_starts(write_manifest(tmp_path / "m.parquet", list(splits)), rows, 4) == starts


def test_runs_go_on_over_row_groups(tmp_path: Path) -> None:
    splits = ["train"] * 40_000 + ["val"] * 5_000
    found = split_starts(write_manifest(tmp_path / "m.parquet", splits), 45_000, 15_000)
    assert found == (0, 15_000, 30_000, 40_000)


def test_a_manifest_that_mixes_its_splits_is_refused(tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path / "m.parquet", ["train", "val"] * 50)
    with pytest.raises(RefusedError, match="--group-by-split"):
        split_starts(manifest, 100, 10)


def test_load_dataset_sees_the_splits_and_a_resumed_run_writes_the_same(
    settings_for: Make,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets", reason="pip install datasets")
    numbers = (0, 1, 2, 3, 4, 5, 6, 7)
    lines = [f"scene{i:02d},scene{i:02d}.png,scene {i},{'val' if i % 3 == 1 else 'train'}" for i in numbers]
    (tmp_path / "list.csv").write_text("\n".join(["image_id,path,caption,split", *lines]) + "\n")
    manifest = tmp_path / "m.parquet"
    listed = ManifestSettings(sources=(tmp_path / "list.csv",), images=images, output=manifest, group_by_split=True)
    assert build_manifest(listed) == 0
    opened = Manifest.open(manifest)
    assert [row.split for row in opened.read(0, 8)] == ["train"] * 5 + ["val"] * 3
    assert [row.image_id for row in opened.read(0, 8)][5:] == ["scene01", "scene04", "scene07"]

    settings = settings_for("split", manifest=manifest, shard_size=3, one_split_per_shard=True)
    assert extract(replace(settings, dry_run=True)) == 0
    assert "3 shards of 3 rows, 8 rows" in capsys.readouterr().out
    assert extract(settings) == 0
    info = read_dataset(settings.output)
    assert (info.shard_starts, info.format) == ((0, 3, 5), 2)
    assert all(len(record.splits) == 1 for record in read_records(settings.output).values())
    assert examine(settings.output, deep=True, manifest=manifest).findings == ()

    loaded = datasets.load_dataset(str(settings.output), cache_dir=str(tmp_path / "cache"))
    assert {name: len(rows) for name, rows in loaded.items()} == {"train": 4, "val": 3}  # scene 3 is broken
    before = contents(settings.output)
    for name in ("000001.json", "000002.tar"):
        (settings.output / "shards" / name).unlink()
    assert extract(settings) == 0
    assert contents(settings.output) == before
    with pytest.raises(RefusedError, match="shard_starts"):
        extract(replace(settings, one_split_per_shard=False))
