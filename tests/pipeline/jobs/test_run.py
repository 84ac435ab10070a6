"""Any job is run: its shards are made once, resumed, reported and refused alike. This one writes numbers."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vilbert.extractors.regions import Regions
from vilbert.pipeline.cli import main
from vilbert.pipeline.errors import FingerprintError, LockedError, RefusedError, StoppedError
from vilbert.pipeline.jobs.dry_run import dry_run
from vilbert.pipeline.jobs.measure import Measure, measure_rows
from vilbert.pipeline.jobs.run import run_job
from vilbert.pipeline.jobs.run_state import read_state
from vilbert.pipeline.jobs.stall import Pulse
from vilbert.pipeline.jobs.worker import Description, ShardDone, ShardWorker
from vilbert.pipeline.shards.checks.verify import examine
from vilbert.pipeline.shards.dataset import DatasetInfo, fingerprint_digest, read_dataset
from vilbert.pipeline.shards.failures import FailureRow
from vilbert.pipeline.shards.location.folder import Folder, open_folder
from vilbert.pipeline.shards.open_dataset import open_dataset
from vilbert.pipeline.shards.sample import Sample, describe_fields
from vilbert.pipeline.shards.storage.writer import ShardWriter

ROWS, SHARD_SIZE = 23, 5


@dataclass(frozen=True)
class NumberSettings:
    """Settings of a job that writes row numbers."""

    output: Path
    factor: int = 1
    workers: int | str = "auto"
    gpus_per_worker: float | None = None
    cpus_per_worker: int = 1
    stall_seconds: float = 60.0
    ray_address: str | None = None
    backend: str = "local"
    dashboard: bool = False
    price_per_hour: float | None = None
    shared: bool = False

    @property
    def fingerprint(self) -> dict[str, Any]:
        return {"numbers": self.factor}


class NumberWorker:
    """Makes a sample of each row's number."""

    def __init__(self, settings: NumberSettings) -> None:
        self._settings = settings
        self._stop = threading.Event()
        self._done = 0

    def start(self) -> Description:
        return Description(
            fingerprint=self._settings.fingerprint,
            feature_dim=4,
            class_names=(),
            soft_labels=False,
            attribute_names=(),
            software={},
        )

    def make_shard(self, shard: int, rows: tuple[int, int], retry: bool = False) -> ShardDone:
        if self._stop.is_set():
            raise StoppedError
        fingerprint = fingerprint_digest(self._settings.fingerprint)
        with ShardWriter(self._settings.output, shard=shard, format="tar") as writer:
            failures = []
            for row, outcome in zip(range(*rows), self.try_rows(range(*rows)), strict=True):
                self._done += 1
                if isinstance(outcome, Sample):
                    writer.add(outcome)
                else:
                    failures.append(replace(outcome, row=row))
            return ShardDone(writer.commit(rows=rows, failures=failures, fingerprint=fingerprint), 0.1, 0.0)

    def try_rows(self, rows: Sequence[int]) -> list[Sample | FailureRow]:
        return [self._sample(row) for row in rows]

    def _sample(self, row: int) -> Sample | FailureRow:
        if row == 7:
            return FailureRow(row=row, image_id="7", uri="7", reason="unlucky", detail="it is 7")
        features = np.full((2, 4), row * self._settings.factor, np.float16)
        regions = Regions(boxes=np.float32([[0, 0, 5, 5]] * 2), features=features, width=9, height=9)
        return Sample(key=str(row), regions=regions, meta={"image_id": str(row)})

    def pulse(self) -> Pulse:
        return Pulse(0, 1 + self._done)

    def stop(self, *, hung: bool = False) -> None:
        self._stop.set()

    def is_preparing(self) -> bool:
        return False


