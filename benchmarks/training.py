"""Measure the overhead of the training loop: its speed, its memory, and the effect of the size of the index.

speed: samples per second of `run_steps`, as `vilbert pretrain` runs it with one loader worker, divided by those of the
bare step (forward, backward, clip, optimizer) on the same batches in memory. Both take turns in one run; the ratio is
the median over turns. Evaluations and checkpoints are not included, because their number is a setting; the journal and
the progress line are. Both start from the same parameters.

memory: resident memory of the process and its worker after 200 steps and after 2 000 steps of a small model. oneDNN's
programs grow for a while, by 0.6 MB for each new number of rows (`model/linear.py`); at most 1024 are kept. `--leak 50`
keeps 50 kB of each step on purpose, to show that the limit is then missed. Memory is always measured first, because
memory that another part has freed and that the C library still holds would hide growth.

index: time to make a batch from an index of 10 thousand and of 10 million samples, by turns: the windows of the order,
the choice of partners, and reading. All reads come from one small data set, by position modulo its size.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
import torch
import tyro
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from benchmarks.loader import conditions
from benchmarks.model import cell, markdown
from benchmarks.samples import SampleShape, draw_captions, draw_words, write_samples
from vilbert.pipeline.train.data.corpus import Corpus
from vilbert.pipeline.train.data.order import Order, Places
from vilbert.pipeline.train.engine.distributed import process_group
from vilbert.pipeline.train.engine.loop import Training, run_steps
from vilbert.pipeline.train.engine.optimizer import clip_gradients
from vilbert.pipeline.train.engine.share import share_of
from vilbert.pipeline.train.engine.step import backward
from vilbert.pipeline.train.examples.batch import Batch, make_batches
from vilbert.pipeline.train.examples.item_settings import ItemSettings
from vilbert.pipeline.train.examples.words import new_tokenizer
from vilbert.pipeline.train.pretraining.data import open_data
from vilbert.pipeline.train.pretraining.run import prepare
from vilbert.pipeline.train.pretraining.settings import PretrainSettings
from vilbert.pipeline.train.run.journal import Journal
from vilbert.pipeline.train.run.progress import TrainProgress
from vilbert.pipeline.train.run.trackers import open_trackers

SPEED_LIMIT, GROWTH_LIMIT, INDEX_LIMIT = 0.97, 1.02, 1.1
UNTIMED = 3  # steps at the beginning of a turn: what the worker had made before it is no measure
NEVER = 1 << 40
SMALL = SampleShape(regions=8, feature_dim=64, classes=50, top_classes=5)
TINY_MODEL = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "max_position_embeddings": 40, "v_hidden_size": 32, "v_num_hidden_layers": 1, "v_num_attention_heads": 2,
    "v_intermediate_size": 32, "bi_hidden_size": 32, "bi_num_attention_heads": 2, "v_biattention_id": [0],
    "t_biattention_id": [1],
}  # fmt: skip
Part = Literal["speed", "memory", "index"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to measure."""

    parts: tuple[Part, ...] = ("memory", "speed", "index")
    """Parts to measure."""
    model: str = "shapes"
    """The model whose speed is measured: a shipped or published name, or a config.json."""
    batch_size: int = 64
    """Pairs per step."""
    threads: int = 2
    """CPU threads."""
    num_workers: int = 1
    """Loader workers."""
    turns: int = 7
    """Number of turns of loop and bare step; one more is not timed."""
    steps: int = 12
    """Steps per turn; the first three are not timed."""
    memory_steps: int = 2000
    """Step at which memory is measured again."""
    leak: int = 0
    """Kilobytes of each step that the memory part keeps, to see that its limit is missed."""
    samples: int = 512
    """Samples of the data set."""
    seed: int = 0
    """Random seed."""
    json: bool = False
    """Print one JSON object instead of the table."""


def write_data(folder: Path, shape: SampleShape, settings: Settings) -> list[str]:
    """Write a data set and return its captions."""
    captions = draw_captions(draw_words(settings.seed), settings.samples, settings.seed)
    write_samples(folder, captions, shape, seed=settings.seed, storage="tar", shard_size=128)
    return captions


def pretrain_settings(data: Path, output: Path, settings: Settings, *, steps: int) -> PretrainSettings:
    """Return the settings of a run of so many steps without evaluations, and with one checkpoint at its end."""
    return PretrainSettings(
        data=(str(data),), output=output, eval_split="none", model=settings.model, tokenizer="new", init_from="none",
        batch_size=settings.batch_size, max_steps=steps, device="cpu", num_workers=settings.num_workers,
        seed=settings.seed, eval_every=NEVER, checkpoint_every=NEVER,
    )  # fmt: skip


