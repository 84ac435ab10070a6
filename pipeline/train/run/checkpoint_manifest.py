"""checkpoint.json: the files of a checkpoint with their sizes and hashes.

    {"format": 1, "step": 1000, "files": {NAME: {"bytes", "sha256"}, ...}, "sha256"}

The last "sha256" is that of the canonical JSON of the other fields, in this and in later formats.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Len
from safetensors import SafetensorError

from vilbert.documents import Count, Digest, document, from_json
from vilbert.pipeline.errors import ShardError, UnsupportedFormatError
from vilbert.pipeline.shards.canonical import decode_json, encode_json
from vilbert.pipeline.shards.storage.atomic import HashingFile
from vilbert.untrusted.documents import DocumentError

if TYPE_CHECKING:  # `vilbert predict --help` reads manifests without PyTorch
    from torch import Tensor

FORMAT = 1
MANIFEST = "checkpoint.json"
MODEL = "model.safetensors"
OPTIMIZER = "optimizer.safetensors"
INFO = "info.json"
FILES = (MODEL, OPTIMIZER, INFO)


@document
class WrittenFile:
    """A file of a checkpoint."""

    bytes: Count
    sha256: Digest


@document
class CheckpointManifest:
    """The content of checkpoint.json."""

    step: Count
    """Number of steps of the run."""
    files: Annotated[dict[Literal["model.safetensors", "optimizer.safetensors", "info.json"], WrittenFile], Len(3)]
    """All files by name, each of FILES."""


class CheckpointError(ShardError):
    """A checkpoint that is damaged or does not match; the message says what, where and what to do."""


def damaged(path: Path, problem: str) -> CheckpointError:
    """Return the error of a checkpoint, with its remedy."""
    return CheckpointError(
        f"{path}: {problem}; resume from an older checkpoint (--resume PATH; auto takes the newest complete one)"
    )


def _digest(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(encode_json(fields)).hexdigest()


def write_file(path: Path, parts: Iterable[bytes]) -> dict[str, Any]:
    """Write and sync a file; return its entry in checkpoint.json."""
    file = HashingFile(path)
    try:
        for part in parts:
            file.write(part)
        file.sync()
    finally:
        file.close()
    return {"bytes": file.bytes, "sha256": file.sha256}


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Write and sync a safetensors file; return its entry in checkpoint.json.

    Args:
        path: Path of the new file.
        tensors: On any device; they may share memory, and each is written completely. All tensors of other devices are
            copied to the CPU first.

    Raises:
        OSError: The file cannot be written.
        TypeError: A tensor has a dtype that safetensors does not support.
    """
    from safetensors.torch import save_file

    path.touch()
    mode = path.stat().st_mode
    try:
        save_file(_apart(tensors), path)
    except KeyError as error:  # its table of types
        raise TypeError(f"{path.name}: a tensor is of {error.args[0]}, which safetensors files do not hold") from error
    except SafetensorError as error:
        if number := re.search(r"\(os error (\d+)\)", str(error)):
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
        raise
    path.chmod(mode)  # safetensors replaces the file by one that only its owner can read
    with path.open("rb") as file:
        os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"bytes": file.tell(), "sha256": digest}


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return contiguous CPU tensors that share no memory, as safetensors requires."""
    found: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        storage = plain.untyped_storage().data_ptr()
        found[name] = plain.clone() if storage in taken else plain
        taken.add(storage)
    return found


def write_manifest(path: Path, step: int, files: Mapping[str, Any]) -> None:
    """Write checkpoint.json into a checkpoint's folder; `files` are the results of `write_file` by name."""
    fields = {"format": FORMAT, "step": step, "files": files}
    write_file(path / MANIFEST, [encode_json({**fields, "sha256": _digest(fields)})])


def read_manifest(path: Path) -> CheckpointManifest:
    """Read checkpoint.json.

    Raises:
        CheckpointError: The file is missing or damaged.
        UnsupportedFormatError: A newer version wrote it.
    """
    try:
        fields = decode_json((path / MANIFEST).read_bytes())
        own = fields.pop("sha256", None) if isinstance(fields, dict) else None
        digest = _digest(fields)
    except (OSError, ValueError) as error:
        raise damaged(path, f"{MANIFEST} cannot be read ({error})") from error
    if not isinstance(fields, dict) or own != digest:
        raise damaged(path, f"{MANIFEST} does not match its own hash")
    if (number := fields.pop("format", None)) != FORMAT:
        raise UnsupportedFormatError(
            f"{path}: is a checkpoint of format {number!r}, this version reads {FORMAT}: use the version "
            "of vilbert-pipeline that wrote it, or another --output"
        )
    try:
        return from_json(CheckpointManifest, fields)
    except DocumentError as error:
        raise damaged(path, f"{MANIFEST}: {error}") from None
