"""Commands with `--device cuda` give the CPU's numbers, and a training step does not wait for the GPU.

On the emulated device: see `emulated_gpu`.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vilbert.pipeline.cli import main
from vilbert.pipeline.shards.open_dataset import open_dataset
from vilbert.pipeline.train.run.journal import read_journal, without_timing

from ..predict.tiny_predictor import OPTIONS, write_features, write_model, write_scenes
from .emulated_gpu import run_emulated
from .tiny_runs import WITHOUT_DROPOUT, pretrain_arguments

pytestmark = pytest.mark.usefixtures("no_curves")

STEPS = 4
# Fused attention wants heads of some width.
WIDE = {name: 32 if value == 16 else value for name, value in WITHOUT_DROPOUT.items()}
FROZEN = {
    **WIDE, "num_hidden_layers": 3, "v_num_hidden_layers": 3, "v_biattention_id": [1, 2], "t_biattention_id": [1, 2],
    "fixed_t_layer": 1, "fixed_v_layer": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, make_dataset: Callable[..., Path]) -> Path:
    """Return a folder with a data set whose images have two to five regions, and two models' configs."""
    folder = tmp_path_factory.mktemp("data")
    make_dataset(
        folder / "a",
        samples=15,
        shard_size=5,
        splits=lambda row: "val" if row % 5 == 3 else "train",
        regions=lambda row: 2 + row % 4,
    )
    for name, config in (("model", WIDE), ("frozen", FROZEN)):
        (folder / f"{name}.json").write_text(json.dumps(config))
    return folder


def arguments(data: Path, output: Path, *more: str, model: str = "model", num_workers: int = 0) -> list[str]:
    """Return a run of `STEPS` steps that reads its losses once."""
    sizes = {"steps": STEPS, "batch_size": 4, "eval_every": STEPS, "save_every": STEPS}
    command = pretrain_arguments([data / "a"], output, data / f"{model}.json", **sizes)
    for option, value in (("--log-every", STEPS), ("--num-workers", num_workers)):
        command[command.index(option) + 1] = str(value)
    return [*command, *more]


def assert_alike(ours: Path, theirs: Path, *, relative: float = 1e-5) -> None:
    """Compare what two runs wrote down, up to rounding."""
    one, other = (without_timing(read_journal(run)) for run in (ours, theirs))
    assert [(it["kind"], it["step"]) for it in one] == [(it["kind"], it["step"]) for it in other]
    assert len(one) == 2
    for mine, its in zip(one, other, strict=True):
        assert mine.keys() == its.keys()
        for name in mine.keys() - {"kind"}:
            assert mine[name] == pytest.approx(its[name], rel=relative), (name, mine, its)


def commands(data: Path, runs: Path, device: str) -> list[list[str]]:
    """Return an extraction, a fine-tuning, its evaluation and an answer on a device; `runs` gets what they write."""
    scenes, features = data / "scenes", data / "features"
    on = ["--device", device]
    detecting = [*OPTIONS[: OPTIONS.index("--device")], *on]
    questions = ["vqa", str(features), "--annotations", str(scenes / "vqa")]
    trained = runs / f"vqa-{device}"
    return [
        ["extract", str(features.with_suffix(".parquet")), "--output", str(runs / f"features-{device}"),
         "--backend", "local", *detecting],
        ["finetune", *questions, "--output", str(trained), "--init-from", "none", "--tokenizer", "new",
         "--model", str(data / "model.json"), "--batch-size", "4", "--max-steps", "2", "--log-every", "2",
         "--eval-every", "2", "--num-workers", "0", "--tracker", "none", "--min-answer-count", "1",
         "--max-tokens", "16", "--precision", "fp32", *on],
        ["evaluate", *questions, "--checkpoint", str(trained), "--output", str(runs / f"results-{device}.json"),
         "--num-workers", "0", *on],
        ["predict", "vqa", "--checkpoint", str(data / "asked"), "--image", str(data / "photograph.jpg"),
         "--question", "what colour is the ring", "--json", *detecting],
    ]  # fmt: skip


