"""Trackers of the real packages, offline: a resumed run continues the same run, and no failure stops the training."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vilbert.pipeline.cli import main
from vilbert.pipeline.train.run.journal import read_journal

from ..tiny_runs import MODEL, pretrain_arguments

Losses = list[tuple[int, float]]


@pytest.fixture
def data(tmp_path: Path, make_dataset: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a data set of nine samples and a model's config; trackers write below it."""
    make_dataset(tmp_path / "data", samples=9, shard_size=5)
    (tmp_path / "model.json").write_text(json.dumps(MODEL))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pretrain(data: Path, tracker: str, steps: int) -> int:
    sizes = {"steps": steps, "batch_size": 2, "eval_every": 100, "save_every": 2}
    arguments = pretrain_arguments([data / "data"], data / "run", data / "model.json", **sizes)
    return main([*arguments, "--schedule", "constant", "--warmup", "0", "--tracker", tracker])


def losses(data: Path) -> Losses:
    return [(entry["step"], entry["loss"]) for entry in read_journal(data / "run") if entry["kind"] == "train"]


def assert_two_sessions_are_one_run(data: Path, tracker: str, read: Callable[[str], Losses]) -> None:
    """Train two steps and resume to four. read: returns (step, train/loss) that the run of an ID has."""
    assert pretrain(data, tracker, 2) == 0
    ids = (data / "run" / "trackers.json").read_bytes()
    assert pretrain(data, tracker, 4) == 0
    assert (data / "run" / "trackers.json").read_bytes() == ids
    found, expected = read(json.loads(ids)[tracker]), losses(data)
    assert [step for step, _ in expected] == [1, 2, 3, 4]
    assert [step for step, _ in found] == [1, 2, 3, 4]
    assert [loss for _, loss in found] == pytest.approx([loss for _, loss in expected], rel=1e-6)


def test_tensorboard_shows_each_step_once_after_a_resume(data: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for steps in (2, 4):
        assert pretrain(data, "tensorboard", steps) == 0
    events = accumulator.EventAccumulator(str(data / "run" / "tensorboard")).Reload()
    found = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert [step for step, _ in found] == [1, 2, 3, 4]
    assert [value for _, value in found] == pytest.approx([loss for _, loss in losses(data)], rel=1e-6)


@pytest.fixture
def wandb_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    wandb = pytest.importorskip("wandb")
    for name, value in {"MODE": "offline", "SILENT": "true", "CACHE_DIR": "cache", "CONFIG_DIR": "config"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value if name in ("MODE", "SILENT") else str(tmp_path / value))
    yield
    wandb.teardown()


WANDB_HEADER = 7
"""Bytes before the first block of a .wandb file."""


def leveldb_records(log: bytes) -> Iterator[bytes]:
    """Yield the records of a LevelDB log whose first block is shorter by the header: CRC, length, type, content."""
    record, place = b"", 0
    while place + 7 <= len(log):
        if (left := -(place + WANDB_HEADER) % 32768) and left < 7:  # padding at the end of a block
            place += left
            continue
        length, kind = int.from_bytes(log[place + 4 : place + 6], "little"), log[place + 6]
        record += log[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # full, last
            yield record
            record = b""


@pytest.mark.slow
def test_wandb_offline_writes_sessions_of_one_run(data: Path, wandb_offline: None) -> None:
    from wandb.proto import wandb_internal_pb2

    def read(identifier: str) -> Losses:
        # wandb appends -1 to the folder of a session that starts in the same second as the one before.
        files = sorted((data / "run" / "wandb").glob(f"offline-run-*-{identifier}*/run-{identifier}.wandb"))
        assert files
        found: Losses = []
        for file in files:
            for content in leveldb_records(file.read_bytes()[WANDB_HEADER:]):
                record = wandb_internal_pb2.Record.FromString(content)
                items = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
                if "train/loss" in items:
                    found.append((int(items["_step"]), float(items["train/loss"])))
        return found

    assert_two_sessions_are_one_run(data, "wandb", read)


@pytest.fixture
def mlflow_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    pytest.importorskip("mlflow")
    return store


@pytest.mark.slow
def test_mlflow_continues_its_run_in_a_local_store(data: Path, mlflow_store: str) -> None:
    from mlflow import MlflowClient

    def read(identifier: str) -> Losses:
        client = MlflowClient(tracking_uri=mlflow_store)
        (experiment,) = client.search_experiments(filter_string="name = 'vilbert'")
        assert [run.info.run_id for run in client.search_runs([experiment.experiment_id])] == [identifier]
        assert client.get_run(identifier).data.params["batch_size"] == "2"
        return [(metric.step, metric.value) for metric in client.get_metric_history(identifier, "train/loss")]

    assert_two_sessions_are_one_run(data, "mlflow", read)


@pytest.mark.slow
def test_trackio_continues_its_run_on_this_machine(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(data / "trackio"))  # read when it is imported
    pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    def read(name: str) -> Losses:
        assert SQLiteStorage.get_runs("vilbert") == [name]
        logs = SQLiteStorage.get_logs("vilbert", name)
        return [(entry["step"], entry["train/loss"]) for entry in logs if "train/loss" in entry]

    assert_two_sessions_are_one_run(data, "trackio", read)


NOWHERE = "http://127.0.0.1:9"
"""Nothing listens at the discard port."""


@pytest.mark.slow
def test_wandb_without_a_network_does_not_stop_the_training(
    data: Path, wandb_offline: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {"MODE": "online", "BASE_URL": NOWHERE, "API_KEY": "x" * 40, "INIT_TIMEOUT": "2", "LOGIN_TIMEOUT": "2"}
    for name, value in settings.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    assert pretrain(data, "wandb", 2) == 0
    assert [step for step, _ in losses(data)] == [1, 2]
    assert "--tracker wandb cannot be opened and is not used in this session" in caplog.text


@pytest.mark.slow
def test_mlflow_without_a_network_does_not_stop_the_training(
    data: Path, mlflow_store: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOWHERE)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert pretrain(data, "mlflow", 2) == 0
    assert [step for step, _ in losses(data)] == [1, 2]
    assert "--tracker mlflow cannot be opened and is not used in this session" in caplog.text
