"""The processes that train together: one, or a group that torchrun or Ray Train started."""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from vilbert.extractors.extractor import ExtractorError
from vilbert.manifests.record import ManifestError
from vilbert.pipeline.errors import RefusedError, TrainingError, first_line
from vilbert.pipeline.signals import leave_now
from vilbert.pipeline.train.engine.group_watch import ending_together

PATIENCE = timedelta(hours=24)
"""How long a process waits for the others where one may work alone: the first makes a vocabulary of all captions, which
of many millions takes hours. A process that fails is noticed sooner: see `group_watch`."""
GPU_PATIENCE = timedelta(minutes=30)
"""How long an operation between GPUs may take, before NCCL ends the processes: then one of them hangs. Longer than the
loader waits for a batch (`loader_processes.STALL_LIMIT_SECONDS`), and than evaluations of two processes differ by."""
JOIN_PATIENCE = timedelta(minutes=15)
"""How long processes wait for one another to start."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """This process among those that train together."""

    rank: int
    """Which one it is, from 0."""
    world: int
    """How many there are."""
    device: torch.device
    """Where its model lies."""
    patient: dist.ProcessGroup | None = None
    """What `gather` and `wait` go through, for `PATIENCE`; None for the default group."""

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes, on the group's device."""
        values = to_device(values, self.device)
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def gather(self, value: Any) -> list[Any]:
        """Return the small object that each process gave, by rank."""
        if self.world == 1:
            return [value]
        gathered: list[Any] = [None] * self.world
        dist.all_gather_object(gathered, value, group=self.patient)
        return gathered

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.world > 1:
            dist.barrier(group=self.patient)


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Return a small tensor on a device, without waiting for a GPU."""
    if device.type == "cuda" and values.device.type == "cpu":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)


def own_device(wanted: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """Return this process's device: the GPU of its local rank if there are several. RefusedError if no GPU is
    available."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise RefusedError("--device cuda: PyTorch sees no GPU; `vilbert doctor` says what this machine can do")
    if wanted == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    # Under Ray each process sees its own GPU alone.
    index = int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count()
    torch.cuda.set_device(index)
    torch.set_float32_matmul_precision("high")  # TF32, as convolutions have by default
    torch.backends.cuda.enable_cudnn_sdp(False)  # makes a plan for each shape, and the shapes of batches vary
    return torch.device("cuda", index)


@contextmanager
def process_group(wanted: Literal["auto", "cpu", "cuda"]) -> Iterator[Group]:
    """Yield the group that this process belongs to: nccl on GPUs, gloo on CPUs, and none for a lone process."""
    if dist.is_initialized():  # by Ray Train, which ends the others where one fails
        yield _group(own_device(wanted))
    elif int(os.environ.get("WORLD_SIZE", "1")) > 1:  # by torchrun
        with _joined(wanted) as group:
            yield group
    else:
        yield Group(rank=0, world=1, device=own_device(wanted))


@contextmanager
def _joined(wanted: Literal["auto", "cpu", "cuda"]) -> Iterator[Group]:
    """Yield the group of torchrun's processes; all of them end where the block fails in one."""
    try:
        store, rank, world = next(dist.rendezvous("env://", timeout=JOIN_PATIENCE))  # type: ignore[attr-defined]
    except dist.DistError as error:
        raise TrainingError(
            f"the training processes did not connect to each other within {JOIN_PATIENCE} ({first_line(error)}); "
            "check that "
            "all were started, with the same MASTER_ADDR and MASTER_PORT"
        ) from error
    try:
        with ending_together(store.clone(), rank):
            device = own_device(wanted)
            on_gpu = device.type == "cuda"
            dist.init_process_group(
                "nccl" if on_gpu else "gloo",
                store=dist.PrefixStore("default_pg", store),  # type: ignore[attr-defined]
                rank=rank,
                world_size=world,
                timeout=GPU_PATIENCE if on_gpu else PATIENCE,
                # Else NCCL takes the GPU of the global rank for its first operation, which may be another process's.
                device_id=device if on_gpu else None,
            )
            yield _group(device)
    except BaseException as error:
        # Taking the group apart would wait for operations that the others no longer take part in.
        atexit.register(leave_now, _status(error))
        raise
    dist.destroy_process_group()


def _group(device: torch.device) -> Group:
    """Return this process's place in the default process group.

    Beside NCCL's there is one of gloo: GPUs that wait for each other are given less time than processes.
    """
    patient = dist.new_group(backend="gloo", timeout=PATIENCE) if device.type == "cuda" else None
    if isinstance(patient, int):  # torch's answer to a process that is not in the new group
        raise TrainingError("the process group for waiting was not initialised")
    return Group(rank=dist.get_rank(), world=dist.get_world_size(), device=device, patient=patient)


def _status(error: BaseException) -> int:
    if isinstance(error, KeyboardInterrupt):
        return 130
    return 2 if isinstance(error, (RefusedError, ManifestError, ExtractorError)) else 1  # as `cli.call`
