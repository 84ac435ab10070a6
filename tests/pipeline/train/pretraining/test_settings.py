"""The settings of a run: what is refused, and what a resumed run must share."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from vilbert.pipeline.train.pretraining.settings import PretrainSettings
from vilbert.pipeline.train.run.settings import RUNTIME, identity


def settings(**changes: Any) -> PretrainSettings:
    return PretrainSettings(**{"data": ("features",), "output": Path("run"), **changes})


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"data": ()}, "no data set"),
        ({"weights": (1.0, 2.0)}, "--weights"),
        ({"weights": (0.0,)}, "--weights"),
        ({"batch_size": 0}, "--batch-size 0"),
        ({"batch_size": 6, "grad_accumulation": 7}, "--grad-accumulation 7: .* give at most 6"),
        ({"batch_size": 7, "grad_accumulation": 4, "workers": 2}, "--grad-accumulation 4: .* give at most 3"),
        ({"batch_size": 6, "workers": 7}, "--batch-size 6 for 7 processes"),
        ({"epochs": 0}, "--epochs 0"),
        ({"max_steps": 0}, "--max-steps 0"),
        ({"num_workers": -1}, "--num-workers -1"),
        ({"use_gpu": True}, "--workers"),
    ],
)
def test_bad_values_are_refused_by_name(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        settings(**changes)


def test_identity_is_every_setting_that_decides_what_is_learnt() -> None:
    names = {field.name for field in dataclasses.fields(PretrainSettings)}
    assert names > RUNTIME
    nested = {"items", "optimizer", "schedule"}
    found = identity(settings())
    assert found.keys() >= names - RUNTIME - nested
    assert {"learning_rate", "word_mask", "warmup", "schedule"} <= found.keys()
    assert found["schedule"] == "linear"


def test_where_a_run_computes_is_not_part_of_its_identity() -> None:
    elsewhere = settings(num_workers=7, workers=3, grad_accumulation=4, log_every=1, output=Path("other"))
    assert identity(elsewhere) == identity(settings())
    assert identity(settings(seed=1)) != identity(settings())
