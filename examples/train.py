"""Pre-train a small model on a data set from Python, and continue the run.

    python examples/train.py features/ runs/small --steps 20

The data set needs captions. The first call trains half of the steps; the second one resumes from its last checkpoint.
After an interruption at any moment the same command resumes, too.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from vilbert.pipeline.cli import main as run_command


def main() -> int:
    """Train, resume, load the model, and print the loss of each step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a data set that `vilbert extract` wrote")
    parser.add_argument("output", type=Path, help="folder of the run")
    parser.add_argument("--steps", type=int, default=20, help="number of optimizer steps")
    options = parser.parse_args()

    command = ["pretrain", options.data, "--output", str(options.output)]
    command += [
        "--model",
        "shapes",
        "--tokenizer",
        "new",
        "--init-from",
        "none",
    ]  # a small model and its own vocabulary
    command += ["--batch-size", "8", "--learning-rate", "1e-3", "--schedule", "constant", "--warmup", "0"]
    command += ["--log-every", "1", "--eval-split", "none", "--num-workers", "0"]
    for steps in (options.steps // 2, options.steps):  # at a constant learning rate a finished run can be extended
        if status := run_command([*command, "--max-steps", str(steps)]):
            return status

    for line in (options.output / "metrics.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if entry["kind"] == "train":
            print(f"step {entry['step']}: loss {entry['loss']:.3f}")

    from vilbert.model.vilbert import ViLBertForPreTraining

    model = ViLBertForPreTraining.from_pretrained(options.output / "final")
    print(f"{options.output / 'final'}: {model.num_parameters():,} parameters")
    return 0


if __name__ == "__main__":
    sys.exit(main())
