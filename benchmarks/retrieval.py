"""Measure scoring of every caption against every image: pairs per second of `score_pairs` and published code.

The published code runs every pair through the whole model, with captions padded to 30 tokens and all pre-training
heads. The fast mode of its evaluation encodes a caption once for a batch of images. All methods have the same weights,
captions, images and batches and take turns; medians are printed. Before the measurement, every method must give the
same scores.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from torch import Tensor, nn

from benchmarks.batches import caption_lengths
from benchmarks.machine import versions
from benchmarks.model import cell, markdown
from benchmarks.passes import layer_keys, our_model
from benchmarks.published import pretraining_model
from vilbert.model.vilbert import ViLBertForPreTraining
from vilbert.pipeline.tasks.retrieval.score_plan import ScoreSettings
from vilbert.pipeline.tasks.retrieval.scores import ImagePool, ImageTensors, score_pairs

LIMIT = 2.0  # times the reference


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to measure."""

    reference: Path | None = None
    """A checkout of vilbert_beta or vilbert-multi-task; without it, only our code is measured."""
    captions: int = 4
    """Captions."""
    images: int = 32
    """Images; each is paired with every caption."""
    words: int = 30
    """Length to which the reference pads every caption: that of its retrieval tasks."""
    regions: int = 37
    """Regions of an image, the global one included."""
    pairs_per_batch: int = 32
    """Pairs per forward pass; a batch of the reference is one caption with as many images."""
    rounds: int = 2
    """Number of measurements of every method; medians are printed."""
    threads: int = 2
    """CPU threads."""
    layers: int = 6
    """Visual and co-attention layers, with twice as many text layers: 6 is the published model, 1 a quick trial."""
    seed: int = 0
    """Seed of weights, captions and images."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where to run; on cuda also in bfloat16."""
    json: bool = False
    """Print one JSON object instead of the table."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Captions and images, on the device."""

    captions: list[list[int]]
    """Word pieces of each."""
    features: Tensor
    """[images, R, 2048]."""
    boxes: Tensor
    """[images, R, 5]."""


Way = Callable[[], np.ndarray[Any, np.dtype[np.float32]]]


def draw_inputs(settings: Settings) -> Inputs:
    """Draw captions of real lengths and images."""
    draw = torch.Generator().manual_seed(settings.seed)
    return Inputs(
        captions=[
            torch.randint(1000, 30522, (length,), generator=draw).tolist()
            for length in caption_lengths(settings.captions, settings.words)
        ],
        features=torch.rand(settings.images, settings.regions, 2048, generator=draw).to(settings.device),
        boxes=torch.rand(settings.images, settings.regions, 5, generator=draw).to(settings.device),
    )


def whole_pairs(model: nn.Module, inputs: Inputs, settings: Settings, *, length: int | None, fast: bool) -> Way:
    """Return the way that runs pairs through a whole model, captions padded to `length`, or not where None.

    fast: give the caption once for a batch of images, as the published evaluation does.
    """

    @torch.no_grad()
    def run() -> np.ndarray[Any, np.dtype[np.float32]]:
        rows = []
        for caption in inputs.captions:
            ids = torch.zeros(1, length or len(caption), dtype=torch.long)
            ids[0, : len(caption)] = torch.tensor(caption)
            mask = (torch.arange(ids.shape[1]) < len(caption))[None].long()
            for start in range(0, settings.images, settings.pairs_per_batch):
                features = inputs.features[start : start + settings.pairs_per_batch]
                boxes = inputs.boxes[start : start + settings.pairs_per_batch]
                texts = [
                    tensor.to(settings.device).expand(1 if fast else len(features), -1)
                    for tensor in (ids, torch.zeros_like(ids), mask)
                ]
                seen = torch.ones(boxes.shape[:2], dtype=torch.long, device=settings.device)
                output = model(texts[0], features, boxes, texts[1], texts[2], seen)
                scores = output.alignment_scores if hasattr(output, "alignment_scores") else output[2]
                rows.append((scores[:, 0] - scores[:, 1]).cpu().numpy())
        return np.concatenate(rows).reshape(settings.captions, settings.images)

    return run