@pytest.fixture(scope="module")
def runs(emulator: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Return the folder of what commands wrote on the CPU and on the emulated GPU, and facts of the pre-training runs.

    All in one process on the GPU: most of its time is that of loading torch.
    """
    folder = tmp_path_factory.mktemp("runs")
    photographs = write_scenes(data / "scenes")
    shutil.copyfile(photographs[0], data / "photograph.jpg")
    write_features(data / "scenes", data / "features")
    write_model(data / "asked", "vqa")
    assert main(arguments(data, folder / "cpu")) == 0
    with (folder / "said-cpu").open("w") as said, contextlib.redirect_stdout(said):
        assert [main(command) for command in commands(data, folder, "cpu")] == [0] * 4
    # Batches of loader processes are copied by a thread.
    recorded = arguments(data, folder / "fp32", "--device", "cuda", "--precision", "fp32", num_workers=1)
    launched = arguments(data, folder / "bf16", "--device", "cuda", "--no-cuda-graphs")
    return folder, run_emulated(emulator, [*commands(data, folder, "cuda"), recorded, launched], folder)


def test_pretraining_on_a_gpu_gives_the_losses_of_a_cpu(runs: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = runs
    assert_alike(folder / "fp32", folder / "cpu")
    assert_alike(folder / "bf16", folder / "cpu", relative=0.05)
    settings = [json.loads((folder / name / "run.json").read_text())["settings"] for name in ("cpu", "bf16")]
    assert [it["precision"] for it in settings] == ["fp32", "bf16"]


def test_extraction_on_a_gpu_gives_the_regions_of_a_cpu(runs: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = runs
    with open_dataset(folder / "features-cpu") as ours, open_dataset(folder / "features-cuda") as theirs:
        assert len(ours) == len(theirs) == 10
        for one, other in zip(ours, theirs, strict=True):
            assert one.key == other.key
            np.testing.assert_allclose(one.regions.boxes, other.regions.boxes, atol=0.01)
            np.testing.assert_allclose(one.regions.features, other.regions.features, rtol=1e-3, atol=0.005)
            np.testing.assert_array_equal(one.regions.object_ids, other.regions.object_ids)


def test_a_task_on_a_gpu_gives_the_losses_and_answers_of_a_cpu(runs: tuple[Path, dict[str, Any]]) -> None:
    folder, facts = runs
    assert_alike(folder / "vqa-cuda", folder / "vqa-cpu")
    answers = [json.loads((folder / f"results-{device}.json").read_text()) for device in ("cpu", "cuda")]
    assert answers[0] == answers[1]
    said = [json.loads(text[text.index("[") :]) for text in ((folder / "said-cpu").read_text(), facts["said"])]
    for ours, theirs in zip(*(rows[0]["ranked"] for rows in said), strict=True):
        assert ours["answer"] == theirs["answer"]
        assert ours["probability"] == pytest.approx(theirs["probability"], abs=1e-4)


def test_a_step_does_not_wait_for_the_gpu(runs: tuple[Path, dict[str, Any]]) -> None:
    """Neither in the step nor in the loop between two; nothing is copied from memory that is not page-locked."""
    recorded, launched = runs[1]["runs"]
    assert recorded["graphs"] > 0
    assert launched["graphs"] == 0
    for facts in (recorded, launched):
        assert facts["syncs"] == {}
        assert facts["pageable"] == {}
        assert facts["refused"] == {}


def test_ceilings_of_launches_and_the_kernel_of_attention(runs: tuple[Path, dict[str, Any]]) -> None:
    """Of a bfloat16 step of the tiny model; raise a number only with a reason."""
    launches = runs[1]["runs"][-1]["launches"]
    assert sum(launches.values()) < 640
    # The casts that are left are those of activations: weights are converted in one launch.
    assert launches["_to_copy"] < 110
    assert launches["_foreach_copy_"] < 12
    assert launches["_fused_adamw_"] < 10
    attention = {name for name in launches if "attention" in name}
    assert attention == {"_scaled_dot_product_efficient_attention", "_scaled_dot_product_efficient_attention_backward"}


@pytest.mark.slow
def test_two_gpus_with_frozen_layers_train_as_a_cpu(emulator: Path, data: Path, tmp_path: Path) -> None:
    assert main(arguments(data, tmp_path / "cpu", model="frozen")) == 0
    command = arguments(data, tmp_path / "gpus", "--device", "cuda", "--precision", "fp32", model="frozen")
    run_emulated(emulator, [command], tmp_path, gpus=2)
    assert_alike(tmp_path / "gpus", tmp_path / "cpu")
