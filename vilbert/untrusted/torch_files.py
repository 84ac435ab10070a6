"""Read untrusted files of `torch.save`, without running code and in memory proportional to the file's size.

Both formats are read: the zip file since torch 1.6, and the chain of pickles before it. `torch.load(weights_only=True)`
is not used: it allocates whatever a file states (a deflated member of 2 MB that inflates to 2 GB), and its unpickler
had a vulnerability (CVE-2026-24747). It also refuses the other objects that training checkpoints hold (a stop
controller, a logger); here they become a `Placeholder`.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any

import torch
from torch import Tensor

from vilbert.untrusted.pickle_machine import mapping
from vilbert.untrusted.pickles import Buffer, ForbiddenError, PickleError, Stub, load, load_one

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_MAX_DIMENSIONS = 32
_MAX_VIEWS = 16
"""Maximum ratio of the total size of all tensors to the file; shared storages are counted for each tensor."""
_MAX_PICKLE_BYTES = 1 << 30
_CHUNK = 1 << 24

_STORAGES = {
    "FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64, "ComplexDoubleStorage": torch.complex128, "UntypedStorage": torch.uint8,
}  # fmt: skip
_MAPPINGS = ("OrderedDict", "defaultdict", "Counter")
# Names that occur as arguments in files that hold only tensors.
_HARMLESS = {("torch", "Size"), ("torch", "device"), ("torch.nn.parameter", "Parameter"), ("torch", "Tensor")}

# Errors that a damaged file raises, besides PickleError.
_DAMAGE = (
    zipfile.BadZipFile, zlib.error, EOFError, LookupError, ValueError, TypeError, RuntimeError,
    NotImplementedError, OverflowError, MemoryError, struct.error,
)  # fmt: skip


class Placeholder(Stub):
    """Replacement for a class unrelated to tensors, and for its objects. Discards their content."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name

    def call(self, *_arguments: Any) -> Placeholder:
        """Return a placeholder for the object."""
        return Placeholder(self.name)

    def set_state(self, state: Any) -> None:
        """Discard the state."""

    def put(self, items: list[Any]) -> None:
        """Discard the items."""


class _Function(Stub):
    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def call(self, *arguments: Any) -> Any:
        return self._function(*arguments)


def read_torch_file(file: IO[bytes], *, strict: bool = False) -> Any:
    """Return the content of a file of `torch.save`, with tensors on the CPU.

    Args:
        file: The file, open for reading at its start.
        strict: Raise ForbiddenError for objects unrelated to tensors, instead of returning placeholders.

    Raises:
        PickleError: The content is damaged or refused.
        ForbiddenError: An object is refused.
        OSError: The file cannot be read.
    """
    size = file.seek(0, 2)
    file.seek(0)
    is_zip = file.read(2) == b"PK"
    file.seek(0)
    reader = _Reader(size, strict=strict)
    try:
        if is_zip:
            return _read_zip(file, reader)
        with _buffer(file) as data:
            return _read_legacy(data, reader)
    except PickleError:
        raise
    except _DAMAGE as error:
        raise PickleError(str(error).partition("\n")[0] or type(error).__name__) from error


