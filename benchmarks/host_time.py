"""Measure host time, kernel launches and synchronisations of a training step on a GPU.

If the host time of a step exceeds the GPU's time, the CPU limits the speed, whatever the chip. On the emulated device
of `../shared/emulated_gpu`, where kernels take no time and are not executed, only the host side is measured:

    python -m benchmarks.host_time --emulator ../shared/emulated_gpu

(Build it first: `bash build.sh` in a copy of that folder; this script adds CUDA graphs to it with gcc.) On a real GPU,
omit --emulator; launches and synchronisations are then not counted. Host time is the CPU time of this process. A graph
counts as one launch.

The model has the layers of the 6-layer model at small widths, which does not change the number of launches. The step is
that of the training loop, `train_step`.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, cast

import torch
import tyro
from torch import Tensor

from benchmarks.emulated_device import device_counts, launches, require_device, waits
from benchmarks.passes import layer_keys
from vilbert.model.config import ViLBertConfig, preset
from vilbert.model.packing import positions_of
from vilbert.model.vilbert import ViLBertForPreTraining
from vilbert.pipeline.train.engine.distributed import Group
from vilbert.pipeline.train.engine.loop import Training, train_step
from vilbert.pipeline.train.engine.objective import MicroBatch
from vilbert.pipeline.train.engine.optimizer import build_optimizer
from vilbert.pipeline.train.engine.optimizer_settings import OptimizerSettings
from vilbert.pipeline.train.engine.schedule import ScheduleSettings
from vilbert.pipeline.train.engine.step_graphs import StepGraphs
from vilbert.pipeline.train.engine.working_weights import working_weights
from vilbert.pipeline.train.examples.batch import Batch
from vilbert.pipeline.train.examples.buckets import filled_up
from vilbert.pipeline.train.pretraining.objective import PretrainObjective

THIN = {
    "hidden_size": 96, "num_attention_heads": 12, "intermediate_size": 384, "v_hidden_size": 128,
    "v_num_attention_heads": 8, "v_intermediate_size": 128, "bi_hidden_size": 128, "bi_num_attention_heads": 8,
    "vocab_size": 1000,
}  # fmt: skip
WORDS, REGIONS, FEATURES, CLASSES, TOP = 24, 36, 64, 1601, 20


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to measure."""

    emulator: Path | None = None
    """Folder of the built emulator; default: the GPU of this machine."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """As in `vilbert pretrain --precision`."""
    batch_size: int = 64
    """Captions, each with its image."""
    layers: int = 6
    """Visual and co-attention layers, with twice as many text layers."""
    steps: int = 10
    """Steps to measure, after four steps of warm-up."""
    cuda_graphs: bool = True
    """As in `vilbert pretrain --cuda-graphs`."""


def made_batch(rows: int, *, in_buckets: bool) -> Batch:
    """Return a batch as the loader makes it, in page-locked memory: 15 % of words and regions masked."""
    draw = torch.Generator().manual_seed(0)
    lengths = torch.randint(8, WORDS + 1, (rows,), generator=draw)
    lengths[0] = WORDS
    attention = (torch.arange(WORDS) < lengths[:, None]).long()
    ids = torch.randint(5, 1000, (rows, WORDS), generator=draw)
    masked = (torch.rand(rows, WORDS, generator=draw) < 0.15) & (attention > 0)
    words = torch.where(masked, ids, torch.full_like(ids, -1))
    regions = torch.where(torch.rand(rows, REGIONS, generator=draw) < 0.15, 1, -1)
    region_mask = torch.ones(rows, REGIONS, dtype=torch.long)
    positions = positions_of(attention, words, region_mask, regions)
    if in_buckets:
        positions = filled_up(positions, rows=rows, words=WORDS, regions=REGIONS + 1)
    made = Batch(
        input_ids=ids,
        attention_mask=attention,
        masked_lm_labels=words,
        features=torch.rand(rows, REGIONS, FEATURES, generator=draw).half(),
        zeroed=regions > 0,
        divisor=torch.full((rows,), float(REGIONS)),
        locations=torch.rand(rows, REGIONS, 5, generator=draw),
        region_mask=region_mask,
        image_label=regions,
        class_ids=torch.arange(TOP, dtype=torch.int32).expand(rows, REGIONS, TOP).contiguous(),
        class_probs=torch.full((rows, REGIONS, TOP), 0.04).half(),
        next_sentence_label=torch.arange(rows) % 2,
        image_ids=("",) * rows,
        unread=0,
        positions=vars(positions),
    )
    return made.pin_memory()


class TimedObjective(PretrainObjective):
    """The objective of pre-training, and when a forward pass ended."""

    def sums(self, model: torch.nn.Module, part: Batch, device: torch.device, seed: int) -> Tensor:
        """Return the losses, as `PretrainObjective.sums`."""
        sums = super().sums(model, part, device, seed)
        MARKS.append(("forward", time.process_time(), device_counts()))
        return sums


class TimedGraphs(StepGraphs):
    """Recorded passes, and when one was handed over."""

    def run(self, part: MicroBatch, counts: Tensor, *, first: bool) -> Tensor | None:
        """Replay, as `StepGraphs.run`."""
        sums = super().run(part, counts, first=first)
        if sums is not None:
            MARKS.append(("copies and replay", time.process_time(), device_counts()))
        return sums


MARKS: list[tuple[str, float, dict[str, int]]] = []
"""What ended in a step, when, and what the device had counted until then."""


def iter_nothing() -> Generator[list[Any], None, None]:
    """Yield no batches."""
    yield from ()


def made_training(settings: Settings) -> Training:
    """Return a run on the GPU, before its first step."""
    config = ViLBertConfig.from_dict(
        {
            **preset("bert_base_6layer_6conect").to_dict(),
            **layer_keys(settings.layers),
            **THIN,
            "v_feature_size": FEATURES,
            "v_target_size": CLASSES,
        }
    )
    config._attn_implementation = "sdpa"
    device, bfloat16 = torch.device("cuda", 0), settings.precision == "bf16"
    model = cast(Any, ViLBertForPreTraining(config)).to(device).train()
    optimizer_settings = OptimizerSettings()
    optimizer = build_optimizer(model, optimizer_settings, from_bert=True)

    def end(*_: object) -> None:
        MARKS.append(("optimizer", time.process_time(), device_counts()))

    def begin(*_: object) -> None:
        is_replayed = MARKS[-1][0] == "copies and replay"
        name = "clipping" if is_replayed else "backward and clipping"
        MARKS.append((name, time.process_time(), device_counts()))

    optimizer.register_step_pre_hook(begin)
    optimizer.register_step_post_hook(end)
    run: Any = SimpleNamespace(
        optimizer=optimizer_settings,
        schedule=ScheduleSettings(),
        non_finite="stop",
        batch_size=settings.batch_size,
    )
    objective = TimedObjective(
        num_classes=CLASSES, visual_target=0, feature_dim=FEATURES, bfloat16=bfloat16, seed=0, known_positions=True
    )
    working = working_weights(model, device=device, bfloat16=bfloat16, bare=True)
    return Training(
        settings=run,
        group=Group(rank=0, world=1, device=device),
        model=model,
        wrapped=model,
        optimizer=optimizer,
        objective=objective,
        total_steps=1000,
        train_batches=lambda steps: iter_nothing(),
        eval_batches=None,
        description={},
        working=working,
        graphs=TimedGraphs(model, objective, device, working) if settings.cuda_graphs else None,
    )


def measure(settings: Settings) -> None:
    """Print the medians of host time, launches and waits of a step, whole and by place."""
    torch.set_num_threads(1)
    training = made_training(settings)
    batch = made_batch(settings.batch_size, in_buckets=settings.cuda_graphs)
    spent: dict[str, list[tuple[float, int, int]]] = {}
    for number in range(4 + settings.steps):
        torch.cuda.synchronize()
        MARKS[:] = [("", time.process_time(), device_counts())]
        train_step(training, [batch])
        training.step += 1
        MARKS.append(("the rest", time.process_time(), device_counts()))
        if number < 4:
            continue
        for (_, begun, before), (name, ended, after) in itertools.pairwise(MARKS):
            figures = (1e3 * (ended - begun), launches(after) - launches(before), waits(after) - waits(before))
            spent.setdefault(name, []).append(figures)
        pairs = (MARKS[0], MARKS[-1])
        whole = [(mark[1], launches(mark[2]), waits(mark[2]), mark[2]["h2d_pageable"]) for mark in pairs]
        spent.setdefault("step", []).append(
            (1e3 * (whole[1][0] - whole[0][0]), whole[1][1] - whole[0][1], whole[1][2] - whole[0][2])
        )
        assert whole[1][3] == whole[0][3], "a step copied from pageable memory"
    print(f"{settings.precision}, batch {settings.batch_size}: medians of {settings.steps} steps (least CPU time)")
    for name, figures_of in spent.items():
        times, launched, waited = zip(*figures_of, strict=True)
        print(
            f"{name:24} {statistics.median(times):7.1f} ms ({min(times):6.1f}) "
            f"{statistics.median(launched):6.0f} launches {statistics.median(waited):4.0f} synchronisations"
        )


def main() -> None:
    """Measure, on the emulated device in this process, restarted with it."""
    settings = tyro.cli(Settings)
    require_device("benchmarks.host_time", settings.emulator)
    measure(settings)


if __name__ == "__main__":
    main()
