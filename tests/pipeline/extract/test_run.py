"""The whole stage in one process: what is written, what is refused, and that interruptions leave no trace."""

import dataclasses
import errno
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from vilbert.extractors.decode import DecodeSettings
from vilbert.extractors.extractor import DetectorSettings
from vilbert.extractors.selection import SelectionSettings
from vilbert.manifests.manifest import Manifest
from vilbert.pipeline.cli import main
from vilbert.pipeline.errors import FingerprintError, LockedError, RefusedError, ShardError
from vilbert.pipeline.extract import worker as worker_module
from vilbert.pipeline.extract.run import extract
from vilbert.pipeline.extract.settings import ExtractSettings
from vilbert.pipeline.jobs.schedule import Schedule
from vilbert.pipeline.shards.dataset import read_dataset
from vilbert.pipeline.shards.location.lock import exclusive_writer
from vilbert.pipeline.shards.record import read_records
from vilbert.pipeline.shards.storage.store import open_shard

from .conftest import BROKEN, OF_RUNS, SCENES, contents

Make = Callable[..., ExtractSettings]


@pytest.fixture(scope="module")
def undisturbed(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set of one run that nothing disturbed."""
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


def failures(directory: Path) -> dict[str, str]:
    rows = [json.loads(line) for path in (directory / "failures").iterdir() for line in path.read_text().splitlines()]
    return {row["image_id"]: row["reason"] for row in rows}


def test_every_row_is_a_sample_or_a_failure_with_its_reason(undisturbed: Path, manifest: Path) -> None:
    samples = [
        sample
        for record in read_records(undisturbed).values()
        for sample in open_shard(undisturbed / "shards" / record.file)
    ]
    assert [sample.meta["image_id"] for sample in samples] == [
        f"scene{index:02d}" for index in range(SCENES) if index not in BROKEN
    ]
    assert failures(undisturbed) == {"scene03": "empty", "scene11": "not_an_image", "scene21": "missing_file"}
    info = read_dataset(undisturbed)
    assert info.complete
    assert info.totals.samples + sum(info.totals.failures.values()) == info.rows == Manifest.open(manifest).rows
    assert info.splits == {"train": SCENES - len(BROKEN)}
    first = samples[0]
    assert first.meta["captions"] == ["scene 0"]
    assert first.regions.features.shape == (36, info.feature_dim)
    assert len(np.unique(first.regions.object_ids)) > 1


def test_nothing_to_do_writes_nothing(undisturbed: Path, manifest: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*") if path.name not in OF_RUNS}
    arguments = ["extract", str(manifest), "--output", str(undisturbed), "--detector", "shapes"]
    with caplog.at_level("INFO"):
        assert main([*arguments, "--backend", "local", "--shard-size", "5", "--batch-size", "4"]) == 0
    assert "nothing to do" in caplog.text
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (
            {"detector": DetectorSettings(detector="shapes", precision="bf16")},
            'precision: "fp32" in the data set, "bf16"',
        ),
        ({"selection": SelectionSettings(boxes="10-100")}, 'boxes: "36" in the data set, "10-100"'),
        ({"decoding": DecodeSettings(min_side=20)}, "min_side: 16 in the data set, 20"),
        ({"shard_size": 6}, "shard_size: 5 in the data set, 6"),
        ({"limit": 7}, "rows: 22 in the data set, 7"),
        ({"format": "lmdb"}, 'storage: "tar" in the data set, "lmdb"'),
        ({"batch_size": 2}, "batch_size: 4 in the data set, 2"),
    ],
)
def test_other_settings_are_refused_and_each_difference_named(
    undisturbed: Path, settings_for: Make, changes: dict, named: str
) -> None:
    before = contents(undisturbed)
    with pytest.raises(FingerprintError) as refusal:
        extract(dataclasses.replace(settings_for("unused"), output=undisturbed, **changes))
    assert named in str(refusal.value)
    assert contents(undisturbed) == before


def test_a_folder_of_other_things_is_refused_and_left_as_it_was(settings_for: Make) -> None:
    settings = settings_for("taken")
    (settings.output / "shards").mkdir(parents=True)
    (settings.output / "thesis.tex").write_text("mine")
    (settings.output / "shards" / ".000000.tar.1.00000000.tmp").write_text("mine too")
    before = {path: path.stat().st_mtime_ns for path in settings.output.rglob("*")}
    with pytest.raises(RefusedError, match=r"holds shards, thesis\.tex"):
        extract(settings)
    assert {path: path.stat().st_mtime_ns for path in settings.output.rglob("*")} == before


def test_an_output_that_is_a_file_is_refused(settings_for: Make) -> None:
    settings = settings_for("file")
    settings.output.write_text("mine")
    with pytest.raises(RefusedError, match="is a file"):
        extract(settings)
    assert settings.output.read_text() == "mine"


def test_a_pipe_among_the_images_fails_and_does_not_hang(settings_for: Make, tmp_path: Path, images: Path) -> None:
    (tmp_path / "pictures").mkdir()
    shutil.copy(images / "scene00.png", tmp_path / "pictures" / "a.png")
    os.mkfifo(tmp_path / "pictures" / "b.png")
    assert main(["manifest", str(tmp_path / "pictures"), "--output", str(tmp_path / "m.parquet")]) == 0
    settings = settings_for("pipe", manifest=tmp_path / "m.parquet")
    assert extract(settings) == 0
    assert list(failures(settings.output).values()) == ["unreadable"]


def test_a_second_writer_is_refused(settings_for: Make) -> None:
    settings = settings_for("locked")
    settings.output.mkdir()
    with exclusive_writer(settings.output), pytest.raises(LockedError):
        extract(settings)


def test_lost_and_cut_shards_are_made_again_with_the_same_bytes(undisturbed: Path, settings_for: Make) -> None:
    settings = settings_for("damaged")
    assert extract(settings) == 0
    shards = settings.output / "shards"
    (shards / "000000.json").unlink()
    (shards / "000001.tar").unlink()
    (shards / "000002.tar").write_bytes((shards / "000002.tar").read_bytes()[:-1])
    (settings.output / "failures" / "000004.jsonl").unlink()
    (shards / ".000003.tar.1.00000000.tmp").write_bytes(b"left by a killed run")
    assert extract(settings) == 0
    assert contents(settings.output) == contents(undisturbed)


def test_a_resumed_run_lists_its_shards_once_and_sweeps_on_the_way(
    undisturbed: Path, settings_for: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for("run")
    shutil.copytree(undisturbed, settings.output)
    (settings.output / "shards/000001.json").unlink()
    left = settings.output / "shards/.000001.tar.7.00abcdef.tmp"
    left.write_text("half")
    listed: list[str] = []
    scandir, work = os.scandir, Schedule.run

    def counted(path: str) -> object:
        listed.append(Path(path).name)
        return scandir(path)

    def starts(schedule: Schedule) -> object:
        assert listed.count("shards") == listed.count("failures") == 1
        assert not left.exists()
        return work(schedule)

    monkeypatch.setattr("os.scandir", counted)
    monkeypatch.setattr(Schedule, "run", starts)
    assert extract(settings) == 0
    assert contents(settings.output) == contents(undisturbed)


def test_limit_takes_the_first_rows(settings_for: Make) -> None:
    settings = settings_for("limited", limit=7)
    assert extract(settings) == 0
    info = read_dataset(settings.output)
    assert (info.rows, info.totals.samples, info.totals.failures) == (7, 6, {"empty": 1})


def test_lmdb_holds_the_same_samples(undisturbed: Path, settings_for: Make) -> None:
    settings = settings_for("lmdb", format="lmdb")
    assert extract(settings) == 0
    for shard, record in read_records(settings.output).items():
        mine = list(open_shard(settings.output / "shards" / record.file))
        others = list(open_shard(undisturbed / "shards" / f"{shard:06d}.tar"))
        assert [sample.key for sample in mine] == [sample.key for sample in others]
        for sample, other in zip(mine, others, strict=True):
            assert sample.meta == other.meta
            for name, array in sample.regions.arrays().items():
                np.testing.assert_array_equal(array, other.regions.arrays()[name])


def test_all_rows_failed_is_a_problem(settings_for: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "list.csv").write_text("image_id,path\na,nowhere.jpg\nb,neither.jpg\n")
    assert main(["manifest", str(tmp_path / "list.csv"), "--output", str(tmp_path / "m.parquet")]) == 0
    settings = settings_for("failed", manifest=tmp_path / "m.parquet")
    assert extract(settings) == 1
    assert failures(settings.output) == {"a": "missing_file", "b": "missing_file"}
    assert "every row failed" in caplog.text


def test_given_boxes_take_the_place_of_the_detectors(images: Path, settings_for: Make, tmp_path: Path) -> None:
    boxes = [[10.0, 20.0, 60.0, 80.0], [0.0, 0.0, 100.0, 90.0], [30.5, 5.25, 99.0, 44.0]]
    (tmp_path / "boxes.jsonl").write_text(
        json.dumps({"image_id": "scene00", "boxes": boxes})
        + "\n"
        + json.dumps({"image_id": "scene01", "boxes": [[0, 0, 10_000, 10]]})
        + "\n"
    )
    (tmp_path / "list.csv").write_text("image_id,path\nscene00,scene00.png\nscene01,scene01.png\nscene02,scene02.png\n")
    arguments = [
        "manifest",
        str(tmp_path / "list.csv"),
        "--images",
        str(images),
        "--output",
        str(tmp_path / "m.parquet"),
    ]
    assert main([*arguments, "--given-boxes", str(tmp_path / "boxes.jsonl")]) == 0
    settings = settings_for("given", manifest=tmp_path / "m.parquet")
    assert extract(settings) == 0
    given, detected = open_shard(settings.output / "shards" / "000000.tar")
    np.testing.assert_array_equal(given.regions.boxes, np.float32(boxes))
    assert len(detected.regions) == 36
    assert failures(settings.output) == {"scene01": "bad_boxes"}


def test_a_detector_that_trips_over_one_image_loses_that_image_alone(
    settings_for: Make, monkeypatch: pytest.MonkeyPatch, undisturbed: Path
) -> None:
    build = worker_module.build_extractor

    def build_fragile(settings: object):
        extractor = build(settings)
        whole = extractor.extract

        def extract_some(images: list, given_boxes: list):
            if any(np.asarray(getattr(image, "pixels", image)).tobytes() == poison for image in images):
                raise RuntimeError("poisoned at 0x7f00")
            return whole(images, given_boxes)

        monkeypatch.setattr(extractor, "extract", extract_some)
        return extractor

    settings = settings_for("fragile", limit=5)
    from PIL import Image

    with Image.open(Path(Manifest.open(settings.manifest).read(2, 3)[0].uri)) as image:
        poison = image.tobytes()
    monkeypatch.setattr(worker_module, "build_extractor", build_fragile)
    assert extract(settings) == 0
    assert failures(settings.output) == {"scene02": "detector_error", "scene03": "empty"}
    kept = [sample.key for sample in open_shard(settings.output / "shards" / "000000.tar")]
    assert kept == ["scene00", "scene01", "scene04"]


def test_a_broken_detector_stops_the_run(settings_for: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    build = worker_module.build_extractor

    def build_broken(settings: object):
        extractor = build(settings)

        def fail(images: list, given_boxes: list) -> None:
            raise RuntimeError("no kernel image is available")

        monkeypatch.setattr(extractor, "extract", fail)
        return extractor

    monkeypatch.setattr(worker_module, "build_extractor", build_broken)
    settings = settings_for("broken")
    with pytest.raises(Exception, match=r"1[01] images in a row.*no kernel image"):
        extract(settings)
    assert not list((settings.output / "shards").glob("*.tmp"))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS], ids=errno.errorcode.get)
def test_no_space_is_said_and_after_room_is_made_it_goes_on(
    settings_for: Make, monkeypatch: pytest.MonkeyPatch, undisturbed: Path, number: int
) -> None:
    from vilbert.pipeline.shards.storage import writer

    whole = writer.fsync_dir

    def full(directory: Path) -> None:
        raise OSError(number, os.strerror(number))

    settings = settings_for("full")
    monkeypatch.setattr(writer, "fsync_dir", full)
    with pytest.raises(ShardError, match=rf"{os.strerror(number)}.*run the same command again"):
        extract(settings)
    monkeypatch.setattr(writer, "fsync_dir", whole)
    assert extract(settings) == 0
    assert contents(settings.output) == contents(undisturbed)


def test_a_clock_that_jumps_while_it_runs_does_no_harm(
    settings_for: Make, monkeypatch: pytest.MonkeyPatch, undisturbed: Path
) -> None:
    real, jumps = time.time, itertools.cycle([0.0, 86400.0, -1e9])
    monkeypatch.setattr(time, "time", lambda: real() + next(jumps))
    settings = settings_for("jumping")
    assert extract(settings) == 0
    assert contents(settings.output) == contents(undisturbed)
    state = json.loads((settings.output / ".run.json").read_bytes())
    assert 0 < state["seconds"] < 600


KILL = """
import os, sys
from vilbert.pipeline.cli import main
import vilbert.pipeline.shards.storage.writer as writer
steps = int(sys.argv[1])
for module, name in ((writer.os, "replace"), (writer, "fsync_dir"), (writer, "write_atomic")):
    def counted(*arguments, whole=getattr(module, name)):
        global steps
        steps -= 1
        if steps == 0:
            os._exit(9)
        return whole(*arguments)
    setattr(module, name, counted)
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.slow
def test_killed_at_any_step_and_run_again_the_bytes_are_the_same(
    manifest: Path, undisturbed: Path, tmp_path: Path
) -> None:
    output = tmp_path / "killed"
    arguments = ["extract", str(manifest), "--output", str(output), "--detector", "shapes", "--backend", "local"]
    arguments += ["--shard-size", "5", "--batch-size", "4"]
    for step in (1, 4, 6, 9, 11):
        ended = subprocess.run([sys.executable, "-c", KILL, str(step), *arguments], capture_output=True, timeout=120)
        assert ended.returncode == 9, ended.stderr.decode()
    assert not read_dataset(output).complete
    assert main(arguments) == 0
    assert contents(output) == contents(undisturbed)


@pytest.mark.parametrize("storage", ["tar", "lmdb"])
def test_refined_boxes_are_stored_beside_the_proposals(
    settings_for: Make, storage: Literal["tar", "lmdb"], capsys: pytest.CaptureFixture[str]
) -> None:
    def of(saved_box: Literal["proposal", "regressed", "both"]) -> Path:
        selection = SelectionSettings(saved_box=saved_box)
        settings = settings_for(saved_box, selection=selection, limit=3, format=storage)
        assert extract(settings) == 0
        return settings.output / f"shards/000000.{storage}"

    proposal, regressed, both = of("proposal"), of("regressed"), of("both")
    info = read_dataset(both.parents[1])
    assert (info.format, "object_boxes" in info.fields) == (2, True)
    with open_shard(proposal) as first, open_shard(regressed) as second, open_shard(both) as third:
        for before, refined, sample in zip(first, second, third, strict=True):
            assert sample.regions.object_boxes is not None
            np.testing.assert_array_equal(sample.regions.boxes, before.regions.boxes)
            np.testing.assert_array_equal(sample.regions.object_boxes, refined.regions.boxes)
            assert not np.array_equal(sample.regions.object_boxes, sample.regions.boxes)
    assert main(["verify", "--deep", str(both.parents[1])]) == 0
    assert main(["inspect", f"{both.parents[1]}:0", "--image", str(both.with_suffix(".png"))]) == 0
    assert "refined from" not in capsys.readouterr().err
    assert main(["inspect", f"{proposal.parents[1]}:0", "--image", str(proposal.with_suffix(".png"))]) == 0
    assert "--saved-box both" in capsys.readouterr().err
