"""MessagePack with arrays as msgpack-numpy writes them."""

import msgpack
import numpy as np
import pytest

from vilbert.pipeline.rebuild.formats.exporters.msgpacks import encode_msgpack


def test_an_array_is_the_mapping_that_msgpack_numpy_makes_of_it() -> None:
    array = np.arange(6, dtype="<f2").reshape(2, 3)
    document = msgpack.unpackb(encode_msgpack(["é", b"x", array]), raw=False)
    assert document == [
        "é",
        b"x",
        {b"nd": True, b"type": "<f2", b"kind": b"", b"shape": [2, 3], b"data": array.tobytes()},
    ]


def test_other_types_are_refused() -> None:
    with pytest.raises(TypeError, match="cannot hold a object"):
        encode_msgpack([object()])


def test_msgpack_numpy_reads_it() -> None:
    msgpack_numpy = pytest.importorskip("msgpack_numpy")
    array = np.random.default_rng(0).random((5, 7), np.float32)
    read = msgpack.unpackb(encode_msgpack({"a": array}), raw=False, object_hook=msgpack_numpy.decode)["a"]
    assert read.dtype == array.dtype
    assert np.array_equal(read, array)
