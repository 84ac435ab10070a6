"""The whole command on tiny data: what it writes, what it refuses, what it counts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from vilbert.pipeline.cli import main

from ..tiny_runs import STEPS, WITHOUT_DROPOUT, arguments, journal, model_option, two_sets


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, make_dataset: Callable[..., Path]) -> Path:
    """Return the folder of two data sets and a model's config."""
    return two_sets(tmp_path_factory.mktemp("data"), make_dataset)


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that nobody stopped."""
    output = tmp_path_factory.mktemp("runs") / "undisturbed"
    assert main(arguments(data, output)) == 0
    return output


def test_a_run_writes_all_that_it_promises(undisturbed: Path) -> None:
    entries = journal(undisturbed)
    assert [entry["step"] for entry in entries if entry["kind"] == "train"] == list(range(1, STEPS + 1))
    assert [entry["step"] for entry in entries if entry["kind"] == "eval"] == [4, 8]
    for name in (
        "report.html",
        "sessions.jsonl",
        "run.json",
        "final/README.md",
        "final/config.json",
        "final/tokenizer.json",
    ):
        assert (undisturbed / name).stat().st_size > 0, name
    kept = sorted(path.name for path in (undisturbed / "checkpoints").iterdir())
    assert kept[-1] == "step-00000008"
    assert 3 <= len(kept) <= 4  # the newest three and the best


def test_it_says_nothing_to_do_when_run_again(data: Path, undisturbed: Path) -> None:
    before = (undisturbed / "metrics.jsonl").read_bytes()
    assert main(arguments(data, undisturbed)) == 0
    assert (undisturbed / "metrics.jsonl").read_bytes() == before


@pytest.mark.slow
def test_accumulation_changes_nothing_but_rounding(data: Path, undisturbed: Path, tmp_path: Path) -> None:
    without_dropout = model_option(tmp_path / "model.json", WITHOUT_DROPOUT)
    for parts in ("2", "4", "8"):
        output = tmp_path / parts
        assert main(arguments(data, output, "--grad-accumulation", parts, *without_dropout)) == 0
    losses = [[entry["loss"] for entry in journal(tmp_path / parts)] for parts in ("2", "4", "8")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0] == pytest.approx(losses[2], rel=1e-5)


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--seed", "3"], "seed 42 before, now 3"),
        (["--learning-rate", "0.02"], "learning_rate"),
        (["--word-mask", "0.3"], "word_mask"),
        (["--max-steps", "9"], "was planned for 8 steps"),
    ],
)
def test_other_settings_are_refused(
    data: Path, undisturbed: Path, capsys: pytest.CaptureFixture[str], more: list[str], named: str
) -> None:
    assert main(arguments(data, undisturbed, *more)) == 2
    assert named in capsys.readouterr().err


def test_other_data_are_refused(
    data: Path, undisturbed: Path, make_dataset: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(data, tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / "b")
    make_dataset(tmp_path / "data" / "b", samples=13, shard_size=6, storage="lmdb", seed=2)
    assert main(arguments(tmp_path / "data", undisturbed)) == 2
    assert "records_sha256" in capsys.readouterr().err


def test_a_moved_data_set_is_the_same_data(data: Path, undisturbed: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "moved")
    model = ["--model", str(data / "model.json")]
    assert main(arguments(tmp_path / "moved", undisturbed, *model)) == 0


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_an_unreadable_shard_in_the_middle(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], policy: str
) -> None:
    shutil.copytree(data, tmp_path / "data")
    shard = tmp_path / "data" / "a" / "shards" / "000002.tar"
    damaged = bytearray(shard.read_bytes())
    damaged[100:140] = b"x" * 40
    shard.write_bytes(damaged)
    output = tmp_path / "run"
    status = main(arguments(tmp_path / "data", output, "--on-corrupt", policy))
    if policy == "stop":
        assert status == 1
        assert "000002.tar" in capsys.readouterr().err
    else:
        assert status == 0
        trained, held_out = journal(output)[-2:]
        assert trained["unread"] > 0
        assert held_out["unread"] == json.loads((output / "evaluation.json").read_text())["figures"]["unread"] > 0


def test_a_loss_that_is_no_number_stops_the_run_naming_the_images(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main(arguments(data, tmp_path / "run", "--learning-rate", "1e30", "--warmup", "0", "--clip", "0"))
    said = capsys.readouterr().err
    assert status == 1
    assert "photo." in said
    assert "step 1" in said


def test_or_leaves_the_step_out_and_counts_it(data: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    options = ["--learning-rate", "1e30", "--warmup", "0", "--clip", "0", "--non-finite", "skip"]
    assert main(arguments(data, output, *options)) == 0
    assert journal(output)[-2]["skipped_steps"] == STEPS - 1


@pytest.mark.slow
def test_bfloat16_gives_nearly_the_losses_of_float32(data: Path, tmp_path: Path) -> None:
    without_dropout = model_option(tmp_path / "model.json", WITHOUT_DROPOUT)
    for precision in ("fp32", "bf16"):
        assert main(arguments(data, tmp_path / precision, *without_dropout, "--precision", precision)) == 0
    exact, rounded = (np.array([entry["loss"] for entry in journal(tmp_path / name)]) for name in ("fp32", "bf16"))
    assert np.isfinite(rounded).all()
    assert (exact != rounded).any()
    np.testing.assert_allclose(rounded, exact, rtol=0.02)


@pytest.mark.slow
def test_compiled_it_gives_the_loss_and_gradient_of_eager(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the model becomes a graph, forward and backward, is our part; making C++ of it takes minutes."""
    options = [*model_option(tmp_path / "model.json", WITHOUT_DROPOUT), "--max-steps", "1", "--eval-split", "none"]
    compiler, compiled_with = torch.compile, []

    def compile_without_code(model: nn.Module, **given: object) -> object:
        compiled_with.append(given)
        return compiler(model, backend="aot_eager", **given)  # type: ignore[call-overload]

    monkeypatch.setattr(torch, "compile", compile_without_code)
    for name, more in (("eager", ()), ("compiled", ("--compile",))):
        assert main(arguments(data, tmp_path / name, *options, *more)) == 0
    assert compiled_with == [{"dynamic": True}]
    (eager,), (compiled,) = (journal(tmp_path / name) for name in ("eager", "compiled"))
    for figure in ("loss", "gradient_norm"):
        assert compiled[figure] == pytest.approx(eager[figure], rel=1e-5)
