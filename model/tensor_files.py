"""Read tensors from a file of torch without running anything that the file says.

`torch.load(weights_only=True)` reads most. It refuses files that hold other objects beside their tensors, as the
training checkpoints of vilbert-multi-task do (a stop controller, a logger); for these there is a reader of our own. A
pickle acts only through the globals it names, so this one gives it nothing but functions that view tensors, and in
place of every other global a `Placeholder` that takes any arguments and does nothing. Both formats of torch are read:
the zip file since 1.6, and the chain of pickles before it.
"""

from __future__ import annotations

import pickle  # only to subclass its reader, which is given no global of any module
import struct
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
# What a damaged or hostile pickle can make the reader raise.
_PICKLE_ERRORS = (
    pickle.UnpicklingError, EOFError, KeyError, IndexError, ValueError, TypeError, AttributeError, RuntimeError,
    ImportError, OverflowError, MemoryError, RecursionError, struct.error, zipfile.BadZipFile, NotImplementedError,
)  # fmt: skip


class CheckpointError(Exception):
    """A checkpoint that cannot be read, or that does not fit the model; says what, where and what to do."""


class Placeholder:
    """Stand for an object of a class that is not a tensor's; whatever is done to it leaves no trace."""

    def __new__(cls, *_arguments: Any, **_named: Any) -> Placeholder:
        """Take anything."""
        return super().__new__(cls)

    def __init__(self, *_arguments: Any, **_named: Any) -> None:
        """Take anything."""

    def __setstate__(self, _state: Any) -> None:
        """Drop the state."""

    def __call__(self, *_arguments: Any, **_named: Any) -> Placeholder:
        """Take anything."""
        return self

    def __setitem__(self, _key: Any, _value: Any) -> None:
        """Drop the item."""

    def append(self, _item: Any) -> None:
        """Drop the item."""

    def extend(self, _items: Any) -> None:
        """Drop the items."""

    def add(self, _item: Any) -> None:
        """Drop the item."""


