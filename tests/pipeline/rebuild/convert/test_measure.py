"""The dry run measures the operation that the run would do: raw copies are not decoded, and shards are written."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vilbert.pipeline.rebuild.convert import measure
from vilbert.pipeline.rebuild.convert.command import convert
from vilbert.pipeline.rebuild.convert.settings import ConvertSettings
from vilbert.pipeline.shards.storage.tar_store import TarReader
from vilbert.pipeline.shards.storage.writer import ShardWriter

Source = Callable[..., Path]
DECODED_FOR_BYTES = 3


def rate(capsys: pytest.CaptureFixture[str], **settings: Any) -> float:
    assert convert(ConvertSettings(**settings, dry_run=True)) == 0
    return float(capsys.readouterr().out.partition("a row")[2].split("rows/s")[0].split(",")[-1])


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Places of the samples that were decoded."""
    places: list[int] = []
    decode = TarReader.__getitem__
    monkeypatch.setattr(measure, "SAMPLE_ROWS", DECODED_FOR_BYTES)
    monkeypatch.setattr(TarReader, "__getitem__", lambda self, at: (places.append(at), decode(self, at))[1])
    return places


@pytest.mark.parametrize(("options", "fewest", "most"), [({}, 3, 3), ({"max_boxes": 1}, 30, 99)])
def test_samples_are_decoded_only_where_the_run_decodes_them(
    source: Source,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    decoded: list[int],
    options: dict[str, int],
    fewest: int,
    most: int,
) -> None:
    rate(capsys, sources=(source("a", rows=40, failed={}),), output=tmp_path / "out", shard_size=20, **options)
    assert fewest <= len(decoded) <= most


def test_writing_and_hashing_count(
    source: Source, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = source("a", rows=40, failed={})
    settings = {"sources": (data,), "output": tmp_path / "out", "shard_size": 20}
    commit, hash_part = ShardWriter.commit, measure.hash_part

    def slowly(act: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: (time.sleep(0.2), act(*args, **kwargs))[1]

    with monkeypatch.context() as patched:
        patched.setattr(ShardWriter, "commit", slowly(commit))
        assert rate(capsys, **settings) <= 40 / 0.2  # both shards are written at the same time
    with monkeypatch.context() as patched:
        patched.setattr(measure, "hash_part", slowly(hash_part))
        assert rate(capsys, **settings) <= 40 / 0.2
    assert not (tmp_path / "out").exists()


def test_a_stretch_of_a_large_shard_is_enough(
    source: Source, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "TRIAL_ROWS", 4)
    data = source("a", rows=40)
    settings = ConvertSettings(sources=(data,), output=tmp_path / "out", split=("val",), shard_size=8, dry_run=True)
    assert convert(settings) == 0
    assert "by 6 rows that one worker here converted just now" in capsys.readouterr().out  # 4 and the 2 of the last
