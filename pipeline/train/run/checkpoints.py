"""Checkpoints of a run, written atomically and read without unpickling.

    RUN/checkpoints/step-00001000/
        model.safetensors       parameters and buffers by name
        optimizer.safetensors   the optimizer's state, NAME/STATE each (see `optimizer_tensors`)
            info.json               everything else: settings, position in the data, results
        checkpoint.json         the bytes and hashes of these (see `checkpoint_manifest`), written last

Other files in the folder are ignored.

A checkpoint is written to `.step-00001000.PID.UNIQUE.tmp`, synced and renamed. If a checkpoint of the step exists, it
is first renamed to `step-00001000.replaced`, which counts as a checkpoint until it is deleted, so a complete one exists
under a recognised name at any time. Deleting also starts with a rename to a temporary name.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from vilbert.interrupts import delayed_interrupts
from vilbert.pipeline.shards.canonical import decode_json, encode_json
from vilbert.pipeline.shards.storage.atomic import fsync_dir, is_temporary, temporary_path
from vilbert.pipeline.train.engine.optimizer import trained_parameters
from vilbert.pipeline.train.run.checkpoint_manifest import (
    INFO,
    MANIFEST,
    MODEL,
    OPTIMIZER,
    CheckpointError,
    damaged,
    read_manifest,
    write_file,
    write_manifest,
    write_tensors,
)

logger = logging.getLogger(__name__)

FOLDER = "checkpoints"

_NAME = re.compile(r"step-(\d{8,})(\.replaced)?")
_OTHER_MODEL = "it was saved from another model: resume with the settings of the run that saved it"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One checkpoint on disk."""

    path: Path
    """Its folder."""
    step: int
    """Number of steps of the run."""
    info: dict[str, Any]
    """JSON values saved with the tensors."""

    def read_tensors(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the tensors of the model and the optimizer on the CPU.

        Hashes are not compared again: `newest_whole` and `read_checkpoint` do that.

        Raises:
            CheckpointError: The tensors cannot be read.
        """
        try:
            with delayed_interrupts():
                return load_file(self.path / MODEL), load_file(self.path / OPTIMIZER)
        except (SafetensorError, OSError) as error:
            raise damaged(self.path, f"its tensors cannot be read ({error})") from error


def checkpoint_path(run: Path, step: int) -> Path:
    """Return the folder of the checkpoint of a step."""
    return run / FOLDER / f"step-{step:08d}"


def save_checkpoint(
    run: Path, step: int, *, model: Mapping[str, Tensor], optimizer: Mapping[str, Tensor], info: Mapping[str, Any]
) -> Path:
    """Write the checkpoint of a step, replacing an older one of that step; return its folder.

    Tensors may be on any device and share memory; each is written completely.

    Raises:
        OSError: It cannot be written; nothing is left behind and earlier checkpoints are unchanged.
        ValueError: `info` cannot be represented as JSON, for example because it contains NaN.
        TypeError: A tensor has a dtype that safetensors does not support.
    """
    final = checkpoint_path(run, step)
    try:
        info_bytes = encode_json(dict(info), indent=2) + b"\n"
    except ValueError as error:
        raise ValueError(
            f"{final}: info cannot be stored as JSON ({error}); use null instead of NaN and infinity"
        ) from error
    temporary = temporary_path(final)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        fsync_dir(run)
        temporary.mkdir()
        files = {
            MODEL: write_tensors(temporary / MODEL, model),
            OPTIMIZER: write_tensors(temporary / OPTIMIZER, optimizer),
            INFO: write_file(temporary / INFO, [info_bytes]),
        }
        write_manifest(temporary, step, files)
        fsync_dir(temporary)
        _put(temporary, final)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        with contextlib.suppress(OSError):
            _settle(final)
        if isinstance(error, OSError):
            raise OSError(
                error.errno,
                f"{error.strerror or error}: the checkpoint of step {step} was not written; earlier ones are "
                "unchanged. Free space, or keep fewer (--keep), and run the same command again to resume",
                str(final),
            ) from error
        raise
    return final


def _put(temporary: Path, final: Path) -> None:
    """Rename a complete checkpoint to its final name; an older one or the new one exists at any time."""
    replaced = _replaced(final)
    _settle(final)
    if final.exists():
        final.rename(replaced)
    temporary.rename(final)
    fsync_dir(final.parent)
    if replaced.exists():
        _delete(replaced)


def _settle(final: Path) -> None:
    """Complete or revert an interrupted replacement, so that there is no `.replaced` of this name."""
    replaced = _replaced(final)
    if not replaced.exists():
        return
    if final.exists():
        _delete(replaced)
    else:
        replaced.rename(final)


def _replaced(final: Path) -> Path:
    return final.with_name(f"{final.name}.replaced")


def _delete(path: Path) -> None:
    """Delete a checkpoint so that it is never visible in part."""
    temporary = temporary_path(path)
    path.rename(temporary)
    shutil.rmtree(temporary)


def read_checkpoint(path: Path, *, hashes: bool) -> Checkpoint:
    """Read a checkpoint after comparing the sizes of its files, and with `hashes` their hashes, with checkpoint.json.

    The hash of info.json is always compared.

    Raises:
        CheckpointError: The checkpoint is damaged.
        UnsupportedFormatError: A newer version wrote it.
    """
    manifest = read_manifest(path)
    named = _NAME.fullmatch(path.name)
    if named is not None and int(named[1]) != manifest.step:
        raise damaged(path, f"{MANIFEST} is of step {manifest.step}")
    for name, entry in manifest.files.items():
        try:
            with (path / name).open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size != entry.bytes:
                    raise damaged(path, f"{name} has {size} bytes, not {entry.bytes}")
                if (hashes or name == INFO) and hashlib.file_digest(file, "sha256").hexdigest() != entry.sha256:
                    raise damaged(path, f"{name} does not match its hash in {MANIFEST}")
        except OSError as error:
            raise damaged(path, f"{name} cannot be read ({error.strerror})") from error
    return Checkpoint(path=path, step=manifest.step, info=decode_json((path / INFO).read_bytes()))


def _named(run: Path) -> list[tuple[int, Path]]:
    """Return (step, path) of all folders with a checkpoint's name, oldest first, `.replaced` before its successor."""
    paths = (run / FOLDER).glob("step-*")
    found = [(int(match[1]), match[2] is None, path) for path in paths if (match := _NAME.fullmatch(path.name))]
    return [(step, path) for step, _, path in sorted(found)]


def checkpoints(run: Path) -> list[Checkpoint]:
    """Return a run's checkpoints, oldest first, one per step, without those of the wrong size.

    Hashes are compared when a checkpoint is loaded. Raises UnsupportedFormatError if a newer version wrote one.
    """
    found: dict[int, Checkpoint] = {}
    for _, path in _named(run):
        with contextlib.suppress(CheckpointError):
            checkpoint = read_checkpoint(path, hashes=False)
            found[checkpoint.step] = checkpoint
    return list(found.values())


def newest_whole(run: Path) -> Checkpoint | None:
    """Return the newest undamaged checkpoint, and warn of each damaged one that is skipped.

    None if no checkpoint is undamaged.

    Raises UnsupportedFormatError if a newer version wrote one.
    """
    for _, path in reversed(_named(run)):
        try:
            return read_checkpoint(path, hashes=True)
        except CheckpointError as error:
            logger.warning("skipped a damaged checkpoint: %s", error)
    return None


def load_checkpoint(path: Path) -> tuple[Checkpoint, dict[str, Tensor], dict[str, Tensor]]:
    """Read a checkpoint with verified hashes, and the tensors of the model and the optimizer on the CPU.

    Raises:
        CheckpointError: The checkpoint is missing or damaged.
        UnsupportedFormatError: A newer version wrote it.
    """
    checkpoint = read_checkpoint(path, hashes=True)
    return checkpoint, *checkpoint.read_tensors()


def prune(run: Path, *, keep: int, best: int | None) -> None:
    """Delete all checkpoints except the newest `keep` and that of step `best`, and damaged ones older than these."""
    if keep < 1:
        raise ValueError(f"keep {keep}: a run keeps at least its newest checkpoint")
    whole = checkpoints(run)
    kept = {checkpoint.path for checkpoint in whole[-keep:]} | {c.path for c in whole if c.step == best}
    for step, path in _named(run):
        if path not in kept and whole and step <= whole[-1].step:
            _delete(path)


def sweep(run: Path) -> list[Path]:
    """Delete unfinished checkpoints of killed runs and return their paths; complete or revert replacements.

    Call it at the start of a run while no other process writes there: files of a running writer look the same.
    """
    for _, path in _named(run):
        if path.name.endswith(".replaced"):
            _settle(path.with_suffix(""))
    stale = sorted(path for path in (run / FOLDER).glob(".*.tmp") if is_temporary(path.name))
    for path in stale:
        shutil.rmtree(path)
    return stale


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's state as NAME/STATE, such as `bert.pooler.dense.weight/exp_avg`; empty before any step."""
    return {
        f"{name}/{key}": value.detach()
        for name, parameter in trained_parameters(model).items()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def restore_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restore the state that `optimizer_tensors` returned; parameter groups and their settings are unchanged.

    Raises:
        CheckpointError: The state belongs to another model; the message names the parameter.
    """
    names = {parameter: name for name, parameter in trained_parameters(model).items()}
    state: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        name, _, kind = key.rpartition("/")
        state.setdefault(name, {})[kind] = value.clone()
    by_number: dict[int, dict[str, Tensor]] = {}
    members = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, parameter in enumerate(members):
        if (found := state.pop(names[parameter], None)) is not None:
            if any(value.ndim and value.shape != parameter.shape for value in found.values()):
                raise CheckpointError(f"{names[parameter]}: the optimizer's state has another shape; {_OTHER_MODEL}")
            by_number[number] = found
    if state:
        raise CheckpointError(f"{min(state)}: the optimizer has no such parameter; {_OTHER_MODEL}")
    optimizer.load_state_dict({"state": by_number, "param_groups": optimizer.state_dict()["param_groups"]})
