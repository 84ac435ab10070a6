"""Kills, interrupts and workers leave no mark in what is written."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest

from vilbert.pipeline.cli import main
from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.rebuild.convert.command import convert
from vilbert.pipeline.rebuild.convert.settings import ConvertSettings
from vilbert.pipeline.shards.checks.verify import examine
from vilbert.pipeline.shards.storage.writer import ShardWriter

from ...shards.columns.made import make_region_column
from .conftest import files
from .test_published import write_tsv

OPERATIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "chosen": {"where": "split == 'train'", "max_boxes": 3, "feature_dtype": "float32"},
    "shuffled": {"shuffle_seed": 1, "one_split_per_shard": True, "format": "lmdb"},
    "joined": {"join": True, "deduplicate": "image"},
}


def lists(source: Callable[..., Path], folder: Path) -> tuple[tuple[Path, ...], dict[str, Any]]:
    (folder / "ids.txt").write_text("\n".join(f"photo.{row:03}" for row in range(8)))
    options = {"ids": folder / "ids.txt", "split": ("train",), "min_score": 0.2, "max_classes": 2}
    return (source("a"),), options


def fewer_fields(source: Callable[..., Path], folder: Path) -> tuple[tuple[Path, ...], dict[str, Any]]:
    data = source("a")
    return (data, data), {"drop_fields": ("objects", "classes", "attributes", "images"), "deduplicate": "id"}


def more_fields(source: Callable[..., Path], folder: Path) -> tuple[tuple[Path, ...], dict[str, Any]]:
    data = source("a")
    assert convert(ConvertSettings(sources=(data,), output=folder / "bare", drop_fields=("classes",))) == 0
    return (folder / "bare",), {"add_fields_from": data}


def columns(source: Callable[..., Path], folder: Path) -> tuple[tuple[Path, ...], dict[str, Any]]:
    data = source("a")
    rows = [f'{{"image_id": "photo.{row:03}", "score": {row}}}' for row in range(10)]
    (folder / "score.jsonl").write_text("\n".join(rows))
    assert main(["column", "add", str(data), str(folder / "score.jsonl"), "--column", "score"]) == 0
    return (data,), {"columns": ("score",), "where": "score > 0"}


def regions(source: Callable[..., Path], folder: Path) -> tuple[tuple[Path, ...], dict[str, Any]]:
    data = source("a")
    make_region_column(data, source("b"), "other")
    return (data,), {"columns": ("other",), "where": "num_boxes > 0"}


def storage(source: Callable[..., Path], folder: Path) -> tuple[tuple[Path, ...], dict[str, Any]]:
    return (source("a", storage="lmdb"),), {"format": "lmdb"}


def published(source: Callable[..., Path], folder: Path) -> tuple[tuple[Path, ...], dict[str, Any]]:
    write_tsv(folder / "a.tsv", range(9))
    return (folder / "a.tsv",), {"feature_dtype": "float16"}


@pytest.mark.parametrize("prepare", [lists, fewer_fields, more_fields, columns, regions, storage, published])
def test_every_operation_is_resumed_to_the_same_bytes(
    source: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prepare: Callable[..., Any]
) -> None:
    sources, options = prepare(source, tmp_path)

    def into(name: str) -> int:
        return convert(ConvertSettings(sources=sources, output=tmp_path / name, shard_size=2, **options))

    assert into("whole") == 0
    commit, kills = ShardWriter.commit, 0
    while True:
        with monkeypatch.context() as patched:
            patched.setattr(ShardWriter, "commit", interrupted_second(commit))
            if into("killed") == 0:
                break
        kills += 1
        assert kills < 20
    assert kills >= 1
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
    assert examine(tmp_path / "killed", deep=True).findings == ()


def settings_for(sources: tuple[Path, ...], output: Path, name: str) -> ConvertSettings:
    options = dict(OPERATIONS[name])
    if options.pop("join", False):
        joined = output.parent / "new.jsonl"
        joined.write_text('{"image_id": "a3", "captions": ["new"]}\n')
        options["join"] = (joined,)
    return ConvertSettings(sources=sources, output=output, shard_size=3, **options)


def interrupted_second(commit: Callable[..., Any]) -> Callable[..., Any]:
    """Return a `commit` that makes one shard part of the data set and is interrupted at the next."""
    calls = itertools.count()

    def interrupted(writer: ShardWriter, **options: Any) -> Any:
        if next(calls) == 1:
            raise KeyboardInterrupt
        return commit(writer, **options)

    return interrupted


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_run_that_is_killed_at_every_shard_and_step_ends_with_the_same_bytes(
    source: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    sources = tuple(source(one, image_id=lambda row, one=one: f"{one}{row}") for one in "ab")
    assert convert(settings_for(sources, tmp_path / "whole", name)) == 0
    expected = files(tmp_path / "whole")
    killed = settings_for(sources, tmp_path / "killed", name)
    commit = ShardWriter.commit

    for number in itertools.count():
        with monkeypatch.context() as patched:
            patched.setattr(ShardWriter, "commit", interrupted_second(commit))
            status = convert(killed)
        if status == 0:
            break
        assert status == 130
        assert number < 20
    assert number >= 1  # two shards are in work at a time: a kill may leave one of them whole
    assert files(tmp_path / "killed") == expected
    assert examine(tmp_path / "killed", deep=True).findings == ()


def test_a_run_resumes_without_its_plan(source: Callable[..., Path], tmp_path: Path) -> None:
    data = source("a")
    settings = settings_for((data,), tmp_path / "out", "chosen")
    assert convert(settings) == 0
    expected = files(tmp_path / "out")
    (tmp_path / "out" / "shards" / "000001.json").unlink()
    assert convert(settings) == 0
    assert files(tmp_path / "out") == expected


def test_an_append_that_was_interrupted_is_resumed_by_the_same_command(
    source: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, killed = source("whole"), source("killed")
    more = source("b", image_id=str)
    (tmp_path / "same").mkdir()

    def append_to(data: Path) -> int:
        return convert(ConvertSettings(sources=(more,), output=data, append=True, shard_size=4))

    assert append_to(whole) == 0
    with monkeypatch.context() as patched:
        patched.setattr(ShardWriter, "commit", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        assert append_to(killed) == 130
    assert main(["verify", str(killed)]) == 1
    for name in ("rows.bin", "plan.json"):
        (killed / ".plan" / name).unlink()  # the plan is made again, with the keys of the first shards
    assert append_to(killed) == 0
    assert examine(killed, deep=True).findings == ()
    shards = [name for name in files(whole) if name.startswith(("shards", "failures"))]
    assert all(files(killed)[name].count(b"") and name in files(killed) for name in shards)
    assert len(files(killed)) == len(files(whole))


@pytest.mark.slow
def test_ray_workers_write_the_same_bytes(source: Callable[..., Path], tmp_path: Path) -> None:
    sources = tuple(source(one, image_id=lambda row, one=one: f"{one}{row}", rows=30) for one in "ab")
    for name in ("chosen", "joined"):
        local = settings_for(sources, tmp_path / f"local-{name}", name)
        assert convert(local) == 0
        arguments = [*map(str, sources), "--output", str(tmp_path / f"ray-{name}"), "--shard-size", "3"]
        options = {
            "chosen": ["--where", "split == 'train'", "--max-boxes", "3", "--feature-dtype", "float32"],
            "joined": ["--join", str(tmp_path / "new.jsonl"), "--deduplicate", "image"],
        }[name]
        assert main(["convert", *arguments, *options, "--backend", "ray", "--workers", "2"]) == 0
        assert files(tmp_path / f"ray-{name}") == files(tmp_path / f"local-{name}")


def test_a_data_set_behind_a_url(source: Callable[..., Path], tmp_path: Path) -> None:
    local, back = tmp_path / "local", tmp_path / "back"
    assert convert(settings_for((source("a"),), local, "chosen")) == 0
    url = f"memory://{tmp_path.name}/data"
    arguments = ["--shard-size", "3", "--where", "split == 'train'", "--max-boxes", "3", "--feature-dtype", "float32"]
    assert main(["convert", str(tmp_path / "a" / "data"), "--output", url, *arguments]) == 0
    store = fsspec.filesystem("memory")
    uploaded = {name.partition("/data/")[2] for name in store.find(url)}
    assert not any(name.startswith(".plan") for name in uploaded)
    for name, content in files(local).items():
        # Side files of other tools are written to a folder on a disk alone.
        if name.startswith(("shards", "failures", "dataset")) and not name.endswith(".idx"):
            assert store.cat(f"{url}/{name}") == content
    assert main(["convert", url, "--output", str(back), "--shard-size", "3"]) == 0
    assert examine(back, deep=True).findings == ()
    with pytest.raises(RefusedError, match=r"has no dataset\.json; published features are read from files on this"):
        convert(ConvertSettings(sources=(f"memory://{tmp_path.name}/none",), output=back))
