"""Weights files, read as arrays and nothing else.

A `.pth` or `.pkl` file is a pickle: a program that its reader runs. `vilbert.untrusted` reads both without running it.
In detectron2's model zoo format (`.pkl`) the names of numpy become stubs of ours, which note what the file says of an
array and check it. So a file can give no dtype or shape that numpy would have to trust.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vilbert.extractors.extractor import ExtractorError
from vilbert.untrusted.pickle_machine import mapping
from vilbert.untrusted.pickles import ForbiddenError, PickleError, Stub, load
from vilbert.untrusted.torch_files import read_torch_file

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".pkl")

_ARRAYS_ONLY = (
    "a weights file holds arrays and nothing else; get it from its authors again, or ask them for safetensors"
)
# numpy 2 moved numpy.core to numpy._core; pickles of either name are about.
_NUMPY_GLOBALS = {
    f"numpy.{core}.{name}"
    for core in ("core", "_core")
    for name in ("multiarray._reconstruct", "multiarray.scalar", "numeric._frombuffer")
}
_GLOBALS = _NUMPY_GLOBALS | {
    *("numpy.ndarray", "numpy.dtype", "collections.OrderedDict"),
    # How Python 3 writes bytes, and empty bytes, in protocols that have none.
    *("_codecs.encode", "builtins.bytes", "__builtin__.bytes"),
}
_MAX_DIMENSIONS = 32
_DTYPES = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "b1")
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
        content = load(data, lookup=_lookup)
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
        raise ExtractorError(f"{path}: holds no tensors by name but a {type(content).__name__}")
    wrapped = all(str(name).startswith("module.") for name in content)
    state: dict[str, torch.Tensor] = {}
    for key, value in content.items():
        tensor = value.tensor() if isinstance(value, _ArrayRecord) else value
        if not isinstance(key, str) or not isinstance(tensor, torch.Tensor):
            raise ExtractorError(f"{path}: {key!r} is a {type(value).__name__}, expected tensors by name only")
        state[key.removeprefix("module.") if wrapped else key] = tensor
    return state


def _lookup(module: str, name: str) -> _Global:
    dotted = f"{module}.{name}"
    if dotted not in _GLOBALS:
        raise ForbiddenError(f"names {dotted}")
    return _Global(dotted)


class _Global(Stub):
    """Stands for a function of numpy: notes what was to be made."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name

    def call(self, *args: Any) -> object:
        match self._name.rpartition(".")[2]:
            case "_reconstruct":
                return _ArrayRecord()
            case "_frombuffer":
                raw, dtype, shape, order = args
                return _ArrayRecord(_array(raw, dtype, shape, fortran=order == "F"))
            case "scalar":
                dtype, raw = args
                return _ArrayRecord(_array(raw, dtype, (), fortran=False))
            case "dtype":
                return _DtypeRecord(args[0])
            case "bytes" if not args:
                return b""
            case "encode":
                text, encoding = args
                return _latin1(text, encoding)
            case "OrderedDict":
                return _ordered(*args)
        raise ForbiddenError(f"calls {self._name}")


def _ordered(pairs: Any = ()) -> dict[Any, Any]:
    if not isinstance(pairs, (list, tuple)) or not all(isinstance(pair, (list, tuple)) for pair in pairs):
        raise ForbiddenError("makes an OrderedDict of something that is no list of pairs")
    return mapping([part for key, value in pairs for part in (key, value)])


class _DtypeRecord(Stub):
    """A dtype of numbers, and its byte order; there is no way to write an object or structured one."""

    __slots__ = ("byte_order", "code")

    def __init__(self, code: object) -> None:
        if code not in _DTYPES:
            raise ForbiddenError(f"holds an array of dtype {_name(code)}")
        self.code = str(code)
        self.byte_order = "="

    def set_state(self, state: Any) -> None:
        _version, byte_order, subarray, names, fields, *_sizes = state
        if byte_order not in ("<", ">", "|", "=") or any(part is not None for part in (subarray, names, fields)):
            raise ForbiddenError("holds an array of a structured dtype")
        self.byte_order = byte_order


class _ArrayRecord(Stub):
    """An array, once the pickle has given its state."""

    __slots__ = ("_array", "_tensor")

    def __init__(self, array: NDArray[Any] | None = None) -> None:
        self._array = array
        self._tensor: torch.Tensor | None = None

    def set_state(self, state: Any) -> None:
        *_version, shape, dtype, fortran, raw = state
        self._array = _array(raw, dtype, shape, fortran=bool(fortran))

    def tensor(self) -> torch.Tensor | None:
        """Return the array as a tensor, the same for each name that it has; None where it has no state."""
        if self._tensor is None and self._array is not None:
            # A copy, for frombuffer's memory is read-only; in native byte order, for torch knows no other.
            native = np.array(self._array, dtype=self._array.dtype.newbyteorder("="), order="C")
            self._tensor = torch.from_numpy(native)
        return self._tensor


def _array(raw: object, dtype: object, shape: object, *, fortran: bool) -> NDArray[Any]:
    """Return the array of these bytes; refuse any disagreement of dtype, shape and length."""
    if isinstance(raw, str):  # Python 2 wrote its bytes as str
        raw = _latin1(raw, "latin1")
    if not isinstance(raw, (bytes, bytearray)) or not isinstance(dtype, _DtypeRecord):
        raise ForbiddenError("holds an array that is not the bytes of numbers")
    # Its length comes before the product, which many sides make slow.
    if not isinstance(shape, tuple) or len(shape) > _MAX_DIMENSIONS:
        raise ForbiddenError("holds an array whose shape is no tuple of at most 32 sides")
    if not all(type(side) is int and side >= 0 for side in shape):
        raise ForbiddenError("holds an array of a shape that is not of whole numbers from 0")
    native = np.dtype(dtype.byte_order + dtype.code)
    flat = np.frombuffer(raw, dtype=np.uint8)
    if flat.nbytes != math.prod(shape) * native.itemsize:
        raise ForbiddenError(f"holds {flat.nbytes} bytes as an array of {list(shape[:8])} {native}")
    return flat.view(native).reshape(shape, order="F" if fortran else "C")


def _name(value: object) -> str:
    """Return a text for an error message, or the type of what is none, which could be huge."""
    return repr(value[:60]) if isinstance(value, str) else f"a {type(value).__name__}"


def _latin1(text: object, encoding: object) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise ForbiddenError(f"encodes {type(text).__name__} as {_name(encoding)}")
    return text.encode("latin1")


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
