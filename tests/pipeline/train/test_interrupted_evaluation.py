"""Ctrl-C and SIGTERM while a run evaluates: it ends at the next batch, and the resumed run evaluates that step."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from vilbert.pipeline.cli import main
from vilbert.pipeline.train.engine.interruption import InterruptedEvaluationError, until_interrupted
from vilbert.pipeline.train.pretraining.objective import PretrainObjective
from vilbert.pipeline.train.run.checkpoints import newest_whole
from vilbert.pipeline.train.run.journal import cut_back, line, read_journal

from .tiny_runs import MODEL, journal, pretrain_arguments

pytestmark = pytest.mark.usefixtures("no_curves")

STEPS = 4
EVALUATION_BATCHES = 5


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, make_dataset: Callable[..., Path]) -> Path:
    """Return a data set with a model's config beside it."""
    folder = tmp_path_factory.mktemp("data")
    make_dataset(folder / "a", samples=40, shard_size=10, splits=lambda row: "val" if row % 2 else "train")
    (folder / "model.json").write_text(json.dumps(MODEL))
    return folder


def arguments(data: Path, output: Path) -> list[str]:
    sizes = {"steps": STEPS, "batch_size": 4, "eval_every": 2, "save_every": 2}
    return pretrain_arguments([data / "a"], output, data / "model.json", **sizes)


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run without interruption."""
    output = tmp_path_factory.mktemp("runs") / "undisturbed"
    assert main(arguments(data, output)) == 0
    return output


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Send a signal in the evaluation of this number, from 0, after so many batches.

    Return the batches of each evaluation.
    """
    evaluate = PretrainObjective.evaluate

    def prepare(evaluation: int, after: int, number: signal.Signals) -> list[int]:
        taken: list[int] = []

        def interrupted(self: PretrainObjective, model: Any, batches: Iterable[Any], group: Any) -> Any:
            if len(taken) == evaluation and after == 0:
                signal.raise_signal(number)
            taken.append(0)
            return evaluate(self, model, counted(batches), group)

        def counted(batches: Iterable[Any]) -> Iterator[Any]:
            for batch in batches:
                taken[-1] += 1
                yield batch
                if (len(taken) - 1, taken[-1]) == (evaluation, after):
                    signal.raise_signal(number)

        monkeypatch.setattr(PretrainObjective, "evaluate", interrupted)
        return taken

    return prepare


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("step", "after"), [(2, 0), (2, 2), (STEPS, 2)])
def test_an_interrupted_evaluation_ends_at_the_next_batch_and_is_done_again(
    data: Path, undisturbed: Path, tmp_path: Path, interrupt: Callable[..., list[int]],
    caplog: pytest.LogCaptureFixture, step: int, after: int, number: signal.Signals,
) -> None:  # fmt: skip
    run = tmp_path / "run"
    taken = interrupt(step // 2 - 1, after, number)
    assert main(arguments(data, run)) == 130
    assert taken == [EVALUATION_BATCHES] * (step // 2 - 1) + [after]
    assert f"interrupted after step {step} of {STEPS}; run the same command again" in caplog.text
    checkpoint = newest_whole(run)
    assert checkpoint is not None
    assert checkpoint.step == step
    assert not (run / "report.html").exists()
    assert [entry["step"] for entry in read_journal(run) if entry["kind"] == "eval"] == list(range(2, step, 2))

    assert main(arguments(data, run)) == 0
    assert taken[step // 2 :] == [EVALUATION_BATCHES] * ((STEPS - step) // 2 + 1)
    assert journal(run) == journal(undisturbed)
    ours, theirs = (load_file(folder / "final" / "model.safetensors") for folder in (run, undisturbed))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    infos = [[path.read_text() for path in sorted(folder.rglob("info.json"))] for folder in (run, undisturbed)]
    assert infos[0] == [text.replace(str(undisturbed), str(run)) for text in infos[1]]


def test_the_resumed_evaluation_is_interrupted_too(
    data: Path, undisturbed: Path, tmp_path: Path, interrupt: Callable[..., list[int]]
) -> None:
    run = tmp_path / "run"
    for _ in range(2):
        taken = interrupt(0, 1, signal.SIGTERM)
        assert main(arguments(data, run)) == 130
        assert taken == [1]
    assert main(arguments(data, run)) == 0
    assert journal(run) == journal(undisturbed)


def test_a_journal_loses_the_evaluation_that_is_done_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    entries = [("train", 2), ("eval", 2), ("train", 3), ("train", 4), ("eval", 4), ("train", 5)]
    path.write_bytes(b"".join(line(kind, step, {}) for kind, step in entries))
    cut_back(path, 4, evaluation_due=True)
    assert [(entry["kind"], entry["step"]) for entry in read_journal(tmp_path)] == entries[:4]


class GroupOfTwo:
    """Two processes, of which the other one is interrupted after so many calls."""

    world = 2

    def __init__(self, calls: int) -> None:
        self.calls = calls

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        self.calls -= 1
        return values + int(self.calls < 0)


def test_an_interruption_of_one_process_ends_the_evaluation_in_all() -> None:
    group: Any = GroupOfTwo(calls=3)
    batches = until_interrupted(range(9), threading.Event(), group)
    assert [next(batches) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(InterruptedEvaluationError):
        next(batches)