def run(training: Training) -> None:
    """Run all steps as `vilbert pretrain` does, its progress line and journal included."""
    trackers = open_trackers(training.settings.tracker, training.run, {}, resumed_at=None)
    journal = Journal(training.run, resumed_at=None, trackers=trackers)
    progress = TrainProgress(training.total_steps, 0, training.settings.batch_size)
    run_steps(training, journal, progress)
    progress.close()
    journal.close()


def bare_step(training: Training, parts: list[Any], step: int) -> None:
    """Make a step and nothing else."""
    backward(training.wrapped, parts, training.objective, training.group, step)
    clip_gradients(training.model.parameters(), training.settings.optimizer)
    training.optimizer.step()
    training.optimizer.zero_grad(set_to_none=True)


def take_turns(loop: Training, bare: Training, *, turns: int, steps: int) -> list[tuple[float, float]]:
    """Run the loop; between turns, do without it what it did, on the same batches.

    loop: of turns * steps + 1 steps, so that the last one of a turn has an end. Returns seconds a step of the loop and
    of the bare step, of each turn.
    """
    taken: list[tuple[float, float]] = []

    def by_turns(every: range) -> Generator[list[Any], None, None]:
        """Yield batches to the loop, and keep them until the turn is over."""
        made = source(every)
        for start in range(0, turns * steps, steps):
            spent, kept = [], []
            for _ in range(steps):
                started = time.perf_counter()
                kept.append(next(made))
                yield kept[-1]
                spent.append(time.perf_counter() - started)
            alone = []
            for step, parts in enumerate(kept, start):
                started = time.perf_counter()
                bare_step(bare, parts, step)
                alone.append(time.perf_counter() - started)
            taken.append((statistics.mean(spent[UNTIMED:]), statistics.mean(alone[UNTIMED:])))
            print(f"loop {taken[-1][0]:.4f} s, bare {taken[-1][1]:.4f} s", file=sys.stderr, flush=True)
        yield next(made)

    source, loop.train_batches = loop.train_batches, by_turns
    run(loop)
    return taken


def compare(taken: list[tuple[float, float]], batch_size: int, limit: float | None = None) -> dict[str, Any]:
    """Return samples a second of the bare step and of the loop, and the median ratio; the first turn is left out."""
    ratios = [alone / spent for spent, alone in taken[1:]]
    loop, bare = (batch_size / statistics.median(column) for column in zip(*taken[1:], strict=True))
    spread = (min(ratios), max(ratios))
    return {"from": bare, "to": loop, "ratio": statistics.median(ratios), "limit": limit, "turns": spread}


def measure_speed(settings: Settings, folder: Path) -> dict[str, Any]:
    """Return samples a second of the loop and of the bare step, and the median ratio."""
    captions = write_data(folder / "data", SampleShape(), settings)
    turns = settings.turns + 1
    wanted = pretrain_settings(folder / "data", folder / "run", settings, steps=turns * settings.steps + 1)
    with process_group("cpu") as group:
        data = open_data(wanted)
        tokenizer = new_tokenizer(captions)
        loop, bare = (prepare(wanted, data, tokenizer, group) for _ in range(2))
        taken = take_turns(loop, bare, turns=turns, steps=settings.steps)
    name = f"speed, {settings.model}, batch {settings.batch_size}: loop over bare step, samples/s"
    return {"figure": name, **compare(taken, settings.batch_size, SPEED_LIMIT)}


def resident() -> float:
    """Return the resident memory of this process and its children in MB."""
    own = psutil.Process()
    return float(sum(each.memory_info().rss for each in (own, *own.children(recursive=True)))) / 1e6


def measure_memory(settings: Settings, folder: Path) -> dict[str, Any]:
    """Return the memory after 200 steps, when every shard was read and every buffer made, and at the end."""
    captions = write_data(folder / "data", SMALL, settings)
    (folder / "model.json").write_text(json.dumps(TINY_MODEL))
    small = replace(settings, model=str(folder / "model.json"), batch_size=16)
    wanted = pretrain_settings(folder / "data", folder / "run", small, steps=settings.memory_steps)
    found: dict[int, float] = {}
    leaked: list[bytes] = []
    with process_group("cpu") as group:
        training = prepare(wanted, open_data(wanted), new_tokenizer(captions), group)

        def watched(every: range) -> Generator[list[Batch], None, None]:
            for step, parts in enumerate(source(every), start=1):
                if step in (200, settings.memory_steps):
                    found[step] = resident()
                leaked.append(b"x" * (1000 * settings.leak))
                yield parts

        source, training.train_batches = training.train_batches, watched
        run(training)
    before, after = found.values()
    name = f"memory after 200 and after {settings.memory_steps} steps, MB"
    name += f", {settings.leak} kB a step leaked" if settings.leak else ""
    return {"figure": name, "from": before, "to": after, "ratio": after / before, "limit": GROWTH_LIMIT, "turns": None}


