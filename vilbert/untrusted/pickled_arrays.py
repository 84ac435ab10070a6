"""Read NumPy arrays from untrusted pickles, without NumPy's own unpickling code.

`lookup` provides `pickles.load` with replacements for the few functions that a pickled array names, and refuses all
others. The length of the data is checked against dtype and shape before an array is created.
"""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vilbert.untrusted.arrays import ArrayError, read_header
from vilbert.untrusted.pickle_machine import mapping
from vilbert.untrusted.pickles import ForbiddenError, PickleError, Stub, load

# numpy 2 renamed numpy.core to numpy._core; pickles with either name exist.
_NUMPY_GLOBALS = {
    f"numpy.{core}.{name}"
    for core in ("core", "_core")
    for name in ("multiarray._reconstruct", "multiarray.scalar", "numeric._frombuffer")
}
_GLOBALS = _NUMPY_GLOBALS | {
    *("numpy.ndarray", "numpy.dtype", "collections.OrderedDict"),
    # How Python 3 writes bytes and empty bytes in protocols without a bytes opcode.
    *("_codecs.encode", "builtins.bytes", "__builtin__.bytes"),
}
_MAX_DIMENSIONS = 32
_DTYPES = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")
_OBJECTS = ("O", "O4", "O8")


def load_arrays(data: bytes, *, encoding: str = "latin1") -> Any:
    """Return the value of a pickle of arrays, strings, numbers, lists and mappings.

    An array of objects is returned as a list, and a 0-dimensional one as the object itself.

    Raises:
        PickleError: The pickle is damaged.
        ForbiddenError: The pickle names anything but arrays.
    """
    value = load(data, lookup=lookup_with_objects, encoding=encoding)
    try:
        return _plain(value, {})
    except RecursionError:  # `load` does not check the depth within arrays of objects
        raise PickleError("nests arrays of objects too deeply") from None


def load_npy(data: bytes) -> Any:
    """Return the array of a .npy file, or the content of its pickled array of objects (see `load_arrays`).

    Raises:
        ArrayError: It is not a .npy file, or its size does not match its header.
        PickleError: Its pickle is damaged or refused.
    """
    file = io.BytesIO(data)
    shape, fortran_order, dtype = read_header(file)
    if not dtype.hasobject:
        return _array(data[file.tell() :], DtypeRecord.of(dtype), shape, fortran=fortran_order)
    if dtype.names is not None or dtype.subdtype is not None:
        raise ArrayError("holds a structured array of objects")
    return load_arrays(data[file.tell() :])


def lookup(module: str, name: str) -> Stub:
    """Return the stub of a function that a pickled numeric array names. Raise ForbiddenError for any other name."""
    return _global(module, name, objects=False)


def lookup_with_objects(module: str, name: str) -> Stub:
    """Return the stub of a function as `lookup` does, for pickles that may also hold arrays of objects."""
    return _global(module, name, objects=True)


def _global(module: str, name: str, *, objects: bool) -> Stub:
    dotted = f"{module}.{name}"
    if dotted not in _GLOBALS:
        raise ForbiddenError(f"names {dotted}")
    return _Global(dotted, objects)


class _Global(Stub):
    """Replacement for a numpy function that records the array or dtype to create."""

    __slots__ = ("_name", "_objects")

    def __init__(self, name: str, objects: bool) -> None:
        self._name = name
        self._objects = objects

    def __repr__(self) -> str:
        return self._name

    def call(self, *args: Any) -> object:
        match self._name.rpartition(".")[2]:
            case "_reconstruct":
                return ArrayRecord()
            case "_frombuffer":
                raw, dtype, shape, order = args
                return ArrayRecord(_array(raw, dtype, shape, fortran=order == "F"))
            case "scalar":
                dtype, raw = args
                return ArrayRecord(_array(raw, dtype, (), fortran=False))
            case "dtype":
                return DtypeRecord(args[0], objects=self._objects)
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
        raise ForbiddenError("creates an OrderedDict from a value that is not a list of pairs")
    return mapping([part for key, value in pairs for part in (key, value)])