class _Reader:
    """The replacements for the globals of one file's pickle, and the remaining size allowed for its tensors."""

    def __init__(self, file_size: int, *, strict: bool) -> None:
        self.file_size = file_size
        self._strict = strict
        self._left = _MAX_VIEWS * file_size + (1 << 20)
        self._placeholders: dict[str, Placeholder] = {}
        self._functions = {
            "_rebuild_tensor": _Function(self._view),
            "_rebuild_tensor_v2": _Function(self._view),
            "_rebuild_tensor_v3": _Function(self._view_as),
            "_rebuild_parameter": _Function(lambda tensor, *_rest: tensor),
            "_rebuild_parameter_with_state": _Function(lambda tensor, *_rest: tensor),
        }
        self._mapping = _Function(_mapping)

    def lookup(self, module: str, name: str) -> Any:
        """Return the replacement for a global."""
        if module == "torch._utils" and name in self._functions:
            return self._functions[name]
        if module == "collections" and name in _MAPPINGS:
            return self._mapping
        if module in ("torch", "torch.storage") and name in _STORAGES:
            return _STORAGES[name]
        if module == "torch" and isinstance(dtype := vars(torch).get(name), torch.dtype):
            return dtype
        if self._strict and (module, name) not in _HARMLESS:
            raise ForbiddenError(f"names {module}.{name}")
        return self._placeholders.setdefault(f"{module}.{name}", Placeholder(name.rpartition(".")[2] or "object"))

    def _view(self, storage: Any, offset: Any, size: Any, stride: Any, *_rest: Any) -> Tensor:
        """Return a tensor over a storage. torch refuses views that extend beyond its end."""
        if not isinstance(storage, Tensor):
            raise PickleError("builds a tensor on a value that is not a storage")
        if not all(type(part) is tuple and all(type(side) is int for side in part) for part in (size, stride)):
            raise PickleError("builds a tensor with an invalid shape")
        if max(len(size), len(stride)) > _MAX_DIMENSIONS:  # before the product, which is slow for many
            raise PickleError(f"builds a tensor of {len(size):,} dimensions")
        count = math.prod(size)
        if not 0 <= count <= storage.numel() or min(size, default=0) < 0:
            raise PickleError(f"builds a tensor of shape {list(size[:8])} on a storage of {storage.numel():,} numbers")
        self._left -= count * storage.element_size()
        if self._left < 0:
            raise PickleError(f"holds tensors that are together more than {_MAX_VIEWS} times as large as the file")
        return torch.as_strided(storage, size, stride, offset)

    def _view_as(
        self, storage: Any, offset: Any, size: Any, stride: Any, _grad: Any, _hooks: Any, dtype: Any, *_rest: Any
    ) -> Tensor:
        """Return a tensor whose dtype is given separately from its storage."""
        if not isinstance(storage, Tensor) or not isinstance(dtype, torch.dtype):
            raise PickleError("builds a tensor on a value that is not a storage")
        return self._view(storage.view(dtype), offset, size, stride)


def _mapping(*arguments: Any) -> dict[Any, Any]:
    """Return an OrderedDict, defaultdict or Counter as a plain dict."""
    if not arguments or not isinstance(arguments[-1], (dict, list)):
        return {}
    items = arguments[-1]
    return dict(items) if isinstance(items, dict) else mapping([part for pair in items for part in _pair(pair)])


def _pair(pair: Any) -> Any:
    if not isinstance(pair, (list, tuple)) or len(pair) != 2:
        raise PickleError("creates a mapping from a value that is not a pair")
    return pair


def _storage_id(pid: Any) -> tuple[Any, ...]:
    """Return dtype, key, device, element count and further fields of the storage that a tensor refers to."""
    if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage" or not isinstance(pid[1], torch.dtype):
        raise PickleError("refers to a value that is not a tensor storage")
    if type(pid[2]) not in (str, int) or type(pid[4]) is not int:
        raise PickleError("refers to a storage without a name or size")
    return pid[1:]


def _numbers(content: bytearray, dtype: torch.dtype) -> Tensor:
    return torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)


# The format since torch 1.6: a zip file with one pickle and a member for each storage.


def _read_zip(file: IO[bytes], reader: _Reader) -> Any:
    with zipfile.ZipFile(file) as archive:
        names = set(archive.namelist())
        _check_members(archive, reader.file_size)
        pickled = [name for name in names if name.endswith("/data.pkl") or name == "data.pkl"]
        if len(pickled) != 1:
            raise PickleError("it is a zip file that torch.save did not write")
        folder = pickled[0].removesuffix("data.pkl")
        if archive.getinfo(pickled[0]).file_size > _MAX_PICKLE_BYTES:
            raise PickleError(f"its pickle, apart from the tensors, has more than {_MAX_PICKLE_BYTES:,} bytes")
        if f"{folder}byteorder" in names and _member(archive, f"{folder}byteorder") != sys.byteorder.encode():
            raise PickleError("its byte order differs from this machine's")
        storages: dict[tuple[str, torch.dtype], Tensor] = {}
        contents: dict[str, bytearray] = {}

        def storage(pid: Any) -> Tensor:
            dtype, key, _device, count, *_rest = _storage_id(pid)
            if (str(key), dtype) not in storages:
                if str(key) not in contents:
                    contents[str(key)] = _member(archive, f"{folder}data/{key}")
                storages[str(key), dtype] = _numbers(contents[str(key)], dtype)
            found = storages[str(key), dtype]
            if found.numel() != count:
                raise PickleError(f"the storage {key} has {found.numel():,} elements, expected {count:,}")
            return found

        return load(
            bytes(_member(archive, pickled[0])), lookup=reader.lookup, persistent_load=storage, encoding="utf-8"
        )


