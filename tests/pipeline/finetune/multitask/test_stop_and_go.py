"""Stop-and-go, beside the rule as 12-in-1 has it."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vilbert.pipeline.finetune.multitask.stop_and_go import Change, StopAndGoSettings, changes, stops

# A few values beside any: so that metrics stay as they are, or fall and rise by little, as often as not.
METRIC = st.one_of(st.sampled_from([0.5, 0.5004, 0.5006, 0.4974, 0.4976, 0.6, 0.3]), st.floats(0, 1))
SETTINGS = st.builds(StopAndGoSettings, patience=st.integers(0, 3), cooldown=st.integers(0, 3))


class Published:
    """What the specification says of the published rule, step by step and with its own state."""

    def __init__(self, settings: StopAndGoSettings) -> None:
        self.settings = settings
        self.best, self.bad, self.cooldown, self.in_stop = -math.inf, 0, 0, False

    def step(self, score: float) -> bool:
        if score > self.best * (1 + self.settings.better):
            self.best, self.bad = score, 0
        else:
            self.bad += 1
        if self.cooldown > 0:
            self.cooldown -= 1
            self.bad = 0
        if self.bad > self.settings.patience:
            self.in_stop, self.cooldown, self.bad = True, self.settings.cooldown, 0
        elif score < self.best * (1 - self.settings.worse) and self.in_stop:
            self.in_stop, self.cooldown, self.bad = False, self.settings.cooldown, 0
        return self.in_stop


@given(st.lists(METRIC, max_size=20), SETTINGS)
def test_stops_are_those_of_the_published_rule(metrics: list[float], rule: StopAndGoSettings) -> None:
    published = Published(rule)
    assert stops(metrics, rule) == [published.step(metric) for metric in metrics]


def test_a_task_stops_after_two_evaluations_without_gain_and_goes_on_when_it_falls() -> None:
    # 0.6004 is no gain of a thousandth; the evaluation after the stop counts as good.
    metrics = [0.5, 0.6, 0.6004, 0.6, 0.6, 0.59, 0.61]
    expected = [False, False, False, True, True, False, False]
    assert stops(metrics, StopAndGoSettings()) == expected


def test_changes_are_after_the_evaluations_that_made_them() -> None:
    found = changes([10, 20, 30, 40], [(0.5, 0.1), (0.5, 0.2), (0.5, 0.3), (0.5, 0.4)], StopAndGoSettings())
    assert found == [Change(30, (True, False))]


@pytest.mark.parametrize(
    ("name", "value"), [("patience", -1), ("cooldown", -1), ("better", 1.0), ("worse", -0.1), ("gap", 0)]
)
def test_a_value_out_of_range_is_refused_by_its_option(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"--{name} {value}: must be"):
        StopAndGoSettings(**{name: value})