class NumberJob:
    """A `Job` of the least kind."""

    command = "number"
    on_gpu = False
    retry_failed = None

    def __init__(self, settings: NumberSettings) -> None:
        self.settings = settings
        self.events: list[str] = []

    @property
    def worker(self) -> Callable[[Any], NumberWorker]:
        return NumberWorker

    @contextmanager
    def prepare(self, folder: Folder, *, dry: bool = False) -> Iterator[None]:
        self.events.append("dry" if dry else "prepare")
        try:
            yield
        finally:
            self.events.append("over")

    def plan(self, description: Description) -> DatasetInfo:
        return DatasetInfo(
            storage="tar",
            shard_size=SHARD_SIZE,
            rows=ROWS,
            manifest="",
            manifest_hash="numbers",
            fields=describe_fields(feature_dim=4, top_classes=0, attributes=False, objects=False),
            feature_dim=4,
            class_names=(),
            attribute_names=(),
            fingerprint=fingerprint_digest(description.fingerprint),
            fingerprint_fields=description.fingerprint,
            software={},
        )

    def finished(self, folder: Folder) -> None:
        self.events.append("finished")

    def summarise(self, info: DatasetInfo) -> int:
        return 0 if info.totals.samples else 1

    def worker_here(self) -> NumberWorker:
        return NumberWorker(self.settings)

    def measure(self, worker: ShardWorker, planned: DatasetInfo, pending: Sequence[int]) -> Measure:
        return measure_rows(worker, range(planned.rows), "tar")

    def like(self, existing: DatasetInfo, planned: DatasetInfo) -> tuple[DatasetInfo, DatasetInfo]:
        return existing, planned


@pytest.fixture(autouse=True)
def _without_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def test_a_job_is_run_resumed_and_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = NumberJob(NumberSettings(tmp_path / "out"))
    assert run_job(job) == 0
    assert job.events == ["prepare", "finished", "over"]
    assert examine(tmp_path / "out", deep=True).findings == ()
    with open_dataset(tmp_path / "out") as dataset:
        assert [int(sample.regions.features[0, 0]) for sample in dataset] == [row for row in range(ROWS) if row != 7]
    assert read_dataset(tmp_path / "out").totals.failures == {"unlucky": 1}
    record = tmp_path / "out" / "shards" / "000002.json"
    before = record.read_bytes()
    record.unlink()
    assert run_job(NumberJob(job.settings)) == 0
    assert record.read_bytes() == before
    state = read_state(open_folder(tmp_path / "out"))
    assert state is not None
    assert (state.state, state.rows_done, state.rows_before, state.shards_done) == ("finished", 23, 18, 5)
    assert main(["status", str(tmp_path / "out")]) == 0
    captured = capsys.readouterr()
    assert "number: 100%" in captured.err
    assert "finished" in captured.out
    assert "detector" not in captured.out


def test_an_interrupt_leaves_shards_that_the_next_run_keeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = NumberSettings(tmp_path / "out")
    make = NumberWorker.make_shard

    def interrupted(worker: NumberWorker, shard: int, *rest: Any) -> ShardDone:
        if shard == 3:
            raise KeyboardInterrupt
        return make(worker, shard, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(NumberWorker, "make_shard", interrupted)
        job = NumberJob(settings)
        assert run_job(job) == 130
    assert job.events == ["prepare", "over"]
    assert not read_dataset(tmp_path / "out").complete
    assert run_job(NumberJob(settings)) == 0
    assert examine(tmp_path / "out", deep=True).findings == ()


def test_another_fingerprint_a_second_writer_and_other_files_are_refused(tmp_path: Path) -> None:
    settings = NumberSettings(tmp_path / "out")
    assert run_job(NumberJob(settings)) == 0
    with pytest.raises(FingerprintError, match="numbers: 1 in the data set, 2 requested"):
        run_job(NumberJob(replace(settings, factor=2)))
    with open_folder(tmp_path / "out").exclusive_writer(), pytest.raises(LockedError):
        run_job(NumberJob(settings))
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.tex").write_text("mine")
    with pytest.raises(RefusedError, match=r"holds thesis\.tex"):
        run_job(NumberJob(NumberSettings(tmp_path / "taken")))


def test_the_dry_run_of_a_job_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = NumberJob(NumberSettings(tmp_path / "out"))
    assert dry_run(job) == 0
    assert job.events == ["dry", "over"]
    assert not (tmp_path / "out").exists()
    text = capsys.readouterr().out
    assert "5 shards of 5 rows, 23 rows" in text
    assert "23 rows measured with one worker here (several" in text
    assert run_job(job) == 0
    promised = float(text.partition("more, ")[2].split()[0]) * 1000
    assert read_dataset(tmp_path / "out").totals.bytes == pytest.approx(promised, rel=0.5)
