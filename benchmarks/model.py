"""Measure time and memory of a forward and backward pass, compared with the published ViLBERT.

The published model is loaded from a checkout of its repository. Both have the same weights, captions and labels and
take turns in one run; medians are printed. Before the measurement, both must give the same losses. A second table shows
the floating-point operations by part of the model.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro

from benchmarks.batches import Batch, crop, make_batch
from benchmarks.flops import counted_flops
from benchmarks.machine import versions
from benchmarks.passes import (
    Way,
    losses,
    matrix_rate,
    our_config,
    our_model,
    require_equal_losses,
    seconds,
    step,
    their_model,
)
from vilbert.pipeline.train.engine.flops import Shape, forward_flops


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to measure."""

    reference: Path | None = None
    """A checkout of vilbert_beta or vilbert-multi-task; without it, only our model is measured."""
    batch_size: int = 8
    """Captions, each with its image, in a batch."""
    words: int = 36
    """Length to which the reference pads every caption."""
    regions: int = 37
    """Regions of an image, the global one included."""
    rounds: int = 5
    """Batches; each is timed once with every method, and medians are printed."""
    threads: int = 2
    """CPU threads."""
    layers: int = 6
    """Visual and co-attention layers, with twice as many text layers: 6 is the published model, 1 a quick trial."""
    seed: int = 0
    """Seed of the batches."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Device; on cuda also compiled, with the share of the rate that a large matrix product reaches."""
    memory: bool = True
    """Measure peak memory, too, each method in a separate process."""
    check_flops: bool = False
    """Compare the table of operations with torch's own counter, and stop."""
    json: bool = False
    """Print one JSON object instead of the tables."""
    memory_of: str | None = None
    """Run only this method and print its peak memory in MB; used by the script itself."""


def ways(settings: Settings) -> list[Way]:
    """Return the rows of the table, the reference first where there is one."""
    longest, full = "padded to the longest", f"padded to {settings.words}"
    rows = [
        Way(name=f"reference, float32, {full}", ours=False),
        Way(name=f"ours, float32, {full}", limit=1.25),
        Way(name=f"ours, float32, {longest}", cropped=True, limit=2.0),
        Way(name=f"ours, bfloat16, {full}", bfloat16=True),
        Way(name=f"ours, bfloat16, {longest}", bfloat16=True, cropped=True, limit=3.0),
    ]
    if settings.device == "cuda":
        rows.append(Way(name=f"ours, bfloat16, compiled, {full}", bfloat16=True, compiled=True))
        rows.append(Way(name=f"ours, bfloat16, compiled, {longest}", bfloat16=True, compiled=True, cropped=True))
    return [way for way in rows if way.ours or settings.reference is not None]


def device_batch(settings: Settings, number: int) -> Batch:
    """Return batch `number`, on the device."""
    batch = make_batch(
        our_config(settings.layers),
        rows=settings.batch_size,
        words=settings.words,
        regions=settings.regions,
        seed=settings.seed * 1000 + number,
    )
    return {name: tensor.to(settings.device) for name, tensor in batch.items()}


def a_model(settings: Settings, *, ours: bool) -> torch.nn.Module:
    """Return a model with random weights, on the device, in training mode."""
    if not ours and settings.reference is None:
        raise ValueError("the reference needs its checkout: give --reference")
    model = (
        our_model(settings.layers)
        if ours or settings.reference is None
        else their_model(settings.reference, settings.layers)
    )
    return model.to(settings.device).train()


def measured_peak(settings: Settings) -> float:
    """Run one way on two batches; return the peak memory in MB, of the process or of what torch took of the GPU."""
    (way,) = [way for way in ways(settings) if way.name == settings.memory_of]
    model = a_model(settings, ours=way.ours)
    run = torch.compile(model) if way.compiled else model
    for number in range(2):
        step(run, way, device_batch(settings, number))
        model.zero_grad()
    if settings.device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def peak_memory(way: Way) -> float:
    """Return the peak memory of one way in MB, from a process of its own that runs this script with these arguments."""
    command = [sys.executable, "-m", "benchmarks.model", *sys.argv[1:], "--memory-of", way.name]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def median_seconds(settings: Settings) -> dict[str, float]:
    """Return each way's median over the batches, all ways taking turns on each batch."""
    batches = [device_batch(settings, number) for number in range(settings.rounds)]
    ours = a_model(settings, ours=True)
    theirs = None
    if settings.reference is not None:
        theirs = a_model(settings, ours=False)
        theirs.load_state_dict(ours.state_dict(), strict=True)
        require_equal_losses(ours, theirs, batches[0])
        theirs.train()
        ours.train()
    compiled: Callable[..., object] = torch.compile(ours) if settings.device == "cuda" else ours
    # One turn goes untimed; compiled models need each shape once.
    untimed = batches if settings.device == "cuda" else batches[:1]
    taken: dict[str, list[float]] = {way.name: [] for way in ways(settings)}
    for turn, batch in enumerate([*untimed, *batches], start=-len(untimed)):
        for way in ways(settings):
            model = (compiled if way.compiled else ours) if way.ours else theirs
            assert model is not None
            spent = seconds(functools.partial(step, model, way, batch), settings.device)
            for used in (ours, theirs):
                if used is not None:
                    used.zero_grad()
            if turn >= 0:
                taken[way.name].append(spent)
                print(f"{way.name}: {spent:.3f} s", file=sys.stderr, flush=True)
    return {name: statistics.median(values) for name, values in taken.items()}