class DtypeRecord(Stub):
    """A numeric dtype and its byte order; structured dtypes are not supported."""

    __slots__ = ("byte_order", "code")

    def __init__(self, code: object, *, objects: bool = False) -> None:
        if code not in _DTYPES and not (objects and code in _OBJECTS):
            raise ForbiddenError(f"holds an array of dtype {_name(code)}")
        self.code = str(code)
        self.byte_order = "="

    @classmethod
    def of(cls, dtype: np.dtype[Any]) -> DtypeRecord:
        """Return the record of a dtype. Raise ForbiddenError if it is not numeric."""
        record = cls(dtype.str[1:])
        record.byte_order = dtype.str[0]
        return record

    def set_state(self, state: Any) -> None:
        """Set the byte order."""
        _version, byte_order, subarray, names, fields, *_sizes = state
        if byte_order not in ("<", ">", "|", "=") or any(part is not None for part in (subarray, names, fields)):
            raise ForbiddenError("holds an array of a structured dtype")
        self.byte_order = byte_order


class ArrayRecord(Stub):
    """An array, available after the pickle has set its state."""

    __slots__ = ("array", "objects", "shape")

    def __init__(self, array: NDArray[Any] | None = None) -> None:
        self.array = array
        """A view of the file's bytes in their byte order; None before the state is set or if it holds objects."""
        self.objects: list[Any] | None = None
        """The items of an array of objects."""
        self.shape: tuple[int, ...] = () if array is None else array.shape

    def set_state(self, state: Any) -> None:
        """Set the content."""
        *_version, shape, dtype, fortran, raw = state
        _check_shape(shape)
        if isinstance(dtype, DtypeRecord) and dtype.code in _OBJECTS:
            if type(raw) is not list or len(raw) != math.prod(shape):
                raise ForbiddenError("holds an array of objects whose number does not match its shape")
            self.objects = raw
        else:
            self.array = _array(raw, dtype, shape, fortran=bool(fortran))
        self.shape = shape


def _array(raw: object, dtype: object, shape: object, *, fortran: bool) -> NDArray[Any]:
    """Return the array with this content. Raise ForbiddenError if dtype, shape and length do not match."""
    if isinstance(raw, str):  # Python 2 wrote its bytes as str
        raw = _latin1(raw, "latin1")
    if not isinstance(raw, (bytes, bytearray)) or not isinstance(dtype, DtypeRecord) or dtype.code in _OBJECTS:
        raise ForbiddenError("holds an array whose data are not bytes of numbers")
    sides = _check_shape(shape)
    native = np.dtype(dtype.byte_order + dtype.code)
    flat = np.frombuffer(raw, dtype=np.uint8)
    if flat.nbytes != math.prod(sides) * native.itemsize:
        raise ForbiddenError(f"holds {flat.nbytes} bytes as an array of {list(sides[:8])} {native}")
    try:
        return flat.view(native).reshape(sides, order="F" if fortran else "C")
    except ValueError:  # one dimension is 0 and another exceeds the range of numpy's integers
        raise ForbiddenError(f"holds an array of {list(sides[:8])} {native}, which numpy cannot create") from None


def _check_shape(shape: object) -> tuple[int, ...]:
    # The length is checked before the product, which is slow for many dimensions.
    if not isinstance(shape, tuple) or len(shape) > _MAX_DIMENSIONS:
        raise ForbiddenError("holds an array whose shape is not a tuple of at most 32 sizes")
    if not all(type(side) is int and side >= 0 for side in shape):
        raise ForbiddenError("holds an array whose shape is not made of non-negative integers")
    return shape


def _plain(value: Any, seen: dict[int, Any]) -> Any:
    """Return a value with arrays in place of records. A container referenced several times is converted once."""
    if isinstance(value, (list, tuple, dict, ArrayRecord)):
        if id(value) not in seen:
            seen[id(value)] = _convert(value, seen)
        return seen[id(value)]
    if isinstance(value, Stub):
        raise ForbiddenError(f"holds {value!r}, which is not an array")
    return value


def _convert(value: Any, seen: dict[int, Any]) -> Any:
    if isinstance(value, dict):
        if any(isinstance(key, Stub) for key in value):
            raise ForbiddenError("has an array as a key")
        return {key: _plain(part, seen) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(part, seen) for part in value)
    if value.objects is not None:
        seen[id(value)] = None  # in case it contains itself, which no writer produces
        objects = [_plain(part, seen) for part in value.objects]
        return objects[0] if value.shape == () else objects
    if value.array is None:
        raise PickleError("holds an array without content")
    return value.array


def _name(value: object) -> str:
    """Return a short description for an error message: the string itself, or the type of any other value."""
    return repr(value[:60]) if isinstance(value, str) else f"a {type(value).__name__}"


def _latin1(text: object, encoding: object) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise ForbiddenError(f"encodes {type(text).__name__} as {_name(encoding)}")
    return text.encode("latin1")
