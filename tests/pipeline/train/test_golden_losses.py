"""What a run computes does not drift: 20 steps, dropout on, give the losses committed here, and the same bits again."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

GOLDEN = Path(__file__).parent / "golden"
Train = Callable[[Path], list[dict[str, float]]]


@pytest.fixture(scope="module")
def train(make_dataset: Callable[..., Path]) -> Train:
    """Return what makes the golden run in an empty folder."""
    maker: dict[str, Any] = runpy.run_path(str(GOLDEN / "make.py"))
    return lambda folder: maker["golden_losses"](folder, make_dataset)


@pytest.fixture(scope="module")
def found(train: Train, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, float]]:
    return train(tmp_path_factory.mktemp("first"))


def test_twenty_steps_give_the_losses_committed(found: list[dict[str, float]]) -> None:
    """To a relative 1e-4: versions of torch and chips round differently."""
    steps = json.loads((GOLDEN / "losses.json").read_text(encoding="utf-8"))["steps"]
    assert len(found) == len(steps) == 20
    for number, (mine, golden) in enumerate(zip(found, steps, strict=True), start=1):
        assert mine == pytest.approx(golden, rel=1e-4), f"step {number}"


def test_a_second_run_gives_the_same_bits(found: list[dict[str, float]], train: Train, tmp_path: Path) -> None:
    assert train(tmp_path) == found