def scored(
    model: ViLBertForPreTraining, inputs: Inputs, settings: Settings, precision: Literal["float32", "bfloat16"]
) -> Way:
    """Return the way of `score_pairs`."""
    pool = ImagePool(
        regions=np.full(settings.images, settings.regions),
        read=lambda numbers: ImageTensors(
            inputs.features[numbers], inputs.boxes[numbers], torch.ones(len(numbers), settings.regions)
        ),
        fingerprint="drawn",
    )
    chosen = ScoreSettings(pairs_per_batch=settings.pairs_per_batch, precision=precision)
    return lambda: score_pairs(model, inputs.captions, pool, settings=chosen)


def ways(settings: Settings, inputs: Inputs) -> dict[str, Way]:
    """Return the rows of the table, the reference's way first where there is one."""
    torch.manual_seed(settings.seed)
    ours = our_model(settings.layers).to(settings.device).eval()
    assert isinstance(ours, ViLBertForPreTraining)
    rows: dict[str, Way] = {}
    if settings.reference is not None:
        for fast, name in ((False, "every pair through the whole model"), (True, "fast mode")):
            theirs = pretraining_model(settings.reference, **layer_keys(settings.layers), fast_mode=fast)
            theirs.load_state_dict(ours.state_dict(), strict=True)
            theirs.to(settings.device).eval()
            padded = f"padded to {settings.words}"
            rows[f"reference, {name}, {padded}"] = whole_pairs(
                theirs, inputs, settings, length=settings.words, fast=fast
            )
            if not fast:
                rows[f"reference, {name}, no padding"] = whole_pairs(theirs, inputs, settings, length=None, fast=fast)
    rows["ours, every pair through the whole model, no padding"] = whole_pairs(
        ours, inputs, settings, length=None, fast=False
    )
    rows["ours, score_pairs"] = scored(ours, inputs, settings, "float32")
    if settings.device == "cuda":
        rows["ours, score_pairs, bfloat16"] = scored(ours, inputs, settings, "bfloat16")
    return rows


def require_equal_scores(rows: dict[str, Way]) -> None:
    """Exit unless every way in float32 gives the same scores within 1e-5."""
    expected: np.ndarray[Any, np.dtype[np.float32]] | None = None
    for name, run in rows.items():
        found = run()
        expected = found if expected is None else expected
        if "bfloat16" not in name and not np.allclose(found, expected, rtol=1e-5, atol=1e-5):
            raise SystemExit(f"{name}: scores differ by {np.abs(found - expected).max()}, nothing timed")


def median_seconds(rows: dict[str, Way], rounds: int) -> dict[str, tuple[float, float]]:
    """Return each way's median of seconds and of CPU seconds, all ways taking turns."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in rows}
    for _ in range(rounds):
        for name, run in rows.items():
            started = time.perf_counter(), time.process_time()
            run()  # its scores are on the CPU when it returns
            taken[name].append((time.perf_counter() - started[0], time.process_time() - started[1]))
            print("{}: {:.2f} s, {:.2f} of CPU".format(name, *taken[name][-1]), file=sys.stderr, flush=True)
    medians = {name: [statistics.median(part) for part in zip(*spent, strict=True)] for name, spent in taken.items()}
    return {name: (wall, cpu) for name, (wall, cpu) in medians.items()}


def main(settings: Settings) -> int:
    """Print the table; return 1 where `score_pairs` is below the limit."""
    torch.set_num_threads(settings.threads)
    rows = ways(settings, draw_inputs(settings))
    require_equal_scores(rows)
    seconds = median_seconds(rows, settings.rounds)
    base = next(iter(seconds.values()))[0] if settings.reference is not None else None
    pairs = settings.captions * settings.images
    ratios = {name: None if base is None else base / spent for name, (spent, _) in seconds.items()}
    reached = ratios["ours, score_pairs"]
    missed = reached is not None and reached < LIMIT
    conditions = {**versions(settings.device), "threads": str(settings.threads), "pairs": str(pairs)}
    if settings.json:
        print(json.dumps({**conditions, "seconds": seconds, "ratios": ratios, "limit": LIMIT, "missed": missed}))
        return int(missed)
    print(", ".join(f"{name} {value}" for name, value in conditions.items()) + "\n")
    limits = {"ours, score_pairs": str(LIMIT)}
    table = [
        [name, f"{pairs / wall:.2f}", f"{pairs / cpu:.2f}", cell(ratios[name], ".2f"), limits.get(name, "")]
        for name, (wall, cpu) in seconds.items()
    ]
    print(markdown(["method", "pairs/s", "pairs per CPU second", "times the reference", "limit"], table))
    return int(missed)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings)))
