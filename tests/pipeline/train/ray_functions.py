"""Training functions for Ray's workers: settings are the run's folder; what they do is left there in files."""

import os
import signal
from pathlib import Path

import torch
import torch.distributed as dist

from pipeline.shards.errors import RefusedError


def killed_once(run: Path) -> int:
    """Sum the ranks' numbers over the group; rank 1 of the first start kills itself before its second sum."""
    starts = run / f"starts-{dist.get_rank()}"
    first = not starts.exists()
    with starts.open("a") as file:
        print(os.getcwd(), dist.get_world_size(), dist.get_backend(), os.environ["MASTER_ADDR"], file=file)
    total = torch.tensor(dist.get_rank() + 1.0)
    dist.all_reduce(total)
    if first and dist.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.all_reduce(torch.zeros(1))
    return int(total)


def refused_on_one_rank(run: Path) -> int:
    """Refuse on rank 1 while rank 0 waits for it."""
    with (run / f"starts-{dist.get_rank()}").open("a") as file:
        print("start", file=file)
    if dist.get_rank() == 1:
        raise RefusedError("the run is of other settings: give another --output")
    dist.all_reduce(torch.zeros(1))
    return 0
