"""Measure the softmax of short rows on a CPU: `vilbert.model.cpu.softmax` and torch's, forward and backward.

Prints a table by row length, for 64 texts with 4 heads and 12 queries. The exit status is 1 if ours is slower for a
length that it pads.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.model import markdown
from vilbert.model.cpu import VECTOR, softmax

LENGTHS = (8, 10, 12, 14, 15, 16, 20, 36)
ROUNDS = 300


def seconds(function: Callable[[Tensor], Tensor], scores: Tensor, upstream: Tensor) -> float:
    """Return how long one pass forward and backward took."""
    started = time.perf_counter()
    function(scores).backward(upstream)  # type: ignore[no-untyped-call]
    return time.perf_counter() - started


def main() -> int:
    """Print the table; return 1 where a padded row takes longer."""
    torch.set_num_threads(1)
    rows, slower = [], False
    for length in LENGTHS:
        scores = torch.randn(64, 4, 12, length, requires_grad=True)
        upstream = torch.randn_like(scores)
        taken: dict[str, list[float]] = {"ours": [], "torch": []}
        for _ in range(ROUNDS):
            taken["ours"].append(seconds(softmax, scores, upstream))
            taken["torch"].append(seconds(lambda values: torch.softmax(values, dim=-1), scores, upstream))
        ours, theirs = (statistics.median(taken[name]) * 1e6 for name in ("ours", "torch"))
        slower |= length < VECTOR and ours > theirs
        rows.append([str(length), f"{theirs:.0f}", f"{ours:.0f}", f"{theirs / ours:.2f}"])
    print(markdown(["row length", "torch, us", "ours, us", "torch / ours"], rows))
    return int(slower)


if __name__ == "__main__":
    sys.exit(main())
