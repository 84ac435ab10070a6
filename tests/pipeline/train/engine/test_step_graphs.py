"""Recorded passes compute what passes launched kernel by kernel compute, on the emulated device."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from vilbert.pipeline.train.engine.step_graphs import tensors_of, with_tensors

from ..emulated_gpu import run_program
from ..examples.batches import made_batch

PROGRAM = Path(__file__).with_name("emulated_steps.py")


@pytest.fixture(scope="module")
def found(emulator: Path) -> dict[str, dict[str, Any]]:
    """Return differences of losses and parameters, and launched graphs, by what was trained."""
    found: dict[str, dict[str, Any]] = json.loads(run_program(emulator, [str(PROGRAM)]).splitlines()[-1])
    return found


def test_replayed_steps_equal_launched_ones(found: dict[str, dict[str, Any]]) -> None:
    """With dropout, two shapes and accumulated gradients, bit for bit; 3 of 12 passes are of shapes not met
    before, 5 of 6 steps are clipped by a graph."""
    assert found["bf16"] == {"losses": 0.0, "parameters": 0.0, "graphs": 9 + 5}


def test_parameters_that_no_pass_uses_stay_without_gradients(found: dict[str, dict[str, Any]]) -> None:
    """As those of co-attention in a model without it: an optimizer does not touch them, nor does their norm count."""
    assert found["unused parameters"] == {"losses": 0.0, "parameters": 0.0, "graphs": 9 + 5}


def test_a_pass_that_cannot_be_recorded_is_launched(found: dict[str, dict[str, Any]]) -> None:
    assert found["waits"] == {"losses": 0.0, "parameters": 0.0, "graphs": 0}


def test_tensors_of_a_batch_are_exchanged_by_name() -> None:
    batch = made_batch(rows=3, words=8, regions=4)
    tensors = tensors_of(batch)
    assert {"input_ids", "features", "positions.words", "positions.masked_regions"} <= tensors.keys()
    changed = with_tensors(batch, {name: tensor + 1 for name, tensor in tensors.items() if tensor.dtype != torch.bool})
    assert torch.equal(changed.positions["words"], batch.positions["words"] + 1)
    assert torch.equal(changed.input_ids, batch.input_ids + 1)
    assert changed.zeroed is batch.zeroed
    assert changed.image_ids == batch.image_ids
