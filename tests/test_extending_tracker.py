"""docs/extending/tracker.md: its package outside the repository shows the metrics of a run."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from vilbert.pipeline.cli import main, parse
from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.train.run.trackers import TRACKERS, TrackerSpec, find_tracker, open_trackers
from vilbert.plugins import all_entry_points

from .extending_pages import install_page
from .pipeline.train.conftest import write_dataset_folder
from .pipeline.train.tiny_runs import MODEL, pretrain_arguments


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data set of nine samples, and a model's config beside it."""
    write_dataset_folder(
        tmp_path / "data", samples=9, shard_size=5, splits=lambda row: "val" if row % 3 == 2 else "train"
    )
    (tmp_path / "model.json").write_text(json.dumps(MODEL))
    return tmp_path


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The package of the page on sys.path."""
    folder = install_page("tracker.md", tmp_path / "packages")
    with monkeypatch.context() as patch:
        patch.syspath_prepend(folder)
        all_entry_points.cache_clear()
        yield folder
    all_entry_points.cache_clear()


def command(data: Path, *options: str, steps: int = 4) -> list[str]:
    sizes = {"steps": steps, "batch_size": 2, "eval_every": 2, "save_every": 2}
    arguments = pretrain_arguments([data / "data"], data / "run", data / "model.json", **sizes)
    return [*arguments, "--schedule", "constant", "--warmup", "0", *options]


def rows(data: Path) -> list[tuple[str, ...]]:
    with (data / "run" / "metrics.csv").open(newline="") as file:
        return [tuple(row) for row in csv.reader(file)]


def test_a_tracker_is_found_by_its_entry_point_and_continued_when_the_run_is(data: Path, package: Path) -> None:
    assert main(command(data, "--tracker", "toy", "tensorboard", steps=2)) == 0
    assert (data / "run" / "tensorboard").is_dir()
    first = rows(data)
    assert {step for _, step, name, _ in first if name == "train/loss"} == {"1", "2"}
    assert any(name == "eval/loss" for _, _, name, _ in first)
    journal = [json.loads(line) for line in (data / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [entry["loss"] for entry in journal if entry["kind"] == "train"]
    assert [float(value) for _, _, name, value in first if name == "train/loss"] == losses
    assert main(command(data, "--tracker", "toy", steps=4)) == 0
    assert {step for _, step, name, _ in rows(data) if name == "train/loss"} == {"1", "2", "3", "4"}
    assert len({identifier for identifier, *_ in rows(data)}) == 1
    assert json.loads((data / "run" / "trackers.json").read_text()) == {"toy": rows(data)[0][0]}


def test_no_tracker_leaves_metrics_jsonl(data: Path) -> None:
    assert main(command(data, "--tracker", "none", steps=1)) == 0
    assert (data / "run" / "metrics.jsonl").stat().st_size > 0
    assert not (data / "run" / "tensorboard").exists()


@pytest.mark.parametrize(("option", "tracker"), [("--no-tensorboard", ()), ("--tensorboard", ("tensorboard",))])
def test_the_old_switches_are_accepted_with_a_warning(
    data: Path, option: str, tracker: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    name, *arguments = command(data, option)
    assert parse(name, arguments).tracker == tracker
    assert f"{option} is deprecated; write --tracker" in caplog.text


def test_a_wrong_tracker_is_refused_before_the_run(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        sys.exit(main(command(data, "--tracker", "tensorbord")))
    assert stopped.value.code == 2
    assert "did you mean tensorboard?" in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert not (data / "run").exists()


def test_the_old_option_is_refused_in_a_config_file_too(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "old.yaml").write_text("tensorboard: false\n")
    assert main(command(data, "--config", str(data / "old.yaml"))) == 2
    assert "write --tracker tensorboard" in capsys.readouterr().err


def test_a_tracker_whose_package_is_missing_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RefusedError, match="needs the package wandb: pip install wandb"):
        find_tracker("wandb")


def test_a_tracker_that_fails_does_not_end_the_run(data: Path, package: Path, caplog: pytest.LogCaptureFixture) -> None:
    (package / "failing_tracker.py").write_text(
        "class Failing:\n    def __init__(self, run): ...\n"
        "    def log(self, step, metrics): raise ConnectionError('the service is down')\n"
        "    def finish(self): ...\n"
    )
    assert main(command(data, "--tracker", "failing_tracker:Failing", steps=2)) == 0
    said = [record.message for record in caplog.records if "the service is down" in record.message]
    name = "--tracker failing_tracker:Failing"
    assert said == [f"{name} failed and is not used any more: ConnectionError: the service is down"]


class _Service:
    """Stands for a module `wandb` or `trackio`: what it was asked for."""

    def __init__(self) -> None:
        self.opened: list[dict[str, object]] = []
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.finished = 0

    def init(self, **options: object) -> SimpleNamespace:
        self.opened.append(options)
        return SimpleNamespace(
            log=lambda metrics, step: self.logged.append((step, metrics)),
            finish=lambda: setattr(self, "finished", self.finished + 1),
        )


@pytest.mark.parametrize(("name", "key"), [("wandb", "id"), ("trackio", "name")])
def test_services_are_opened_with_the_same_id_again(
    name: str, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = _Service()
    service.__spec__ = SimpleNamespace(name=name)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, name, service)
    for resumed_at in (None, 3):
        opened = open_trackers((name,), tmp_path, {"batch_size": 2}, resumed_at=resumed_at)
        opened[name].log(4, {"train/loss": 1.0})
        opened[name].finish()
    first, second = service.opened
    assert first[key] == second[key]
    assert first["resume"] == "allow"
    assert first["config"] == {"batch_size": 2}
    assert service.logged == [(4, {"train/loss": 1.0})] * 2
    assert service.finished == 2


def test_mlflow_continues_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str | None] = []
    logged: list[dict[str, float]] = []

    def start_run(run_id: str | None, run_name: str | None) -> SimpleNamespace:
        started.append(run_id)
        return SimpleNamespace(info=SimpleNamespace(run_id="made-by-the-server"))

    module = SimpleNamespace(
        __spec__=SimpleNamespace(name="mlflow"),
        set_experiment=lambda name: None,
        start_run=start_run,
        log_params=lambda values: None,
        log_metrics=lambda metrics, step: logged.append(metrics),
        end_run=lambda: None,
    )
    monkeypatch.setitem(sys.modules, "mlflow", module)
    for resumed_at in (None, 3):
        opened = open_trackers(("mlflow",), tmp_path, {}, resumed_at=resumed_at)
        opened["mlflow"].log(4, {"train/loss": float("nan"), "train/samples": 2.0})
        opened["mlflow"].finish()
    assert started == [None, "made-by-the-server"]
    assert logged == [{"train/samples": 2.0}] * 2


def test_built_in_trackers_name_their_packages() -> None:
    specs = {name: TRACKERS.load(name) for name in TRACKERS.built_in}
    assert all(isinstance(spec, TrackerSpec) for spec in specs.values())
    assert {name: spec.package for name, spec in specs.items()} == {name: name for name in specs}
