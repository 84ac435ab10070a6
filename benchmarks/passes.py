"""One forward and backward pass of pre-training, of our model or the published one, and the ways to run it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.batches import Batch, crop
from benchmarks.published import pretraining_model
from vilbert.model.config import ViLBertConfig, preset
from vilbert.model.vilbert import ViLBertForPreTraining


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to run a batch: a row of the table."""

    name: str
    """What the table calls it."""
    ours: bool = True
    """False is the reference."""
    bfloat16: bool = False
    """Whether under bfloat16 autocast."""
    compiled: bool = False
    """Whether by `torch.compile`."""
    cropped: bool = False
    """Whether the batch is padded to its longest caption only."""
    limit: float | None = None
    """How many times as fast as the reference it has to be."""


def layer_keys(layers: int) -> dict[str, Any]:
    """Return the config keys of `layers` visual and co-attention layers with twice as many text layers."""
    return {
        "num_hidden_layers": 2 * layers,
        "v_num_hidden_layers": layers,
        "v_biattention_id": list(range(layers)),
        "t_biattention_id": list(range(layers, 2 * layers)),
    }


def our_config(layers: int) -> ViLBertConfig:
    """Return the config of the published 6-layer model, or of one with fewer layers."""
    return ViLBertConfig.from_dict({**preset("bert_base_6layer_6conect").to_dict(), **layer_keys(layers)})


def our_model(layers: int) -> nn.Module:
    """Return ours with random weights and fused attention."""
    config = our_config(layers)
    config._attn_implementation = "sdpa"
    return ViLBertForPreTraining(config)


def their_model(checkout: Path, layers: int) -> nn.Module:
    """Return the reference's with random weights."""
    return pretraining_model(checkout, **layer_keys(layers))


def losses(model: Callable[..., Any], batch: Batch, *, ours: bool) -> Tensor:
    """Return the losses of masked words, masked regions and alignment, [3]."""
    output = model(**batch)
    if ours:
        return torch.stack([output.masked_lm.mean, output.masked_image.mean, output.alignment.mean])
    return torch.cat(output)


def require_equal_losses(ours: nn.Module, theirs: nn.Module, batch: Batch) -> None:
    """Exit unless both give the same losses without dropout within 1e-5, and ours also on the cropped batch."""
    ours.eval()
    theirs.eval()
    with torch.no_grad():
        expected = losses(theirs, batch, ours=False)
        for same in (batch, crop(batch)):
            found = losses(ours, same, ours=True)
            if not torch.allclose(found, expected, rtol=1e-5, atol=1e-5):
                raise SystemExit(f"losses differ, nothing timed: ours {found.tolist()}, reference {expected.tolist()}")


def step(model: Callable[..., Any], way: Way, batch: Batch) -> None:
    """Run forward and backward once, of the sum of the three losses."""
    with torch.autocast(batch["input_ids"].device.type, torch.bfloat16, enabled=way.bfloat16):
        total = losses(model, crop(batch) if way.cropped else batch, ours=way.ours).sum()
    total.backward()  # type: ignore[no-untyped-call]


def seconds(run: Callable[[], object], device: str) -> float:
    """Return the wall-clock seconds of one call, the GPU's work included."""
    started = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def matrix_rate(device: str, size: int = 8192) -> float:
    """Return the operations a second of a large bfloat16 product, the median of ten after three untimed."""
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    spent = [seconds(lambda: left @ right, device) for _ in range(13)]
    return 2 * size**3 / statistics.median(spent[3:])
