"""Tensors come out of a file of torch as they went in, and nothing that the file says is run."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from model.checkpoint import CheckpointError, read_state_dict

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
    def refuse(*_arguments: Any, **_named: Any) -> None:
        raise pickle.UnpicklingError

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch, "load", refuse)  # so that the reader of ours meets the file
    with zipfile.ZipFile("evil.bin", "w") as archive:
        archive.writestr("archive/data.pkl", payload)
        archive.writestr("archive/version", "3\n")
    Path("evil.tar").write_bytes(payload)
    for name in ("evil.bin", "evil.tar"):
        with pytest.raises(CheckpointError):
            read_state_dict(name)
    assert not Path("MARK").exists()


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("keep", [0, 1, 40, 0.5, 0.97])
def test_a_file_cut_short_is_an_error_that_names_it(keep: float, zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "cut.bin"
    torch.save({"x": torch.ones(500), "y": torch.ones(500)}, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    with pytest.raises(CheckpointError, match=r"cut\.bin"):
        read_state_dict(path)
