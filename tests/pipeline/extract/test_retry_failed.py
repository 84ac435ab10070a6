"""`--retry-failed`: the failed rows are tried again, the others are kept as they are."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from vilbert.pipeline.cli import main
from vilbert.pipeline.jobs.retries import RETRY_FILE
from vilbert.pipeline.shards.dataset import read_dataset

from .conftest import Harm, contents
from .s3_server import objects

SCENES = 20
DAMAGED = {2: b"", 6: b"<html>not found</html>", 7: b"", 13: None, 19: b""}
"""Scene -> what stands in its file at first."""


@pytest.fixture
def scenes(images: Path, tmp_path: Path) -> Path:
    """Images of which some are damaged, beside whole ones of the same names in `whole`, and their manifest."""
    folder = tmp_path / "scenes"
    folder.mkdir()
    whole = [path for path in sorted(images.glob("scene*.png")) if path.stat().st_size > 1000]
    for scene in range(SCENES):
        shutil.copy(whole[scene % len(whole)], folder / f"scene{scene:02d}.png")
    lines = ["image_id,path", *(f"s{scene},scene{scene:02d}.png" for scene in range(SCENES))]
    (folder / "list.csv").write_text("\n".join(lines) + "\n")
    manifest = str(folder / "manifest.parquet")
    assert main(["manifest", str(folder / "list.csv"), "--images", str(folder), "--output", manifest]) == 0
    shutil.copytree(folder, folder / "whole")
    for scene, content in DAMAGED.items():
        path = folder / f"scene{scene:02d}.png"
        path.unlink()
        if content is not None:
            path.write_bytes(content)
    return folder


def repair(scenes: Path, *which: int) -> None:
    for scene in which:
        shutil.copy(scenes / "whole" / f"scene{scene:02d}.png", scenes)


def arguments(scenes: Path, output: Path | str, *options: str) -> list[str]:
    return [
        "extract", str(scenes / "manifest.parquet"), "--output", str(output), "--detector", "shapes",
        "--shard-size", "5", "--batch-size", "4", "--backend", "local", *options,
    ]  # fmt: skip


def failures(output: Path) -> dict[int, str]:
    lines = [line for path in sorted((output / "failures").iterdir()) for line in path.read_text().splitlines()]
    return {row["row"]: row["reason"] for row in map(json.loads, lines)}


@pytest.mark.parametrize("storage", ["tar", "lmdb"])
def test_what_failed_is_tried_again_and_what_is_there_is_not_even_read(
    scenes: Path, tmp_path: Path, storage: str
) -> None:
    output, undisturbed = tmp_path / "features", tmp_path / "undisturbed"
    assert main(arguments(scenes, output, "--format", storage)) == 0
    repair(scenes, *DAMAGED)
    assert main(arguments(scenes, undisturbed, "--format", storage)) == 0
    for scene in set(range(SCENES)) - set(DAMAGED):
        (scenes / f"scene{scene:02d}.png").unlink()
    assert main(arguments(scenes, output, "--format", storage, "--retry-failed")) == 0
    assert failures(output) == {}
    assert contents(output) == contents(undisturbed)
    assert main(["verify", str(output), "--deep"]) == 0


def test_reasons_that_are_not_named_are_kept(scenes: Path, tmp_path: Path) -> None:
    output = tmp_path / "features"
    assert main(arguments(scenes, output)) == 0
    untouched = (output / "shards" / "000002.tar").stat().st_ino
    repair(scenes, 2, 6, 13)  # 7 and 19 are still empty
    assert main(arguments(scenes, output, "--retry-failed", "empty", "not_an_image")) == 0
    assert failures(output) == {7: "empty", 13: "missing_file", 19: "empty"}
    assert (output / "shards" / "000002.tar").stat().st_ino == untouched
    assert read_dataset(output).totals.failures == {"empty": 2, "missing_file": 1}
    assert not (output / RETRY_FILE).exists()
    assert main(["verify", str(output), "--deep"]) == 0


def test_a_reason_there_is_not_and_a_data_set_there_is_not_are_refused(scenes: Path, tmp_path: Path) -> None:
    output = tmp_path / "features"
    with pytest.raises(SystemExit) as left:
        main(arguments(scenes, output, "--retry-failed", "timeuot"))
    assert left.value.code == 2
    assert main(arguments(scenes, output, "--retry-failed")) == 2
    assert not output.exists()


@pytest.mark.slow
def test_a_retry_that_was_killed_goes_on_and_loses_no_sample(scenes: Path, tmp_path: Path, harm: Harm) -> None:
    output, undisturbed = tmp_path / "features", tmp_path / "undisturbed"
    assert main(arguments(scenes, output)) == 0
    repair(scenes, *DAMAGED)
    assert main(arguments(scenes, undisturbed)) == 0
    data = (scenes / "scene13.png").read_bytes()
    (scenes / "scene13.png").write_bytes(data)
    harm.by_bytes(data, "decode", "hang")
    child = harm.start(*arguments(scenes, output, "--retry-failed")[1:])
    deadline = time.monotonic() + 60
    while not harm.done():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert not read_dataset(output).complete
    left = json.loads((output / RETRY_FILE).read_text())
    assert left["reasons"] == []
    assert 2 in left["shards"]
    # Killed between two files of a shard, it has no record; what it holds need not be had a second time.
    (output / "shards" / "000002.json").unlink(missing_ok=True)
    for scene in range(10, 13):
        (scenes / f"scene{scene:02d}.png").unlink()
    assert main(arguments(scenes, output, "--retry-failed")) == 0
    assert contents(output) == contents(undisturbed)
    assert main(["verify", str(output), "--deep"]) == 0


def test_a_retry_that_was_killed_before_the_record_keeps_the_reasons_that_were_not_named(
    scenes: Path, tmp_path: Path
) -> None:
    output = tmp_path / "features"
    assert main(arguments(scenes, output)) == 0
    before = failures(output)
    shard_of = {row: row // 5 for row in before}
    repair(scenes, *DAMAGED)
    for shard in set(shard_of.values()):
        (output / "shards" / f"{shard:06d}.json").unlink()
    left = {"reasons": ["empty"], "shards": sorted(set(shard_of.values()))}
    (output / RETRY_FILE).write_text(json.dumps(left))
    assert main(arguments(scenes, output, "--retry-failed", "empty")) == 0
    assert failures(output) == {row: reason for row, reason in before.items() if reason != "empty"}


@pytest.mark.parametrize("option", [(), ("--retry-failed", "missing_file")])
def test_what_a_killed_retry_left_without_a_record_is_kept_by_runs_of_other_reasons_and_of_none(
    scenes: Path, tmp_path: Path, option: tuple[str, ...]
) -> None:
    output, undisturbed = tmp_path / "features", tmp_path / "undisturbed"
    assert main(arguments(scenes, output)) == 0
    repair(scenes, *DAMAGED)
    assert main(arguments(scenes, undisturbed)) == 0
    (output / "shards" / "000001.json").unlink()
    (output / RETRY_FILE).write_text(json.dumps({"reasons": ["empty"], "shards": [0, 1, 3]}))
    for scene in (5, 8, 9):  # they are in the shard already, and to be had no more
        (scenes / f"scene{scene:02d}.png").unlink()
    assert main(arguments(scenes, output, *option)) == 0
    assert failures(output).keys().isdisjoint({5, 8, 9})
    if not option:  # it gives up the retry, and tries what failed of this shard again with it
        name = "shards/000001.tar"
        assert (output / name).read_bytes() == (undisturbed / name).read_bytes()
    assert not (output / RETRY_FILE).exists()


def test_a_shard_that_is_not_what_its_record_says_is_not_copied(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "features"
    assert main(arguments(scenes, output)) == 0
    shard = output / "shards" / "000001.tar"
    data = bytearray(shard.read_bytes())
    data[5000] ^= 1
    shard.write_bytes(data)
    assert main(arguments(scenes, output, "--retry-failed")) == 1
    assert "000001.tar: its SHA-256 is" in capsys.readouterr().err


@pytest.mark.slow
def test_in_a_bucket_as_on_a_disk(scenes: Path, bucket: str, tmp_path: Path) -> None:
    outputs = (tmp_path / "features", f"{bucket}/features")
    for output in outputs:
        assert main(arguments(scenes, output)) == 0
    before = objects(outputs[1])
    repair(scenes, 2, 13)
    for output in outputs:
        assert main(arguments(scenes, output, "--retry-failed")) == 0
    assert objects(outputs[1]) == contents(outputs[0])
    assert objects(outputs[1]) != before