def flop_table(settings: Settings, batch: Batch) -> dict[str, dict[str, int]]:
    """Return a forward pass's operations by part: the reference's, ours on the same batch, ours on the cropped one."""
    config, cropped = our_config(settings.layers), crop(batch)
    return {
        "reference": forward_flops(config, whole_shape(batch)),
        "ours": forward_flops(config, read_shape(batch)),
        "ours, cropped": forward_flops(config, read_shape(cropped)),
    }


def whole_shape(batch: Batch) -> Shape:
    """Return the shape of a pass that computes every position."""
    (rows, words), regions = batch["input_ids"].shape, batch["image_feat"].shape[1]
    text, image = rows * words, rows * regions
    return Shape(
        rows=rows,
        words=words,
        regions=regions,
        words_computed=text,
        words_read=text,
        regions_read=image,
        words_predicted=text,
        regions_predicted=image,
    )


def read_shape(batch: Batch) -> Shape:
    """Return the shape of a pass that computes what losses read: words that are no padding, labels, first positions."""
    words, regions = int((batch["masked_lm_labels"] >= 0).sum()), int((batch["image_label"] == 1).sum())
    whole = whole_shape(batch)
    return dataclasses.replace(
        whole,
        words_computed=int(batch["attention_mask"].sum()),
        words_read=words + whole.rows,
        regions_read=regions + whole.rows,
        words_predicted=words,
        regions_predicted=regions,
    )


def check_flops(settings: Settings) -> int:
    """Print the table's sums beside torch's count; return 1 where they differ by more than one in a hundred."""
    batch, worst = device_batch(settings, 0), 0.0
    for name, parts in flop_table(settings, batch).items():
        ours = name != "reference"
        if not ours and settings.reference is None:
            continue
        model, used = a_model(settings, ours=ours), crop(batch) if name == "ours, cropped" else batch
        counted = counted_flops(functools.partial(losses, model, used, ours=ours))
        off = sum(parts.values()) / counted - 1
        worst = max(worst, abs(off))
        print(f"{name}: {sum(parts.values()) / 1e9:.3f} GFLOP by the table, {counted / 1e9:.3f} counted ({off:+.3%})")
    return int(worst > 0.01)


def conditions(settings: Settings) -> dict[str, str]:
    """Return what the figures depend on besides the code."""
    return {**versions(settings.device), "threads": str(settings.threads)}


def measure(settings: Settings) -> list[dict[str, object]]:
    """Return the rows of the table: seconds, times the reference, limit, peak MB; on cuda share of the matrix rate."""
    rows = ways(settings)
    peaks = {way.name: peak_memory(way) for way in rows} if settings.memory else {}
    medians = median_seconds(settings)
    base = None if settings.reference is None else medians[rows[0].name]
    rate = matrix_rate(settings.device) if settings.device == "cuda" else None
    table: list[dict[str, object]] = []
    for way in rows:
        row: dict[str, object] = {"way": way.name, "seconds": medians[way.name], "limit": way.limit}
        row["ratio"] = None if base is None else base / medians[way.name]
        row["peak_mb"] = peaks.get(way.name)
        if rate is not None:
            row["matrix_rate_share"] = step_flops(settings, way) / medians[way.name] / rate
        table.append(row)
    return table


def step_flops(settings: Settings, way: Way) -> float:
    """Return the operations of forward and backward, thrice those of forward, the median over the batches."""
    key = "ours, cropped" if way.cropped else "ours" if way.ours else "reference"
    tables = [flop_table(settings, device_batch(settings, number)) for number in range(settings.rounds)]
    return 3 * statistics.median(sum(table[key].values()) for table in tables)


def markdown(heads: list[str], rows: list[list[str]]) -> str:
    """Return a table whose first column is text and whose others are numbers."""
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def cell(value: object, form: str) -> str:
    """Return a number as text, nothing for None."""
    return "" if value is None else format(value, form)


def main(settings: Settings) -> int:
    """Print the tables; return 1 if a limit is missed."""
    torch.set_num_threads(settings.threads)
    if settings.memory_of is not None:
        print(measured_peak(settings))
        return 0
    if settings.check_flops:
        return check_flops(settings)
    batches = [device_batch(settings, number) for number in range(settings.rounds)]
    lengths = torch.stack([batch["attention_mask"].sum(1) for batch in batches]).float()
    captions = {"mean": lengths.mean().item(), "mean_longest_of_a_batch": lengths.amax(1).mean().item()}
    flops = flop_table(settings, batches[0])
    rows = measure(settings)
    missed = [row["way"] for row in rows if row["ratio"] and row["limit"] and row["ratio"] < row["limit"]]  # type: ignore[operator]
    if settings.json:
        print(
            json.dumps({**conditions(settings), "captions": captions, "rows": rows, "flops": flops, "missed": missed})
        )
        return int(bool(missed))
    print(", ".join(f"{name} {value}" for name, value in conditions(settings).items()))
    print(", ".join(f"captions' {name} {value:.1f}" for name, value in captions.items()) + "\n")
    forms = {"seconds": ".3f", "ratio": ".2f", "limit": "", "peak_mb": ",.0f", "matrix_rate_share": ".1%"}
    shown = [name for name in forms if name in rows[0]]
    print(
        markdown(
            ["method", *shown], [[str(row["way"]), *(cell(row[key], forms[key]) for key in shown)] for row in rows]
        )
    )
    sums = ["sum", *(f"{sum(parts.values()) / 1e9:.2f}" for parts in flops.values())]
    parts = [[part, *(f"{flops[who][part] / 1e9:.2f}" for who in flops)] for part in flops["ours"]]
    print("\n" + markdown(["GFLOP of the forward pass, first batch", *flops], [*parts, sums]))
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings)))
