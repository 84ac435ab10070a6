"""Measure what fine-tuning learns on the shapes data set: pre-trained, blind and from scratch, for several seeds.

Each model is trained with `vilbert finetune TASK --config shapes` and evaluated on held-out scenes with
`vilbert evaluate`, normally and blind (with the regions of another scene). The same model is also trained from random
parameters. The exit status is 1 if any seed misses a limit.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import tyro

from benchmarks.model import markdown
from vilbert.pipeline.cli import main as vilbert
from vilbert.pipeline.tasks.captioning.truth import read_scenes, truth_share


class Proof(NamedTuple):
    """How a task is measured, and what it has to reach."""

    annotations: str
    """In the shapes data set."""
    figure: str
    """Of the evaluation; `true` is the share of captions that are true of their scene."""
    least: float
    above_blind: float = 0.0
    """Minimum difference to the blind model."""
    options: tuple[str, ...] = ()
    """Of the evaluation."""


PROOFS = {
    "vqa": Proof("vqa", "accuracy", 0.9, above_blind=0.3),
    "vcr-qa": Proof("vcr1annots", "accuracy", 0.85),
    "vcr-qar": Proof("vcr1annots", "accuracy", 0.85),
    "refcocog": Proof("refer/refcocog", "accuracy", 0.85),
    "retrieval": Proof("karpathy", "image_retrieval_r1", 0.5, options=("--images", "100")),
    "captioning": Proof("karpathy", "true", 0.8, options=("--max-tokens", "36")),
}
FROM_NOTHING = ("--init-from", "none", "--model", "shapes", "--tokenizer", "shapes", "--whiten-features")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Fine-tune on each task and compare."""

    data: tyro.conf.Positional[Path]
    """Features of a shapes data set, as `vilbert demo` extracts them."""
    shapes: Path
    """The shapes data set, with its annotations."""
    pretrained: Path
    """The final/ of a run of `vilbert pretrain --config shapes`."""
    tasks: tuple[str, ...] = tuple(PROOFS)
    """Tasks to measure."""
    seeds: tuple[int, ...] = (42,)
    """Seeds of the runs."""
    scratch_seeds: tuple[int, ...] = (42,)
    """Seeds of the runs that start from random parameters."""
    output: Path | None = None
    """Folder of the runs; existing runs are not trained again. By default, runs are deleted."""


def run(*command: object) -> None:
    """Run a command of ours; stop where it fails."""
    if status := vilbert([str(part) for part in command]):
        raise SystemExit(status)


def evaluated(settings: Settings, task: str, checkpoint: Path, *more: str) -> dict[str, float]:
    """Return the figures of held-out scenes."""
    proof = PROOFS[task]
    results = checkpoint / f"val{'-'.join(more)}.json"
    run(
        *("evaluate", task, settings.data, "--annotations", settings.shapes / proof.annotations, "--split", "val"),
        *("--checkpoint", checkpoint, "--output", results, *proof.options, *more),
    )
    figures: dict[str, float] = json.loads(results.with_suffix(".figures.json").read_text(encoding="utf-8"))
    if task == "captioning":
        captions = {str(row["image_id"]): row["caption"] for row in json.loads(results.read_text(encoding="utf-8"))}
        figures["true"] = truth_share(captions, read_scenes(settings.shapes / "scenes.jsonl"))
    return figures


def trained(settings: Settings, task: str, folder: Path, name: str, seed: int, begin: Sequence[object]) -> Path:
    """Fine-tune, or go on with it, and return the run's folder."""
    output = folder / f"{task}-{name}-{seed}"
    run(
        *("finetune", task, settings.data, "--annotations", settings.shapes / PROOFS[task].annotations),
        *("--config", "shapes", "--output", output, "--seed", seed, *begin),
    )
    return output


def measure(settings: Settings, task: str, folder: Path) -> tuple[list[str], bool]:
    """Return the task's row of the table, and whether it keeps its limits."""
    proof = PROOFS[task]
    seeing, blind = [], []
    for seed in settings.seeds:
        checkpoint = trained(settings, task, folder, "pretrained", seed, ["--init-from", settings.pretrained])
        seeing.append(evaluated(settings, task, checkpoint)[proof.figure])
        blind.append(evaluated(settings, task, checkpoint, "--blind")[proof.figure])
    scratch = [
        evaluated(settings, task, trained(settings, task, folder, "scratch", seed, FROM_NOTHING))[proof.figure]
        for seed in settings.scratch_seeds
    ]
    kept = all(
        figure >= proof.least and figure - by_chance >= proof.above_blind
        for figure, by_chance in zip(seeing, blind, strict=True)
    )
    return [f"{task}, {proof.figure}", spread(seeing), spread(blind), spread(scratch), str(proof.least)], kept


def spread(figures: Sequence[float]) -> str:
    """Return the mean and, of several, the lowest and the highest."""
    if not figures:
        return ""
    around = f" ({min(figures):.3f}-{max(figures):.3f})" if len(figures) > 1 else ""
    return f"{mean(figures):.3f}{around}"


def main(settings: Settings) -> int:
    """Print a table of all tasks; return 1 where one misses a limit."""
    with tempfile.TemporaryDirectory() as folder:
        found = [measure(settings, task, settings.output or Path(folder)) for task in settings.tasks]
    heads = ["held-out scenes", "pre-trained", "blind", "from scratch", "limit"]
    print(markdown(heads, [row for row, _ in found]))
    return int(not all(kept for _, kept in found))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings, description=__doc__)))
