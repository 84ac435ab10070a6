"""A run's checkpoints: each is whole or not there, and nothing of it is ever unpickled.

    RUN/checkpoints/step-00001000/
        model.safetensors       parameters and buffers by name
        optimizer.safetensors   the optimizer's state, NAME/STATE each (see `optimizer_tensors`)
        info.json               everything else: settings, place in the data, results
        checkpoint.json         the bytes and hashes of these (see `checkpoint_manifest`), written last

Other files in the folder do no harm.

A checkpoint is written to `.step-00001000.PID.UNIQUE.tmp`, put on the disk, and renamed. Where its step has one
already, the old one first moves to `step-00001000.replaced`, which counts as a checkpoint until it is deleted: so at
any moment one of them is whole under a name that is looked for. Deleting, too, begins with a rename to a temporary
name.
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
    """Steps that the run had made."""
    info: dict[str, Any]
    """What was saved beside the tensors."""

    def read_tensors(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the model's and the optimizer's tensors, on the CPU; CheckpointError where they cannot be read.

        Hashes are not compared: `newest_whole` and `read_checkpoint` have done it.
        """
        try:
            with delayed_interrupts():
                return load_file(self.path / MODEL), load_file(self.path / OPTIMIZER)
        except (SafetensorError, OSError) as error:
            raise damaged(self.path, f"its tensors cannot be read ({error})") from error


def checkpoint_path(run: Path, step: int) -> Path:
    """Return the folder of the checkpoint after so many steps."""
    return run / FOLDER / f"step-{step:08d}"


def save_checkpoint(
    run: Path, step: int, *, model: Mapping[str, Tensor], optimizer: Mapping[str, Tensor], info: Mapping[str, Any]
) -> Path:
    """Write the checkpoint of a step, in the place of an older one of that step, and return its folder.

    Tensors may lie on any device, and share memory; each is written whole. Raises OSError naming the folder and what to
    do where the disk refuses, which leaves nothing behind and earlier checkpoints as they were; ValueError for an info
    that is not JSON (NaN among it), TypeError for a type of tensor that safetensors files do not have.
    """
    final = checkpoint_path(run, step)
    try:
        info_bytes = encode_json(dict(info), indent=2) + b"\n"
    except ValueError as error:
        raise ValueError(
            f"{final}: info cannot be kept as JSON ({error}); use null instead of NaN and infinity"
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
    """Give a whole checkpoint its name; at any moment an older one of that name, or the new one, is there."""
    replaced = _replaced(final)
    _settle(final)
    if final.exists():
        final.rename(replaced)
    temporary.rename(final)
    fsync_dir(final.parent)
    if replaced.exists():
        _delete(replaced)


def _settle(final: Path) -> None:
    """Finish or take back what a killed save left half done: after it there is no `.replaced` of this name."""
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
    """Delete a checkpoint; it is never to be seen in parts."""
    temporary = temporary_path(path)
    path.rename(temporary)
    shutil.rmtree(temporary)


def read_checkpoint(path: Path, *, hashes: bool) -> Checkpoint:
    """Return a checkpoint after comparing its files with checkpoint.json: their sizes, and where told their hashes.

    The hash of info.json is always compared. Raises CheckpointError, or UnsupportedFormatError.
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
    """Return whatever is named as a checkpoint by step, oldest first; one that is replaced before its successor."""
    paths = (run / FOLDER).glob("step-*")
    found = [(int(match[1]), match[2] is None, path) for path in paths if (match := _NAME.fullmatch(path.name))]
    return [(step, path) for step, _, path in sorted(found)]


def checkpoints(run: Path) -> list[Checkpoint]:
    """Return a run's checkpoints, oldest first, one a step; those of the wrong size are left out.

    Hashes are compared when one is loaded. Raises UnsupportedFormatError where a newer version wrote one.
    """
    found: dict[int, Checkpoint] = {}
    for _, path in _named(run):
        with contextlib.suppress(CheckpointError):
            checkpoint = read_checkpoint(path, hashes=False)
            found[checkpoint.step] = checkpoint
    return list(found.values())


def newest_whole(run: Path) -> Checkpoint | None:
    """Return the newest checkpoint whose hashes are right, and warn of damaged ones passed over; None where all are.

    Raises UnsupportedFormatError where a newer version wrote one.
    """
    for _, path in reversed(_named(run)):
        try:
            return read_checkpoint(path, hashes=True)
        except CheckpointError as error:
            logger.warning("skipped a damaged checkpoint: %s", error)
    return None


def load_checkpoint(path: Path) -> tuple[Checkpoint, dict[str, Tensor], dict[str, Tensor]]:
    """Return a checkpoint with the model's and the optimizer's tensors, on the CPU, its hashes compared.

    Raises CheckpointError where it is damaged or none, UnsupportedFormatError where a newer version wrote it.
    """
    checkpoint = read_checkpoint(path, hashes=True)
    return checkpoint, *checkpoint.read_tensors()


def prune(run: Path, *, keep: int, best: int | None) -> None:
    """Delete all checkpoints but the newest `keep` and that of step `best`; damaged ones older than those go too."""
    if keep < 1:
        raise ValueError(f"keep {keep}: a run keeps at least its newest checkpoint")
    whole = checkpoints(run)
    kept = {checkpoint.path for checkpoint in whole[-keep:]} | {c.path for c in whole if c.step == best}
    for step, path in _named(run):
        if path not in kept and whole and step <= whole[-1].step:
            _delete(path)


def sweep(run: Path) -> list[Path]:
    """Delete what killed runs left unfinished, and return its paths; finish or take back what was being replaced.

    Call it when a run starts, while no other process writes there: a live writer's folder looks the same.
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
    """Give an optimizer the state that `optimizer_tensors` returned; its groups and their settings stay.

    Raises CheckpointError naming the parameter where the state is not of this model.
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
