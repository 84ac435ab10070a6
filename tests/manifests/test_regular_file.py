"""Pipes among the files of a folder: none is waited for, and what they stand for is counted or named in the message."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vilbert.manifests.build import build_manifest, report_path
from vilbert.manifests.manifest import Manifest
from vilbert.manifests.record import ManifestError
from vilbert.manifests.settings import ManifestSettings
from vilbert.untrusted.documents import parse_json


@pytest.fixture(autouse=True)
def time_limit(tmp_path: Path) -> Iterator[None]:
    """End every pipe after a while, so that a reader that waits for one goes on and its test fails."""
    done = threading.Event()

    def end_pipes() -> None:
        over = done.wait(20)
        while not over:
            for pipe in filter(Path.is_fifo, tmp_path.rglob("*")):
                with contextlib.suppress(OSError):  # nobody reads it
                    os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
            over = done.wait(0.1)

    thread = threading.Thread(target=end_pipes)
    thread.start()
    yield
    done.set()
    thread.join()


def make(root: Path, pipe: str, *files: str) -> Path:
    for name in (pipe, *files):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if name == pipe:
            os.mkfifo(root / name)
        else:
            (root / name).write_bytes(b"x")
    return root


def build(tmp_path: Path, source: Path, **options: Any) -> tuple[list[str], dict[str, int]]:
    """Return the ids of the rows, and what was counted."""
    output = tmp_path / "m.parquet"
    assert build_manifest(ManifestSettings(sources=(source,), output=output, **options)) == 0
    manifest, report = Manifest.open(output), parse_json(report_path(output).read_bytes())
    counts = {name: issue["count"] for side in ("left_out", "kept") for name, issue in report[side].items()}
    return [record.image_id for record in manifest.read(0, manifest.rows)], counts


@pytest.mark.parametrize("name", ["a.txt", "a.json", "a.caption"])
def test_a_caption_file(tmp_path: Path, name: str) -> None:
    ids, counts = build(tmp_path, make(tmp_path / "images", name, "a.jpg"))
    assert (ids, counts) == (["a"], {"unreadable-caption": 1})


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv", "metadata.parquet"])
def test_a_metadata_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(ManifestError, match=rf"{name}.*not a regular file"):
        build(tmp_path, make(tmp_path / "images", name, "a.jpg"))


@pytest.mark.parametrize("name", ["0.json", "0.txt", "1.jpg"])
def test_a_loose_file_of_a_shard(tmp_path: Path, name: str) -> None:
    shards = make(tmp_path / "shards", f"00000/{name}", "00000/0.jpg", "00000_stats.json")
    (shards / "00000_stats.json").write_text("{}")
    assert build(tmp_path, shards) == (["0"], {"unreadable-member": 1, "no-caption": 1})


@pytest.mark.parametrize("name", ["00000.parquet", "00000_stats.json", "00000.tar"])
def test_a_part_of_a_shard(tmp_path: Path, name: str) -> None:
    files = ["00000_stats.json"] if name == "00000.tar" else ["00000/0.jpg", "00000_stats.json"]
    shards = make(tmp_path / "shards", name, *(file for file in files if file != name))
    with pytest.raises(ManifestError, match=rf"{name}.*not a regular file"):
        build(tmp_path, shards)


def test_a_parquet_file_of_a_folder(tmp_path: Path) -> None:
    tables = make(tmp_path / "tables", "b.parquet")
    pq.write_table(pa.table({"url": ["http://x/1"]}), tables / "a.parquet")
    with pytest.raises(ManifestError, match=r"b\.parquet.*not a regular file"):
        build(tmp_path, tables)


def test_given_boxes(tmp_path: Path) -> None:
    images = make(tmp_path / "images", "boxes.jsonl", "a.jpg")
    with pytest.raises(ManifestError, match=r"--given-boxes .*boxes\.jsonl.*not a regular file"):
        build(tmp_path, images, given_boxes=images / "boxes.jsonl")
