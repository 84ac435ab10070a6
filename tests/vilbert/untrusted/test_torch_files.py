"""Tensors come out of a file of torch as they went in, and nothing that the file says is run."""

from __future__ import annotations

import io
import os
import pickle
import resource
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from vilbert.model.checkpoint import CheckpointError, read_state_dict
from vilbert.model.tensor_files import read_torch_file

RAN: list[str] = []


class Logger:
    """What vilbert-multi-task pickles beside its tensors."""

    def __init__(self) -> None:
        self.path, self.values = "here", {"TASK1": [1.0, 2.0]}


class Evil:
    """Unpickling it calls a function; the list would show it, were it called."""

    def __reduce__(self) -> tuple[Any, ...]:
        return RAN.append, ("ran",)


class EvilSystem:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def test_views_and_types_survive_the_restricted_reader(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    state = {
        "view": base.t()[1:], "whole": base, "half": torch.tensor([1.5]).half(),
        "brain": torch.tensor([2.5]).bfloat16(), "bool": torch.tensor([True, False]), "long": torch.tensor([-3]),
        "scalar": torch.tensor(4.0), "none": torch.empty(0), "parameter": torch.nn.Parameter(torch.ones(2)),
    }  # fmt: skip
    for zipped in (True, False):
        torch.save({"state_dict": state, "logger": Logger()}, tmp_path / "c.pth", _use_new_zipfile_serialization=zipped)
        found = read_state_dict(tmp_path / "c.pth")
        assert set(found) == set(state)
        for name, tensor in state.items():
            assert found[name].dtype == tensor.dtype
            assert torch.equal(found[name], tensor)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_nothing_in_a_file_is_run(zipped: bool, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    state = {"model_state_dict": {"x": torch.ones(2)}, "evil": Evil(), "system": [EvilSystem(mark)]}
    torch.save(state, tmp_path / "c.tar", _use_new_zipfile_serialization=zipped)
    assert torch.equal(read_state_dict(tmp_path / "c.tar")["x"], torch.ones(2))
    assert not mark.exists()
    assert RAN == []
    pickle.loads(pickle.dumps(EvilSystem(mark)))  # the same pickle does act where it is let
    assert mark.exists()


@pytest.mark.parametrize(
    "payload",
    [
        b"cposix\nsystem\n(S'touch MARK'\ntR.",
        b'cbuiltins\neval\n(S\'open("MARK", "w")\'\ntR.',
        b"c__builtin__\ngetattr\n(ctorch\nhub\nS'load'\ntR(S'MARK'\ntR.",
        b"ctorch._utils\n_rebuild_tensor_v2\n(dS'__call__'\ncos\nsystem\nsb.",
        b"\x80\x04\x8c\x08builtins\x8c\x04exec\x93\x8c\x14open('MARK','w') # ..\x85R.",
    ],
)
def test_hand_made_pickles_come_to_nothing(payload: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile("evil.bin", "w") as archive:
        archive.writestr("archive/data.pkl", payload)
        archive.writestr("archive/version", "3\n")
    Path("evil.tar").write_bytes(payload)
    for name in ("evil.bin", "evil.tar"):
        with pytest.raises(CheckpointError):
            read_state_dict(name)
    assert not Path("MARK").exists()


def zip_file(path: Path, pickled: bytes, storages: dict[str, bytes], *, deflate: bool = False) -> Path:
    """Write a file of torch.save's format with a pickle and storages of our own."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", pickled, zipfile.ZIP_STORED)
        for key, content in storages.items():
            archive.writestr(f"archive/data/{key}", content)
    return path


def tensor_pickle(count: int, size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> bytes:
    """Return the pickle of {"x": a float32 tensor over the storage 0}."""
    stream = io.BytesIO()
    _Pickler(stream, 2).dump({"x": Rebuilt((Storage(count), offset, size, stride, False, {}))})
    return stream.getvalue()


class Storage:
    def __init__(self, count: int) -> None:
        self.count = count


class Rebuilt:
    def __init__(self, arguments: tuple[Any, ...]) -> None:
        self.arguments = arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return torch._utils._rebuild_tensor_v2, self.arguments


class _Pickler(pickle.Pickler):
    def persistent_id(self, value: Any) -> Any:
        return ("storage", torch.FloatStorage, "0", "cpu", value.count) if isinstance(value, Storage) else None


def test_a_hand_made_file_is_read_as_one_of_torch(tmp_path: Path) -> None:
    content = torch.arange(6.0).numpy().tobytes()
    path = zip_file(tmp_path / "x.bin", tensor_pickle(6, (2, 3), (3, 1)), {"0": content})
    assert torch.equal(read_state_dict(path)["x"], torch.arange(6.0).reshape(2, 3))


@pytest.mark.parametrize(
    ("count", "size", "stride", "offset", "reason"),
    [
        (4, (1 << 40,), (0,), 0, "on a storage of 4 numbers"),
        (4, (3, 3), (1, 0), 0, "on a storage of 4 numbers"),
        (4, (-1,), (1,), 0, "on a storage of 4 numbers"),
        (4, (-2, -2), (1, 1), 0, "on a storage of 4 numbers"),
        (4, (1 << 40, 0), (1, 1), 0, None),
        (4, (2,), (3,), 2, "out of bounds"),
        (4, (2,), (-1,), 1, "Negative strides"),
        (4, (2,), (1,), -1, "offset"),
        (4, (1,) * 100, (1,) * 100, 0, "100 dimensions"),
        (4, (2**1000,) * 20_000, (), 0, "20,000 dimensions"),
        (1 << 40, (4,), (1,), 0, "has 4 elements, expected"),
        (3, (3,), (1,), 0, "has 4 elements, expected 3"),
        (-1, (3,), (1,), 0, "has 4 elements"),
    ],
)
def test_a_tensor_is_no_larger_than_its_storage(
    tmp_path: Path, count: int, size: tuple[int, ...], stride: tuple[int, ...], offset: int, reason: str | None
) -> None:
    path = zip_file(tmp_path / "x.bin", tensor_pickle(count, size, stride, offset), {"0": bytes(16)})
    if reason is None:
        assert read_state_dict(path)["x"].numel() == 0
        return
    with pytest.raises(CheckpointError, match=reason):
        read_state_dict(path)


def test_a_compressed_storage_is_refused_before_it_is_read(tmp_path: Path) -> None:
    size = 300_000_000
    path = zip_file(tmp_path / "x.bin", tensor_pickle(size // 4, (1,), (1,)), {"0": bytes(size)}, deflate=True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match="is compressed, which"):
        read_state_dict(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


def test_a_pickle_beside_the_tensors_that_is_huge_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = zip_file(tmp_path / "x.bin", tensor_pickle(4, (4,), (1,)), {"0": bytes(16)})
    monkeypatch.setattr("vilbert.untrusted.torch_files._MAX_PICKLE_BYTES", 50)
    with pytest.raises(CheckpointError, match="its pickle, apart from the tensors, has more than 50 bytes"):
        read_state_dict(path)


def test_a_mapping_that_is_copied_again_and_again_is_refused(tmp_path: Path) -> None:
    entries = b"".join(b"M" + key.to_bytes(2, "little") + b"N" for key in range(20_000))
    pickled = b"\x80\x02ccollections\nOrderedDict\nq\x00}q\x01(" + entries + b"u](" + b"h\x00h\x01\x85R" * 2_000 + b"e."
    path = zip_file(tmp_path / "x.bin", pickled, {})
    with pytest.raises(CheckpointError, match="expands its values to many times the size of the file"):
        read_state_dict(path)


def test_members_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    path = zip_file(tmp_path / "x.bin", tensor_pickle(4, (4,), (1,)), {"0": bytes(100_000), "1": b"", "2": b""})
    with zipfile.ZipFile(path, "a") as archive:
        first = archive.getinfo("archive/data/0")
        for key in ("1", "2"):
            other = archive.getinfo(f"archive/data/{key}")
            other.header_offset, other.file_size, other.compress_size = first.header_offset, 100_000, 100_000
        archive.comment = b"so that the directory is written again"
    with pytest.raises(CheckpointError, match="bytes together"):
        read_state_dict(path)


def test_the_sizes_of_old_files_are_compared_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    torch.save({"x": torch.zeros(70_000)}, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    stated = b"J" + (70_000).to_bytes(4, "little")
    path.write_bytes(whole.replace(stated, b"J" + (0x7FFFFFFF).to_bytes(4, "little")))
    with pytest.raises(CheckpointError, match="the size of the file"):
        read_state_dict(path)


def test_tensors_over_one_storage_share_its_memory(tmp_path: Path) -> None:
    words = torch.ones(1000, 10)
    torch.save({"a": words, "b": words, "c": words.t()}, tmp_path / "x.bin")
    found = read_state_dict(tmp_path / "x.bin")
    assert len({tensor.untyped_storage().data_ptr() for tensor in found.values()}) == 1


def test_tensors_that_are_together_far_larger_than_the_file_are_refused(tmp_path: Path) -> None:
    words = torch.ones(1_000_000)
    torch.save({str(number): words.view(-1) for number in range(40)}, tmp_path / "x.bin")
    with pytest.raises(CheckpointError, match="16 times as large as the file"):
        read_state_dict(tmp_path / "x.bin")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_flipped_byte_gives_a_value_or_a_checkpoint_error(zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    torch.save({"x": torch.ones(4), "n": [1, "a"]}, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for at in range(0, len(whole), 3):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :])
        try:
            read_torch_file(path)
        except CheckpointError:
            continue


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("keep", [0, 1, 40, 0.5, 0.97])
def test_a_file_cut_short_is_an_error_that_names_it(keep: float, zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "cut.bin"
    torch.save({"x": torch.ones(500), "y": torch.ones(500)}, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    with pytest.raises(CheckpointError, match=r"cut\.bin"):
        read_state_dict(path)