def _check_members(archive: zipfile.ZipFile, file_size: int) -> None:
    """Refuse members that are larger than their bytes in the file, because they are compressed or overlap."""
    total = 0
    for info in archive.infolist():
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise PickleError(f"its member {info.filename[:80]!r} is compressed, which torch.save does not do")
        if not 0 <= info.header_offset < file_size:
            raise PickleError(f"its member {info.filename[:80]!r} is not within the file")
        total += info.file_size
    if total > file_size:
        raise PickleError(f"its members have {total:,} bytes together, and the file has {file_size:,}")


def _member(archive: zipfile.ZipFile, name: str) -> bytearray:
    """Return the bytes of a member that passed `_check_members`. zipfile checks its CRC."""
    size = archive.getinfo(name).file_size
    content = bytearray(size)
    with archive.open(name) as file:
        at = 0
        while part := file.read(_CHUNK):
            content[at : at + len(part)] = part
            at += len(part)
    if at != size:
        raise PickleError(f"its member {name[:80]!r} is truncated")
    return content


# The format before torch 1.6: five pickles in a row, then the storages in the order of the last.


@contextlib.contextmanager
def _buffer(file: IO[bytes]) -> Iterator[Buffer]:
    """Yield the bytes of a file, memory-mapped if possible."""
    with contextlib.ExitStack() as stack:
        try:
            data: Buffer = stack.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except (OSError, ValueError):  # not a file on disk, or an empty one
            data = file.read()
        yield data


def _read_legacy(data: Buffer, reader: _Reader) -> Any:
    magic, at = load_one(data, 0)
    if magic != _LEGACY_MAGIC:
        raise PickleError("it is not a file that torch.save wrote")
    _version, at = load_one(data, at)
    system, at = load_one(data, at)
    if isinstance(system, dict) and system.get("little_endian", True) != (sys.byteorder == "little"):
        raise PickleError("its byte order differs from this machine's")
    storages: dict[str, Tensor] = {}
    stated = 0

    def storage(pid: Any) -> Tensor:
        nonlocal stated
        dtype, key, _device, count, *rest = _storage_id(pid)
        if str(key) not in storages:
            stated += count * dtype.itemsize
            if count < 0 or stated > len(data):
                raise PickleError(f"its storages have more than {len(data):,} bytes, the size of the file")
            storages[str(key)] = torch.zeros(count, dtype=dtype)
        whole = storages[str(key)]
        if whole.dtype != dtype or whole.numel() != count:
            raise PickleError(f"the storage {key} has two types or sizes")
        if not rest or rest[0] is None:
            return whole
        _view_key, offset, size = rest[0]
        return whole.narrow(0, offset, size)

    found, at = load_one(data, at, lookup=reader.lookup, persistent_load=storage, encoding="utf-8")
    keys, at = load_one(data, at)
    if not isinstance(keys, list) or {str(key) for key in keys} != storages.keys() or len(keys) != len(storages):
        raise PickleError("its list of storages does not match its tensors")
    for key in keys:
        at = _fill(storages[str(key)], data, at, str(key))
    return found


def _fill(whole: Tensor, data: Buffer, at: int, key: str) -> int:
    """Copy the elements of a storage from the file, and return the offset of their end."""
    (count,) = struct.unpack("<q", data[at : at + 8])
    content = memoryview(whole.view(torch.uint8).numpy()).cast("B") if count else memoryview(b"")  # type: ignore[arg-type]
    at += 8
    if count != whole.numel() or at + len(content) > len(data):
        raise PickleError(f"the storage {key} is truncated")
    for start in range(0, len(content), _CHUNK):
        part = data[at + start : at + min(start + _CHUNK, len(content))]
        content[start : start + len(part)] = part
    return at + len(content)
