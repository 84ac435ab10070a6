"""Write the golden losses: `PYTHONPATH=. python tests/pipeline/train/golden/make.py`, from the repository's root.

They change with what a run computes: the order, a mask, the model, dropout, the optimizer, the schedule. A change that
means to leave all of it alone must leave them alone; one that does not says so in CHANGELOG.md.
"""

from __future__ import annotations

import json
import runpy
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from vilbert.pipeline.cli import main
from vilbert.pipeline.train.run.journal import read_journal

STEPS = 20
NAMES = ("masked_lm_loss", "masked_image_loss", "alignment_loss", "gradient_norm")
# Every rate of dropout is the default, 0.1.
MODEL = {
    "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64,
    "max_position_embeddings": 40, "v_hidden_size": 32, "v_num_hidden_layers": 2, "v_num_attention_heads": 2,
    "v_intermediate_size": 64, "bi_hidden_size": 32, "bi_num_attention_heads": 2, "v_biattention_id": [0, 1],
    "t_biattention_id": [1, 2],
}  # fmt: skip


def golden_losses(folder: Path, make_dataset: Callable[..., Path]) -> list[dict[str, float]]:
    """Train in `folder`, which is empty, with one thread and dropout; return what each step gave."""
    make_dataset(folder / "tar", samples=40, shard_size=16, feature_dim=16, regions=lambda row: 2 + row % 7)
    make_dataset(folder / "lmdb", samples=20, shard_size=8, feature_dim=16, storage="lmdb", seed=1)
    (folder / "model.json").write_text(json.dumps(MODEL))
    arguments = [
        "pretrain", str(folder / "tar"), str(folder / "lmdb"), "--output", str(folder / "run"), "--model",
        str(folder / "model.json"), "--tokenizer", "new", "--init-from", "none", "--eval-split", "none", "--batch-size",
        "16", "--grad-accumulation", "2", "--max-steps", str(STEPS), "--log-every", "1", "--num-workers", "0",
        "--device", "cpu", "--tracker", "none", "--learning-rate", "0.003", "--window", "24",
    ]  # fmt: skip
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the order in which threads add changes the last bits
    try:
        if main(arguments) != 0:
            raise RuntimeError("the run failed; its message is above")
    finally:
        torch.set_num_threads(threads)
    entries = [entry for entry in read_journal(folder / "run") if entry["kind"] == "train"]
    return [{name: entry[name] for name in NAMES} for entry in entries]


if __name__ == "__main__":
    beside = Path(__file__).parent
    with tempfile.TemporaryDirectory() as temporary:
        found = golden_losses(
            Path(temporary), runpy.run_path(str(beside.parent / "conftest.py"))["write_dataset_folder"]
        )
    content = {"torch": str(torch.__version__), "steps": found}
    written = Path(sys.argv[1]) if len(sys.argv) > 1 else beside / "losses.json"
    written.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
