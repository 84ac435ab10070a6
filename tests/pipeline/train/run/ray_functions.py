"""Training functions for Ray's workers: settings are the run's folder; what they do is left there in files."""

from pathlib import Path

import torch
import torch.distributed as dist

from vilbert.pipeline.errors import RefusedError


def refused_on_one_rank(run: Path) -> int:
    """Refuse on rank 1 while rank 0 waits for it."""
    with (run / f"starts-{dist.get_rank()}").open("a") as file:
        print("start", file=file)
    if dist.get_rank() == 1:
        raise RefusedError("the run is of other settings: give another --output")
    dist.all_reduce(torch.zeros(1))
    return 0
