"""Resolve `--precision auto`: the precision that the run started with, or the fastest that its device supports."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.train.engine.distributed import Group
from vilbert.pipeline.train.run.checkpoints import checkpoints, read_checkpoint
from vilbert.pipeline.train.run.folder import read_run
from vilbert.pipeline.train.run.settings import RunSettings

S = TypeVar("S", bound=RunSettings)

PRECISIONS = ("fp32", "bf16")


def with_precision(settings: S, group: Group) -> S:
    """Return the settings with `auto` replaced by a precision, the same in all processes of the group."""
    if settings.precision != "auto":
        return settings
    chosen = (begun_with(settings) or best_precision(group.device)) if group.first else None
    return dataclasses.replace(settings, precision=group.gather(chosen)[0])


def best_precision(device: torch.device) -> str:
    """Return bf16 for a GPU that computes in it (NVIDIA's from Ampere on), else fp32."""
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return "bf16"
    return "fp32"


def begun_with(settings: RunSettings) -> str | None:
    """Return the precision of the run that these settings resume; None for a new run.

    What cannot be read is passed over: resuming says what is wrong with it.
    """
    described: list[Mapping[str, Any] | None] = []
    with contextlib.suppress(ShardError, OSError):
        if settings.resume != "auto":
            described.append(read_checkpoint(Path(settings.resume), hashes=False).info.get("run"))
        described.extend(checkpoint.info.get("run") for checkpoint in reversed(checkpoints(settings.output)))
        described.append(read_run(settings.output))
    for description in described:
        chosen = description.get("settings") if isinstance(description, Mapping) else None
        if isinstance(chosen, Mapping) and chosen.get("precision") in PRECISIONS:
            return str(chosen["precision"])
    return None