class _Rebuild:
    """A function that a pickle may call; an object without attributes, for a pickle could set those of the function."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, _state: Any) -> None:
        raise pickle.UnpicklingError("the pickle sets the state of a function")


def _view(storage: Any, offset: Any, size: Any, stride: Any, *_rest: Any) -> Tensor:
    """Return a tensor over a storage; torch refuses what reaches beyond its end."""
    if not isinstance(storage, Tensor):
        raise pickle.UnpicklingError("the pickle builds a tensor on something that is no storage")
    return torch.as_strided(storage, tuple(size), tuple(stride), int(offset))


def _view_as(
    storage: Any, offset: Any, size: Any, stride: Any, _grad: Any, _hooks: Any, dtype: Any, *_rest: Any
) -> Tensor:
    """Return a tensor of a type that its storage does not say."""
    if not isinstance(storage, Tensor) or not isinstance(dtype, torch.dtype):
        raise pickle.UnpicklingError("the pickle builds a tensor on something that is no storage")
    return _view(storage.view(dtype), offset, size, stride)


def _parameter(tensor: Any, *_rest: Any) -> Any:
    return tensor


_REBUILD: dict[tuple[str, str], Callable[..., Any]] = {
    ("torch._utils", "_rebuild_tensor"): _view,
    ("torch._utils", "_rebuild_tensor_v2"): _view,
    ("torch._utils", "_rebuild_tensor_v3"): _view_as,
    ("torch._utils", "_rebuild_parameter"): _parameter,
}
_STORAGES = {
    "FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
}  # fmt: skip


class _TensorUnpickler(pickle.Unpickler):
    """Read a pickle with `storage` giving the numbers behind each tensor; no global of any module is imported."""

    def __init__(self, file: IO[bytes], storage: Callable[..., Tensor]) -> None:
        super().__init__(file, encoding="utf-8")
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        if (function := _REBUILD.get((module, name))) is not None:
            return _Rebuild(function)
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module in ("torch", "torch.storage") and name in _STORAGES:
            return _STORAGES[name]
        if module == "torch" and isinstance(dtype := getattr(torch, name, None), torch.dtype):
            return dtype
        return type(name.rpartition(".")[2] or "Placeholder", (Placeholder,), {"__module__": "placeholder"})

    def persistent_load(self, pid: Any) -> Tensor:
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage" or not isinstance(pid[1], torch.dtype):
            raise pickle.UnpicklingError("the pickle refers to something that is no storage of a tensor")
        return self._storage(*pid[1:])


def _read_zip(path: Path) -> Any:
    """Read the format since torch 1.6: a zip file with one pickle and a member for each storage."""
    with zipfile.ZipFile(path) as archive:
        (pickled,) = [name for name in archive.namelist() if name.endswith("/data.pkl") or name == "data.pkl"]
        folder = pickled.removesuffix("data.pkl")
        if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") != sys.byteorder.encode():
            raise pickle.UnpicklingError("its numbers have another byte order than this machine's")
        read: dict[str, Tensor] = {}

        def storage(dtype: torch.dtype, key: Any, _device: Any, _numel: Any, *_rest: Any) -> Tensor:
            if str(key) not in read:
                content = bytearray(archive.read(f"{folder}data/{key}"))
                read[str(key)] = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
            return read[str(key)]

        with archive.open(pickled) as file:
            return _TensorUnpickler(file, storage).load()


def _no_storage(*_arguments: Any) -> Tensor:
    raise pickle.UnpicklingError("a tensor where only plain values belong")


def _read_legacy(path: Path) -> Any:
    """Read the format before torch 1.6: five pickles in a row, then the storages in the order of the last."""
    storages: dict[str, Tensor] = {}

    def storage(dtype: torch.dtype, key: Any, _device: Any, numel: Any, view: Any = None, *_rest: Any) -> Tensor:
        if int(numel) * dtype.itemsize > path.stat().st_size:
            raise pickle.UnpicklingError("a storage larger than the file")
        if str(key) not in storages:
            storages[str(key)] = torch.zeros(int(numel), dtype=dtype)
        whole = storages[str(key)]
        if view is None:
            return whole
        _view_key, offset, size = view
        return whole[int(offset) : int(offset) + int(size)]

    with path.open("rb") as file:
        if file.peek(2)[:2] == b"PK":
            raise pickle.UnpicklingError("the zip file is cut short")
        if _TensorUnpickler(file, _no_storage).load() != _LEGACY_MAGIC:
            raise pickle.UnpicklingError("it is no file that torch.save wrote")
        _TensorUnpickler(file, _no_storage).load()  # the format's version
        system = _TensorUnpickler(file, _no_storage).load()
        if isinstance(system, dict) and system.get("little_endian", True) != (sys.byteorder == "little"):
            raise pickle.UnpicklingError("its numbers have another byte order than this machine's")
        found = _TensorUnpickler(file, storage).load()
        for key in _TensorUnpickler(file, _no_storage).load():
            whole = storages[str(key)]
            (numel,) = struct.unpack("<q", file.read(8))
            content = memoryview(whole.view(torch.uint8).numpy())  # type: ignore[arg-type] # numpy arrays are buffers
            if numel != len(whole) or file.readinto(content) != len(content):
                raise pickle.UnpicklingError(f"the storage {key} is cut short")
    return found


def read_torch_file(path: Path) -> Any:
    """Return what a file of `torch.save` holds, tensors on the CPU; objects that are not plain data are placeholders.

    Raises CheckpointError where the file is damaged or none of torch's, OSError where it cannot be opened.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (*_PICKLE_ERRORS, OSError):  # objects beside the tensors, or damage: the second reader tells them apart
        pass
    try:
        return _read_zip(path) if zipfile.is_zipfile(path) else _read_legacy(path)
    except _PICKLE_ERRORS as error:
        raise CheckpointError(
            f"{path}: cannot be read as a file of torch.save: {error or type(error).__name__}; download it "
            "again, or save its state dict as safetensors where it was made"
        ) from error
