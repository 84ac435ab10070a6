"""Weights files: every form of the same tensors, and files that are damaged, hostile or no weights at all."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import tracemalloc
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vilbert.extractors.extractor import ExtractorError
from vilbert.extractors.weights import load_weights

ARRAYS = {
    "backbone.conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2) / 7,
    "head.bias": np.array([-1.5, 0.0, 2.25], dtype=np.float16),
    "steps": np.arange(3, dtype=np.int64),
}


def tensors() -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array.copy()) for name, array in ARRAYS.items()}


def check(path: Path) -> None:
    state, sha256 = load_weights(path)
    assert sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert state.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert state[name].numpy().dtype == array.dtype
        np.testing.assert_array_equal(state[name].numpy(), array)


def write_pickle(path: Path, content: object, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_detectron2_pickle_of_every_protocol(tmp_path: Path, protocol: int) -> None:
    content = {"model": ARRAYS, "__author__": "Detectron2 Model Zoo"}
    check(write_pickle(tmp_path / "model_final.pkl", content, protocol))


@pytest.mark.parametrize("wrap", [dict, OrderedDict, lambda a: {"model": OrderedDict(a)}, lambda a: {"state_dict": a}])
@pytest.mark.parametrize("protocol", [2, 5])
def test_pickle_with_and_without_a_wrapper(tmp_path: Path, wrap, protocol: int) -> None:
    check(write_pickle(tmp_path / "w.pkl", wrap(ARRAYS), protocol))


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"model": state, "iteration": 7},
        lambda state: {"state_dict": state, "epoch": 1},
        lambda state: OrderedDict((f"module.{name}", tensor) for name, tensor in state.items()),
    ],
)
def test_torch_files(tmp_path: Path, suffix: str, wrap) -> None:
    path = tmp_path / f"w{suffix}"
    torch.save(wrap(tensors()), path)
    check(path)


def test_torch_file_in_the_old_format(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(tensors(), path, _use_new_zipfile_serialization=False)
    check(path)


def test_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file(tensors(), path)
    check(path)


def test_prefix_stays_where_not_all_have_it(tmp_path: Path) -> None:
    path = write_pickle(tmp_path / "w.pkl", {"module.a": ARRAYS["steps"], "b": ARRAYS["steps"]})
    assert load_weights(path)[0].keys() == {"module.a", "b"}


@pytest.mark.parametrize(
    "array",
    [
        np.asfortranarray(np.random.default_rng(0).normal(size=(3, 4))),
        np.arange(5, dtype=">f4"),
        np.zeros((0, 4), np.float32),
        np.array(3.5),
        np.float32(3.5),
        np.array([True, False]),
        np.arange(12).reshape(3, 4)[:, ::2],
    ],
    ids=["fortran", "big-endian", "empty", "0-d", "scalar", "bool", "strided"],
)
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_arrays_of_every_layout(tmp_path: Path, array, protocol: int) -> None:
    state, _ = load_weights(write_pickle(tmp_path / "w.pkl", {"a": array}, protocol))
    assert state["a"].shape == array.shape
    np.testing.assert_array_equal(state["a"].numpy(), array)


def test_arrays_are_writable_and_the_loader_keeps_no_hold_of_them(tmp_path: Path) -> None:
    path = write_pickle(tmp_path / "w.pkl", ARRAYS, 5)
    load_weights(path)[0]["steps"].fill_(9)
    check(path)


def python2_pickle() -> bytes:
    """As Python 2 with an old numpy wrote it: bytes as str (opcodes U and T), numpy.core, a state without version."""
    raw = np.array([1.5, -2.0, 200.0], "<f4").tobytes()
    return (
        b"\x80\x02}U\x05model}U\x01w"
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x03\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        b"T" + len(raw).to_bytes(4, "little") + raw + b"tbssU\x0a__author__U\x06Caffe2s."
    )


def test_pickle_of_python_2(tmp_path: Path) -> None:
    path = tmp_path / "w.pkl"
    path.write_bytes(python2_pickle())
    assert pickle.loads(python2_pickle(), encoding="latin1")["model"]["w"].tolist() == [1.5, -2.0, 200.0]
    assert load_weights(path)[0]["w"].tolist() == [1.5, -2.0, 200.0]


class Call:
    """Pickles as a call."""

    def __init__(self, function, *args) -> None:
        self.call = (function, args)

    def __reduce__(self):
        return self.call


# A name that a pickle may not look up, and the call that it would make of it; {canary} is a file that nobody may make.
HOSTILE_CALLS = {
    "posix.system": lambda canary: Call(os.system, f"touch {canary}"),
    "builtins.eval": lambda canary: Call(eval, f"open({str(canary)!r}, 'w')"),
    "builtins.getattr": lambda canary: Call(getattr, "a", "upper"),
    "_io.open": lambda canary: Call(open, str(canary), "w"),
    "pathlib.PosixPath": lambda canary: canary,
    "numpy.load": lambda canary: Call(np.load, str(canary)),
    "numpy.fromfile": lambda canary: Call(np.fromfile, str(canary)),
    "torch._utils._rebuild_tensor_v2": lambda canary: torch.zeros(3),
}
HOSTILE_PLACES = {
    "alone": lambda call: call,
    "as a tensor": lambda call: {"model": {**ARRAYS, "last": call}},
    "beside the model": lambda call: {"model": ARRAYS, "__author__": call},
    "as a key": lambda call: {"model": {(call,): 1}},
    "in the arguments of an allowed call": lambda call: Call(OrderedDict, [("a", call)]),
}


@pytest.mark.parametrize("place", HOSTILE_PLACES)
@pytest.mark.parametrize("name", HOSTILE_CALLS)
def test_pickle_that_names_anything_else_is_refused(tmp_path: Path, name: str, place: str) -> None:
    canary = tmp_path / "canary"
    for protocol in (0, 2, 4):
        path = write_pickle(tmp_path / "w.pkl", HOSTILE_PLACES[place](HOSTILE_CALLS[name](canary)), protocol)
        # Protocol 2 has Python 2's names, and an object of a class is made by copyreg's function before protocol 2.
        names = (
            name,
            name.replace("builtins.", "__builtin__."),
            "__builtin__.open",
            "io.open",
            "copy_reg._reconstructor",
        )
        with pytest.raises(ExtractorError, match="refused: it names") as error:
            load_weights(path)
        assert any(f"names {known};" in str(error.value) for known in names), error.value
        assert not canary.exists()


def pickled(*opcodes: bytes) -> bytes:
    return b"\x80\x02" + b"".join(opcodes) + b"."


ND = b"cnumpy\nndarray\n"
RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n"
DTYPE = b"cnumpy\ndtype\n"
F4 = DTYPE + b"U\x02f4K\x00K\x01\x87R"
EMPTY_ARRAY = RECONSTRUCT + ND + b"K\x00\x85U\x01b\x87R"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(pickle.dumps(np.array([print, None])), "dtype 'O8'", id="object-array"),
        pytest.param(pickle.dumps(np.array(["a"])), "dtype 'U1'", id="string-array"),
        pytest.param(pickle.dumps(np.zeros(2, [("a", "f4")])), "dtype 'V4'", id="structured-array"),
        pytest.param(pickle.dumps(np.zeros(2, "c8")), "dtype 'c8'", id="complex-array"),
        pytest.param(
            pickled(F4, b"(K\x03U\x01<N(U\x01atU\x01xJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"),
            "structured",
            id="fields-in-f4",
        ),
        pytest.param(
            pickled(EMPTY_ARRAY, b"(K\x01J\xff\xff\xff\x7f\x85", F4, b"\x89U\x04abcdtb"),
            "4 bytes",
            id="shape-beyond-bytes",
        ),
        pytest.param(
            pickled(EMPTY_ARRAY, b"(K\x01J\xff\xff\xff\xff\x85", F4, b"\x89U\x04abcdtb"), "shape", id="negative-shape"
        ),
        pytest.param(pickled(EMPTY_ARRAY, b"(K\x01)", F4, b"\x89]tb"), "bytes of numbers", id="list-for-bytes"),
        pytest.param(pickled(EMPTY_ARRAY, b"(K\x01)U\x02f4\x89U\x04abcdtb"), "bytes of numbers", id="string-for-dtype"),
        pytest.param(pickled(DTYPE, b"}U\x05_nameU\x01xsb"), "state of numpy.dtype", id="state-on-a-global"),
        pytest.param(pickled(ND, b")R"), "calls numpy.ndarray", id="call-ndarray"),
        pytest.param(pickled(b"c_codecs\nencode\nU\x01aU\x04zlib\x86R"), "encodes", id="another-codec"),
        pytest.param(pickled(b"c_codecs\nlookup\n"), "_codecs.lookup", id="another-function-of-codecs"),
        pytest.param(pickled(b"(U\x06whoami", b"iposix\nsystem\n"), "posix.system", id="inst"),
        pytest.param(pickled(b"(cposix\nsystem\nU\x06whoamio"), "posix.system", id="obj"),
    ],
)
def test_pickle_of_anything_but_arrays_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "w.pkl"
    path.write_bytes(content)
    with pytest.raises(ExtractorError, match=f"w.pkl: refused: .*{reason}"):
        load_weights(path)


@pytest.mark.parametrize(
    "content",
    [
        pickled(ND, b")\x81"),  # NEWOBJ: ndarray.__new__
        pickled(b"U\x01xQ"),  # a persistent id
        pickled(b"\x82\x01"),  # the copyreg extension 1
        pickled(b"\x8e" + (1 << 40).to_bytes(8, "little") + b"abc"),  # a terabyte of bytes
        b"",
        b"\x80\x04",
        b"PK\x03\x04 not a pickle",
    ],
)
def test_pickle_that_breaks_is_an_extractor_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "w.pkl"
    path.write_bytes(content)
    with pytest.raises(ExtractorError, match=r"w\.pkl: "):
        load_weights(path)


PAIRS = b"](" + b"".join(b"M" + key.to_bytes(2, "little") + b"N\x86" for key in range(20_000)) + b"eq\x01"
MANY_BYTES = b"\x96" + (100_000).to_bytes(8, "little") + bytes(100_000) + b"q\x01"
MANY_TEXT = b"X\xa0\x86\x01\x00" + b"a" * 100_000 + b"q\x01"
STATE_OF_THEM = b"(K\x01M\xa8\x61\x85h\x03\x89h\x01tb"  # 25,000 numbers of 4 bytes


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(
            pickled(b"ccollections\nOrderedDict\nq\x02", PAIRS, b"h\x02h\x01\x85R" * 2_000),
            id="mappings of one list of pairs",
        ),
        pytest.param(
            pickled(F4, b"q\x03", MANY_BYTES, b"](", (EMPTY_ARRAY + STATE_OF_THEM) * 2_000, b"e"),
            id="arrays of the same bytes",
        ),
        pytest.param(
            pickled(F4, b"q\x03", MANY_TEXT, STATE_OF_THEM[:-1] + b"q\x04", EMPTY_ARRAY, b"h\x04b" * 2_000),
            id="one state with a text again and again",
        ),
    ],
)
def test_pickle_that_repeats_its_parts_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "w.pkl"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(ExtractorError, match="expands its values to many times the size of the file"):
            load_weights(path)
        assert tracemalloc.get_traced_memory()[1] < 100 * len(content)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("sides", [33, 20_000])
def test_an_array_of_many_dimensions_is_refused(tmp_path: Path, sides: int) -> None:
    path = tmp_path / "w.pkl"
    shape = b"(" + (b"\x8a\x80" + b"\x7f" * 128) * sides + b"t"
    path.write_bytes(pickled(EMPTY_ARRAY, b"(K\x01" + shape + F4, b"\x89U\x04abcdtb"))
    with pytest.raises(ExtractorError, match="not a tuple of at most 32 sizes"):
        load_weights(path)


def test_what_is_named_in_a_message_is_short(tmp_path: Path) -> None:
    path = tmp_path / "w.pkl"
    laughs = b"]q\x00" + b"".join(
        b"](" + b"h" + bytes([level]) + b"h" + bytes([level]) + b"eq" + bytes([level + 1]) for level in range(30)
    )
    path.write_bytes(pickled(laughs, DTYPE, b"h\x1e\x85R"))
    with pytest.raises(ExtractorError, match="dtype a list;"):
        load_weights(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_file_that_runs_code_is_refused(tmp_path: Path, zipped: bool) -> None:
    canary = tmp_path / "canary"
    path = tmp_path / "w.pth"
    torch.save({"model": Call(os.system, f"touch {canary}")}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ExtractorError, match=r"refused: it names posix\.system") as error:
        load_weights(path)
    assert "weights_only" not in str(error.value)
    assert not canary.exists()


def whole(suffix: str) -> bytes:
    stream = io.BytesIO()
    match suffix:
        case ".pkl":
            return pickle.dumps({"model": ARRAYS}, protocol=2)
        case ".safetensors":
            return safetensors.torch.save(tensors())
        case ".bin":
            torch.save(tensors(), stream, _use_new_zipfile_serialization=False)
        case _:
            torch.save(tensors(), stream)
    return stream.getvalue()


@pytest.mark.parametrize("suffix", [".pkl", ".safetensors", ".pth", ".bin"])
def test_truncated_anywhere(tmp_path: Path, suffix: str) -> None:
    path, content = tmp_path / f"w{suffix}", whole(suffix)
    for length in range(0, len(content), max(1, len(content) // 60)):
        path.write_bytes(content[:length])
        # Where a name is cut in two, torch refuses the rest of it.
        with pytest.raises(ExtractorError, match=rf"w\{suffix}: (the weights file is damaged or is not|refused)"):
            load_weights(path)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("suffix", [".pkl", ".safetensors", ".pth", ".bin"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_changed_bytes_give_tensors_or_an_extractor_error(tmp_path: Path, suffix: str, data) -> None:
    content = bytearray(whole(suffix))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    try:
        state, _ = load_weights(path)
    except ExtractorError:
        return
    assert all(isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in state.items())


@pytest.mark.parametrize("mark", [{"matching_heuristics": True}, {"blobs": ARRAYS}])
def test_backbone_is_refused(tmp_path: Path, mark: dict[str, object]) -> None:
    path = write_pickle(tmp_path / "R-50.pkl", {"model": ARRAYS, "__author__": "Caffe2", **mark})
    with pytest.raises(ExtractorError, match="this is a backbone, not a detector"):
        load_weights(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"a": 3}, "'a' is a int, expected a dict of tensors"),
        ({"model": {"a": ["b"]}}, "'a' is a list"),
        ({3: ARRAYS["steps"]}, "3 is a"),
        ([1, 2], "but a list"),
        ({"model": {}}, "but a dict"),
    ],
)
def test_content_that_is_no_state_dict(tmp_path: Path, content: object, reason: str) -> None:
    with pytest.raises(ExtractorError, match=reason):
        load_weights(write_pickle(tmp_path / "w.pkl", content))
    torch.save(
        content if not isinstance(content, dict) or 3 not in content else {3: torch.zeros(1)}, tmp_path / "w.pth"
    )
    with pytest.raises(ExtractorError, match=reason):
        load_weights(tmp_path / "w.pth")


@pytest.mark.parametrize("name", ["w.npz", "w", "w.pkl.gz", "w.PKL"])
def test_name_of_another_kind(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(pickle.dumps(ARRAYS))
    with pytest.raises(ExtractorError, match=r"expected one of \.safetensors, \.pth, \.pt, \.bin, \.pkl"):
        load_weights(tmp_path / name)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ExtractorError, match=r"absent\.pth: cannot read the weights: No such file"):
        load_weights(tmp_path / "absent.pth")
    (tmp_path / "folder.pth").mkdir()
    with pytest.raises(ExtractorError, match=r"folder\.pth: cannot read the weights: Is a directory"):
        load_weights(tmp_path / "folder.pth")
