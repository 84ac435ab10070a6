"""What the training loop costs beside the model, task by task, as `benchmarks/training.py` measures it of pre-training.

Items a second of `run_steps`, as `vilbert finetune TASK --config shapes` runs it with one loader worker, over those of
the bare step (forward, backward, clip, optimizer) on the same batches, by turns in one run. An item is a question, a
phrase, or a caption; of four choices, all four.
"""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Python looks in the folder of the file it runs first, where `model` would be that script and not the package.
sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch  # noqa: E402
import tyro  # noqa: E402

from benchmarks.loader import conditions  # noqa: E402
from benchmarks.tasks import PROOFS  # noqa: E402
from benchmarks.training import NEVER, compare, show, take_turns  # noqa: E402
from pipeline.cli import parse  # noqa: E402
from pipeline.tasks.finetune import begin  # noqa: E402
from pipeline.train.distributed import process_group  # noqa: E402
from pipeline.train.run_folder import make_run_folder  # noqa: E402


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to measure."""

    data: tyro.conf.Positional[Path]
    """Features of a shapes data set, as `vilbert demo` extracts them."""
    shapes: Path
    """The shapes data set, with its annotations."""
    pretrained: Path
    """The final/ of a run of `vilbert pretrain --config shapes`."""
    tasks: tuple[str, ...] = tuple(PROOFS)
    """Which tasks."""
    threads: int = 1
    """CPU threads of the model."""
    turns: int = 7
    """How often loop and bare step take turns; one more goes untimed."""
    steps: int = 12
    """Steps of a turn, the first three untimed."""
    json: bool = False
    """Print one JSON object in place of the table."""


def measure(settings: Settings, task: str, folder: Path) -> dict[str, Any]:
    """Return items a second of the loop and of the bare step, and the median ratio."""
    turns = settings.turns + 1
    with process_group("cpu") as group:
        stages = []
        for name in ("loop", "bare"):
            wanted = parse(
                "finetune",
                [
                    *(task, str(settings.data), "--annotations", str(settings.shapes / PROOFS[task].annotations)),
                    *("--config", "shapes", "--init-from", str(settings.pretrained), "--output", str(folder / name)),
                    *("--max-steps", str(turns * settings.steps + 1), "--eval-split", "none"),
                    *("--eval-every", str(NEVER), "--checkpoint-every", str(NEVER), "--no-tensorboard"),
                ],
            )
            make_run_folder(wanted.output)
            stages.append(begin(wanted, group))
            stages[-1].load_start()
        loop, bare = (stage.training for stage in stages)
        taken = take_turns(loop, bare, turns=turns, steps=settings.steps)
    size = loop.settings.batch_size
    return {"figure": f"{task}, batch {size}: loop over bare step, items/s", **compare(taken, size)}


def main(settings: Settings) -> int:
    """Print the table; return 0."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # no threads before the workers fork
    torch.set_num_threads(settings.threads)
    facts = {**conditions(), "threads": str(settings.threads)}
    rows = []
    for task in settings.tasks:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(settings, task, Path(folder)))
    return show(facts, rows, as_json=settings.json)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings, description=__doc__)))
