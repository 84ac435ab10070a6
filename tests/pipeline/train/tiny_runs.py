"""Runs of the whole command that take a second: their model, their options, what they wrote down."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vilbert.pipeline.train.run.journal import read_journal, without_timing

MODEL = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16,
    "max_position_embeddings": 40, "v_hidden_size": 16, "v_num_hidden_layers": 1, "v_num_attention_heads": 2,
    "v_intermediate_size": 16, "bi_hidden_size": 16, "bi_num_attention_heads": 2, "v_biattention_id": [0],
    "t_biattention_id": [1],
}  # fmt: skip
# Dropout's masks belong to (seed, step, rank, part): without it, losses are those of any number of processes and parts.
PARTS = ("hidden", "attention_probs", "v_hidden", "v_attention_probs", "pooled")
WITHOUT_DROPOUT = {**MODEL, **{f"{part}_dropout_prob": 0.0 for part in PARTS}}


def pretrain_arguments(
    data: Sequence[Path], output: Path, model: Path, *, steps: int, batch_size: int, eval_every: int, save_every: int
) -> list[str]:
    """Return the command line, without `vilbert`, of a run that writes down each step; options behind it go over it."""
    return [
        "pretrain", *map(str, data), "--output", str(output), "--model", str(model), "--tokenizer", "new",
        "--init-from", "none", "--batch-size", str(batch_size), "--max-steps", str(steps), "--log-every", "1",
        "--eval-every", str(eval_every), "--checkpoint-every", str(save_every), "--num-workers", "0",
        "--device", "cpu", "--tracker", "none", "--learning-rate", "0.01", "--window", "8",
    ]  # fmt: skip


STEPS = 8


def two_sets(folder: Path, make_dataset: Callable[..., Path]) -> Path:
    """Write two data sets, one of each storage, and a model's config beside them; return the folder."""
    make_dataset(folder / "a", samples=21, shard_size=5, splits=lambda row: "val" if row % 4 == 3 else "train")
    make_dataset(folder / "b", samples=13, shard_size=6, storage="lmdb", seed=1, regions=lambda row: 2 + row % 4)
    (folder / "model.json").write_text(json.dumps(MODEL))
    return folder


def arguments(data: Path, output: Path, *more: str) -> list[str]:
    """Return the command line of a run of `STEPS` steps on the data sets of `two_sets`."""
    sizes = {"steps": STEPS, "batch_size": 8, "eval_every": 4, "save_every": 2}
    return [*pretrain_arguments([data / "a", data / "b"], output, data / "model.json", **sizes), *more]


def model_option(path: Path, model: dict[str, Any]) -> list[str]:
    """Write a model's config and return the options that name it."""
    path.write_text(json.dumps(model))
    return ["--model", str(path)]


def journal(run: Path) -> list[dict[str, Any]]:
    """Return what a run wrote down but for times."""
    return without_timing(read_journal(run))
