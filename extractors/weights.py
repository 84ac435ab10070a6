"""Weights files, read as arrays and nothing else.

A `.pth` or `.pkl` file is a pickle: a program that its reader runs. `vilbert.untrusted` reads both without running it.
In detectron2's model zoo format (`.pkl`) the names of numpy become stubs of ours, which note what the file says of an
array and check it. So a file can give no dtype or shape that numpy would have to trust.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vilbert.extractors.extractor import ExtractorError
from vilbert.interrupts import delayed_interrupts
from vilbert.untrusted.pickled_arrays import ArrayRecord, lookup
from vilbert.untrusted.pickles import ForbiddenError, PickleError, load
from vilbert.untrusted.torch_files import read_torch_file

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".pkl")

_ARRAYS_ONLY = (
    "a weights file holds arrays and nothing else; get it from its authors again, or ask them for safetensors"
)
# What safetensors and numpy raise for damaged content, beside errors of their own.
_DAMAGE = (
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
)


def load_weights(path: str | Path) -> tuple[dict[str, torch.Tensor], str]:
    """Return a file's tensors by name, on the CPU, and the sha256 of its bytes in hex.

    Takes safetensors, PyTorch's `.pth`, `.pt`, `.bin`, and detectron2's `.pkl` (arrays by name), bare or under `model`
    or `state_dict`, with or without the `module.` of DistributedDataParallel. Raises ExtractorError where the file is
    missing, damaged, holds anything but tensors, or is a backbone that detectron2 would match by guessing.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ExtractorError(f"{path}: not a weights file by its name: expected one of {', '.join(SUFFIXES)}")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ExtractorError(f"{path}: cannot read the weights: {error.strerror}") from error
    match path.suffix:
        case ".safetensors":
            content = _from_safetensors(path, data)
        case ".pkl":
            content = _from_pickle(path, data)
        case _:
            content = _from_torch(path, data)
    return _state_dict(path, content), hashlib.sha256(data).hexdigest()


def _damaged(path: Path, error: Exception) -> ExtractorError:
    reason = str(error).partition("\n")[0] or type(error).__name__
    return ExtractorError(f"{path}: the weights file is damaged or is not {path.suffix}: {reason}")


def _from_safetensors(path: Path, data: bytes) -> object:
    import safetensors
    import safetensors.torch

    try:
        with delayed_interrupts():
            return safetensors.torch.load(data)
    except (safetensors.SafetensorError, *_DAMAGE) as error:
        raise _damaged(path, error) from error


def _from_torch(path: Path, data: bytes) -> object:
    try:
        return read_torch_file(io.BytesIO(data), strict=True)
    except ForbiddenError as error:
        raise _refused(path, error) from error
    except PickleError as error:
        raise _damaged(path, error) from error


def _from_pickle(path: Path, data: bytes) -> object:
    try:
        content = load(data, lookup=lookup)
    except ForbiddenError as error:
        raise _refused(path, error) from error
    except PickleError as error:
        raise _damaged(path, error) from error
    if isinstance(content, dict) and (content.get("matching_heuristics") or "blobs" in content):
        raise ExtractorError(
            f"{path}: this is a backbone, not a detector: detectron2 would match its names by guessing. Give "
            " the weights of a trained detector, such as the zoo's model_final_*.pkl"
        )
    return content


def _refused(path: Path, error: Exception) -> ExtractorError:
    return ExtractorError(f"{path}: refused: it {error}; {_ARRAYS_ONLY}")


def _state_dict(path: Path, content: object) -> dict[str, torch.Tensor]:
    """Unwrap `model` or `state_dict`, drop `module.`, and see that every value is a tensor."""
    for wrapper in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content:
        raise ExtractorError(f"{path}: holds no dict of tensors but a {type(content).__name__}")
    wrapped = all(str(name).startswith("module.") for name in content)
    state: dict[str, torch.Tensor] = {}
    tensors: dict[int, torch.Tensor] = {}  # an array that has several names is one tensor
    for key, value in content.items():
        tensor = value
        if isinstance(value, ArrayRecord) and value.array is not None:
            if id(value) not in tensors:
                tensors[id(value)] = _tensor(value.array)
            tensor = tensors[id(value)]
        if not isinstance(key, str) or not isinstance(tensor, torch.Tensor):
            raise ExtractorError(f"{path}: {key!r} is a {type(value).__name__}, expected a dict of tensors")
        state[key.removeprefix("module.") if wrapped else key] = tensor
    return state


def _tensor(array: NDArray[Any]) -> torch.Tensor:
    # A copy, for frombuffer's memory is read-only; in native byte order, for torch knows no other.
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))


def require_finite(state: Mapping[str, torch.Tensor], path: str | Path) -> None:
    """Raise ExtractorError naming the tensors of a weights file that hold NaN or infinity."""
    damaged = [name for name, tensor in state.items() if not torch.isfinite(tensor.float()).all()]
    if damaged:
        more = f" and {len(damaged) - 3} more" if len(damaged) > 3 else ""
        raise ExtractorError(
            f"{path}: the weights hold NaN or infinity in {', '.join(damaged[:3])}{more}; its training had failed when "
            "it was saved: use an earlier checkpoint"
        )


def hash_tensors(state: dict[str, Any]) -> str:
    """Return the sha256 over names, dtypes, shapes and bytes of a model's tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
