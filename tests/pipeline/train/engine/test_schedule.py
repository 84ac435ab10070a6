"""The learning rate's factor against its shape and against transformers' schedules."""

from __future__ import annotations

import itertools

import pytest
import torch
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from vilbert.pipeline.train.engine.schedule import ScheduleSettings, factor_at

TOTAL = 200
SHAPES = [
    ScheduleSettings(schedule=schedule, warmup=warmup, final_factor=final)
    for schedule, warmup, final in itertools.product(
        ("linear", "cosine", "constant"), (0.0, 0.1, 0.333, 1.0), (0.0, 0.25, 1.0)
    )
]


def curve(settings: ScheduleSettings, total: int = TOTAL) -> list[float]:
    return [factor_at(step, total, settings) for step in range(total + 1)]


def published(factory: object, warmup_steps: int) -> list[float]:
    """Return what a schedule of transformers gives at each step for a rate of 1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = factory(optimizer, warmup_steps, TOTAL)  # type: ignore[operator]
    rates = []
    for _ in range(TOTAL + 1):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return rates


@pytest.mark.parametrize("warmup_steps", [0, 1, 20, 77, TOTAL - 1])
@pytest.mark.parametrize(
    ("name", "factory"),
    [("linear", get_linear_schedule_with_warmup), ("cosine", get_cosine_schedule_with_warmup)],
)
def test_equals_transformers_at_every_step(name: str, factory: object, warmup_steps: int) -> None:
    settings = ScheduleSettings(schedule=name, warmup=warmup_steps / TOTAL)  # type: ignore[arg-type]
    assert curve(settings) == pytest.approx(published(factory, warmup_steps), abs=1e-12)


@pytest.mark.parametrize("warmup", [0.1, 0.25])
def test_equals_bert_adams_schedule(warmup: float) -> None:
    def warmup_linear(progress: float) -> float:  # pytorch-pretrained-bert 0.6.2
        return progress / warmup if progress < warmup else max((progress - 1.0) / (warmup - 1.0), 0.0)

    expected = [warmup_linear(step / TOTAL) for step in range(TOTAL + 1)]
    assert curve(ScheduleSettings(warmup=warmup)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("settings", SHAPES, ids=str)
def test_rises_to_one_then_never_rises(settings: ScheduleSettings) -> None:
    factors = curve(settings)
    peak = round(settings.warmup * TOTAL)
    assert factors[:peak] == sorted(factors[:peak])
    assert factors[peak + 1 :] == sorted(factors[peak + 1 :], reverse=True)
    assert max(factors) == pytest.approx(1.0, abs=1 / TOTAL)
    assert all(0 <= factor <= 1 for factor in factors)


@pytest.mark.parametrize("settings", SHAPES, ids=str)
def test_has_no_jump(settings: ScheduleSettings) -> None:
    total = 100_000
    steepest = 1 / min(settings.warmup or 1.0, (1 - settings.warmup) or 1.0) * 1.6 / total  # a cosine falls by pi / 2
    places = [round(total * share) for share in (0.0, 0.05, 0.1, 0.333, 0.5, 0.9)]
    near = [step for place in places for step in range(max(place - 5, 0), place + 5)] + list(
        range(total - 5, total + 5)
    )
    for step in near:
        assert abs(factor_at(step + 1, total, settings) - factor_at(step, total, settings)) <= steepest, step


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_ends_at_the_final_factor_and_stays(schedule: str) -> None:
    settings = ScheduleSettings(schedule=schedule, final_factor=0.25)  # type: ignore[arg-type]
    assert factor_at(TOTAL, TOTAL, settings) == 0.25
    assert factor_at(10 * TOTAL, TOTAL, settings) == 0.25
    assert factor_at(TOTAL - 1, TOTAL, settings) > 0.25


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_begins_at_zero_with_a_warmup_and_at_one_without(schedule: str) -> None:
    assert factor_at(0, TOTAL, ScheduleSettings(schedule=schedule, warmup=0.1)) == 0.0  # type: ignore[arg-type]
    assert factor_at(0, TOTAL, ScheduleSettings(schedule=schedule, warmup=0.0)) == 1.0  # type: ignore[arg-type]


def test_a_warmup_of_all_steps_only_rises() -> None:
    assert curve(ScheduleSettings(warmup=1.0)) == pytest.approx([step / TOTAL for step in range(TOTAL + 1)])


def test_constant_stays_at_one_after_the_warmup() -> None:
    assert set(curve(ScheduleSettings(schedule="constant"))[20:]) == {1.0}


def test_a_run_of_one_step_has_a_rate() -> None:
    assert factor_at(0, 1, ScheduleSettings(warmup=0.0)) == 1.0


@pytest.mark.parametrize(("step", "total"), [(0, 0), (-1, 5)])
def test_refuses_steps_that_are_none(step: int, total: int) -> None:
    with pytest.raises(ValueError, match=f"step {step} of {total}"):
        factor_at(step, total, ScheduleSettings())


@pytest.mark.parametrize(("name", "value"), [("warmup", 1.1), ("warmup", -0.1), ("final_factor", float("nan"))])
def test_refuses_shares_beyond_zero_and_one(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"--{name.replace('_', '-')}"):
        ScheduleSettings(**{name: value})  # type: ignore[arg-type]