class FoldedOrder(Order):
    """An order over more samples than there are: places are those of a small data set, modulo its size."""

    def __init__(self, samples: int, corpus: Corpus, *, seed: int) -> None:
        super().__init__([np.full(samples // 1000, 1000, dtype=np.int64)], seed=seed)
        self._there = corpus.shard_sizes[0]

    def at(self, positions: NDArray[np.int64]) -> Places:
        """Return places that can be read; sample, epoch and window are those of the large index."""
        places = super().at(positions)
        shard = places.shard % len(self._there)
        return places._replace(shard=shard, index=places.index % self._there[shard])


def measure_index(settings: Settings, folder: Path) -> dict[str, Any]:
    """Return milliseconds to make a batch at 10 thousand and at 10 million samples; what the first batch took beside.

    A turn is 128 consecutive steps somewhere in an epoch, enough to work a window of the order out.
    """
    captions = write_data(folder / "data", SampleShape(), settings)
    corpus = Corpus.open([str(folder / "data")], split="train")
    tokenizer: PreTrainedTokenizerBase = new_tokenizer(captions)
    wanted = pretrain_settings(folder / "data", folder / "run", settings, steps=1)
    with process_group("cpu") as group:
        part = share_of(wanted, group)
    orders = {samples: FoldedOrder(samples, corpus, seed=settings.seed) for samples in (10_000, 10_000_000)}
    taken: dict[int, list[float]] = {samples: [] for samples in orders}
    for turn in range(settings.turns + 1):
        for samples, order in orders.items():
            first = turn * 997 * settings.batch_size % (samples // settings.batch_size - 128)
            started = time.perf_counter()
            for step in range(first, first + 128):
                make_batches(corpus, order, tokenizer, ItemSettings(), part, step, seed=settings.seed)
            taken[samples].append((time.perf_counter() - started) / 128 * 1000)
    small, large = (statistics.median(spent[1:]) for spent in taken.values())
    ratios = [after / before for before, after in zip(*taken.values(), strict=True)][1:]
    name = "index of 10 thousand and of 10 million samples, ms per batch"
    ratio, spread = statistics.median(ratios), (min(ratios), max(ratios))
    return {"figure": name, "from": small, "to": large, "ratio": ratio, "limit": INDEX_LIMIT, "turns": spread}


def missed(row: dict[str, Any]) -> bool:
    """Say whether a figure misses its limit, if it has one: speed may not fall below, the others not rise above."""
    if row["limit"] is None:
        return False
    return bool(row["ratio"] < row["limit"] if row["limit"] < 1 else row["ratio"] > row["limit"])


def main(settings: Settings) -> int:
    """Print the table; return 1 if a limit is missed."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # no threads before the workers fork
    torch.set_num_threads(settings.threads)
    facts = {**conditions(), "threads": str(settings.threads), "workers": str(settings.num_workers)}
    measures = {"speed": measure_speed, "memory": measure_memory, "index": measure_index}
    rows = []
    for part in sorted(settings.parts, key=lambda part: part != "memory"):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measures[part](settings, Path(folder)))
    return show(facts, rows, as_json=settings.json)


def show(facts: dict[str, str], rows: list[dict[str, Any]], *, as_json: bool) -> int:
    """Print the rows as a table or as one JSON object; return 1 where a limit is missed."""
    failed = [row["figure"] for row in rows if missed(row)]
    if as_json:
        print(json.dumps({**facts, "rows": rows, "missed": failed}))
        return int(bool(failed))
    print(", ".join(f"{name} {value}" for name, value in facts.items()) + "\n")
    forms = {"from": ",.2f", "to": ",.2f", "ratio": ".3f", "limit": ""}
    shown = [
        [row["figure"], *(cell(row[key], forms[key]) for key in forms),
         "" if row["turns"] is None else " to ".join(f"{value:.3f}" for value in row["turns"])]
        for row in rows
    ]  # fmt: skip
    print(markdown(["measure", *forms, "range over turns"], shown))
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings)))
