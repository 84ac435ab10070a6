"""Tensors of every type and layout through a checkpoint's files."""

from __future__ import annotations

import errno
import math
import resource
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from vilbert.pipeline.train.run.checkpoints import load_checkpoint, save_checkpoint

DTYPES = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool,
)  # fmt: skip


def odd_tensors() -> dict[str, Tensor]:
    """Return tensors of every type and of awkward layouts."""
    draw = torch.Generator().manual_seed(0)
    base = torch.randn(5, 7, generator=draw) * 9
    special = torch.tensor([math.nan, math.inf, -math.inf, -0.0, 1e-45])
    return {
        **{str(dtype): base.to(dtype) for dtype in DTYPES},
        "transposed": base.t(),
        "strided": base[::2, ::3],
        "scalar": torch.tensor(3.5),
        "empty": torch.empty(0, 4),
        "special": special,
        "parameter": nn.Parameter(base.clone()),
        "tied one": base,
        "tied two": base,
    }


def test_tensors_of_every_type_and_layout_come_back_bit_by_bit(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 10, model=odd_tensors(), optimizer={}, info={})
    _, found, _ = load_checkpoint(path)
    assert found.keys() == odd_tensors().keys()
    for name, tensor in odd_tensors().items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        bits = [value.detach().contiguous().reshape(-1).view(torch.uint8) for value in (found[name], tensor)]
        assert torch.equal(*bits), name


def test_a_disk_that_refuses_the_tensors_is_an_os_error(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(OSError, match="earlier ones are unchanged") as caught:
            save_checkpoint(tmp_path, 10, model={"large": torch.zeros(4096)}, optimizer={}, info={})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.errno == errno.EFBIG
    assert list((tmp_path / "checkpoints").iterdir()) == []
