"""What was written to a bucket is read like a folder: by training, verify, inspect and stats."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from vilbert.extractors.extractor import DetectorSettings
from vilbert.pipeline.cli import main
from vilbert.pipeline.extract.run import extract
from vilbert.pipeline.extract.settings import ExtractSettings
from vilbert.pipeline.shards.checks.verify import examine

from .s3_server import Proxy

pytest.importorskip("s3fs")
pytest.importorskip("moto")
Make = Callable[..., ExtractSettings]


@pytest.fixture(scope="module")
def undisturbed(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set that a run on a disk makes."""
    output = tmp_path_factory.mktemp("undisturbed") / "features"
    settings = ExtractSettings(
        manifest=manifest,
        output=output,
        detector=DetectorSettings(detector="shapes"),
        backend="local",
        shard_size=5,
        batch_size=4,
    )
    assert extract(settings) == 0
    return output


def test_training_reads_what_was_written(bucket: str, settings_for: Make, undisturbed: Path, tmp_path: Path) -> None:
    import numpy as np

    from vilbert.pipeline.train.data.corpus import Corpus
    from vilbert.pipeline.train.data.order import Order

    assert extract(settings_for("unused", output=f"{bucket}/features")) == 0
    remote = Corpus.open([f"{bucket}/features"], split="train", cache_dir=tmp_path / "cache")
    local = Corpus.open([str(undisturbed)], split="train")
    places = Order(local.shard_sizes, seed=0, shuffle=False).at(np.arange(19))
    for mine, other in zip(remote.read(places), local.read(places), strict=True):
        assert mine.image_id == other.image_id
        assert mine.features.tobytes() == other.features.tobytes()


@pytest.mark.slow
def test_verify_finds_in_a_bucket_what_it_finds_on_a_disk(bucket: str, proxy: Proxy, settings_for: Make) -> None:
    import s3fs

    url = f"{bucket}/features"
    assert extract(settings_for("unused", output=url)) == 0
    proxy.requests.clear()
    verdict = examine(url, deep=False, num_workers=1)
    assert verdict.findings == ()
    assert verdict.proven.startswith(f"{url}: complete: 5 shards, 19 samples + 3 failed rows = 22 rows; records, sizes")
    assert proxy.count("GET", ".tar") == 0
    assert "every sample parsed" in examine(url, deep=True, num_workers=1).proven
    assert proxy.count("GET", ".tar") == 5
    files, root = s3fs.S3FileSystem(), url.removeprefix("s3://")
    shard = bytearray(files.cat_file(f"{root}/shards/000001.tar"))
    shard[len(shard) // 2] ^= 1
    files.pipe_file(f"{root}/shards/000001.tar", bytes(shard))
    files.pipe_file(f"{root}/shards/000002.tar", b"cut")
    files.pipe_file(f"{root}/shards/notes.txt", b"mine")
    files.rm_file(f"{root}/shards/000003.tar")
    found = {(finding.code, finding.where) for finding in examine(url, deep=False, num_workers=1).findings}
    expected = {
        ("data-size", "shards/000002.tar"),
        ("data-missing", "shards/000003.tar"),
        ("foreign-file", "shards/notes.txt"),
    }
    assert found == expected
    found = {(finding.code, finding.where) for finding in examine(url, deep=True, num_workers=2).findings}
    assert found == expected | {("data-changed", "shards/000001.tar")}


def test_damage_is_named_by_its_url(bucket: str, settings_for: Make, capsys: pytest.CaptureFixture[str]) -> None:
    import s3fs

    url = f"{bucket}/features"
    assert extract(settings_for("unused", output=url)) == 0
    s3fs.S3FileSystem().pipe_file(f"{url}/shards/000000.tar", b"not a tar")
    assert main(["inspect", f"{url}:0"]) == 1
    assert f"{url}/shards/000000.tar" in capsys.readouterr().err
    assert main(["stats", f"{bucket}/nowhere"]) == 2
    assert f"{bucket}/nowhere: has no dataset.json" in capsys.readouterr().err


def test_the_commands_say_of_a_bucket_what_they_say_of_a_disk(
    bucket: str, settings_for: Make, undisturbed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"{bucket}/features"
    assert extract(settings_for("unused", output=url)) == 0
    for command in (["stats"], ["inspect"], ["inspect", ":7"], ["inspect", "#scene20"], ["verify", "--deep"]):
        name, *rest = command
        suffix = rest.pop() if rest and not rest[0].startswith("-") else ""
        said = []
        for place in (url, str(undisturbed)):
            assert main([name, f"{place}{suffix}", *rest]) == 0
            said.append(capsys.readouterr().out.replace(place, "PLACE"))
        assert said[0] == said[1]
        assert "PLACE" in said[0]
