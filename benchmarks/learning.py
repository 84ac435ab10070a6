"""Measure what pre-training on the shapes data set learns, compared with a blind model.

The blind model sees the regions of another image. Both models are trained with `--config shapes` on the same data set
and evaluated on its held-out scenes, for several seeds. Content words are the colours, shapes, sizes, textures and
relations in the captions. The exit status is 1 if any seed misses a limit.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from benchmarks.model import markdown
from vilbert.pipeline.cli import main as vilbert
from vilbert.pipeline.shapes.facts import VALUES

LEAST = {"alignment": 0.9, "content words above blind": 0.25, "regions above the majority": 0.3}
RELATIONS = ("left", "right", "above", "below", "leftmost", "rightmost", "topmost", "lowest")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Train a normal and a blind model for each seed and compare them."""

    data: tyro.conf.Positional[Path]
    """A data set of shapes, as `vilbert demo` extracts it."""
    seeds: tuple[int, ...] = (42,)
    """Seeds of the runs."""
    epochs: float | None = None
    """Number of epochs; default: that of the recipe."""


def content_words() -> set[str]:
    """Return the words that say something of a picture, nouns in singular and plural."""
    words = {word for values in VALUES.values() for word in values}
    return words | {f"{shape}{ending}" for shape in VALUES["shape"] for ending in ("s", "es")} | {*RELATIONS}


def share(words: dict[str, list[int]], wanted: Iterable[str]) -> float:
    """Return which share of the masked words among `wanted` was predicted."""
    counts = [words[word] for word in wanted if word in words]
    return sum(right for right, _ in counts) / max(sum(count for _, count in counts), 1)


def evaluation(settings: Settings, output: Path, seed: int, *more: str) -> dict[str, Any]:
    """Return evaluation.json of a run."""
    epochs = [] if settings.epochs is None else ["--epochs", str(settings.epochs)]
    command = ["pretrain", str(settings.data), "--output", str(output), "--config", "shapes", "--seed", str(seed)]
    if status := vilbert([*command, *epochs, *more]):
        raise SystemExit(status)
    found: dict[str, Any] = json.loads((output / "evaluation.json").read_text(encoding="utf-8"))
    return found


def measure(settings: Settings, folder: Path, seed: int) -> dict[str, float]:
    """Return the figures of one seed."""
    seeing = evaluation(settings, folder / f"seeing-{seed}", seed)
    blind = evaluation(settings, folder / f"blind-{seed}", seed, "--blind")
    figures, words = seeing["figures"], content_words()
    return {
        "alignment": figures["alignment_accuracy"],
        "alignment, blind": blind["figures"]["alignment_accuracy"],
        "content words": share(seeing["words"], words),
        "content words, blind": share(blind["words"], words),
        "content words above blind": share(seeing["words"], words) - share(blind["words"], words),
        "regions": figures["masked_image_accuracy"],
        "regions above the majority": figures["masked_image_accuracy"] - figures["masked_image_majority"],
    }


def main(settings: Settings) -> int:
    """Print a table of all seeds; return 1 where one misses a limit."""
    with tempfile.TemporaryDirectory() as folder:
        found = {seed: measure(settings, Path(folder), seed) for seed in settings.seeds}
    names = list(next(iter(found.values())))
    rows = [[name, *(f"{figures[name]:.3f}" for figures in found.values()), str(LEAST.get(name, ""))] for name in names]
    print(markdown(["held-out scenes", *(f"seed {seed}" for seed in found), "limit"], rows))
    return int(any(figures[name] < least for figures in found.values() for name, least in LEAST.items()))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings, description=__doc__)))
