"""Whose turn it is, and what evaluations change of it."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vilbert.pipeline.finetune.multitask.stop_and_go import Change, StopAndGoSettings
from vilbert.pipeline.finetune.multitask.turn_taking import TurnTaking
from vilbert.pipeline.finetune.multitask.turns import own_steps, plan_turns, steps_of_run, take_turns

WEIGHTS = st.lists(st.floats(0.01, 100), min_size=1, max_size=6)
METRICS = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=6)


@given(st.integers(1, 8), st.integers(0, 40))
def test_equal_weights_are_a_round_robin(tasks: int, steps: int) -> None:
    assert take_turns([1.0] * tasks, steps).tolist() == [step % tasks for step in range(steps)]


@given(WEIGHTS, st.integers(0, 300))
def test_each_task_has_its_share_after_any_number_of_steps(weights: list[float], steps: int) -> None:
    turns = take_turns(weights, steps)
    assert len(turns) == steps
    for task, weight in enumerate(weights):
        had = np.cumsum(turns == task)
        share = np.arange(1, steps + 1) * weight / sum(weights)
        assert np.all(np.abs(had - share) <= (len(weights) + 1) / 2 + 1e-6)


@given(WEIGHTS, st.integers(0, 100), st.integers(0, 100))
def test_a_longer_run_begins_as_a_shorter_one(weights: list[float], steps: int, more: int) -> None:
    assert take_turns(weights, steps + more)[:steps].tolist() == take_turns(weights, steps).tolist()


@given(st.data(), st.integers(1, 4), st.integers(0, 60), st.integers(1, 5))
def test_a_change_leaves_the_steps_before_it(data: st.DataObject, tasks: int, steps: int, gap: int) -> None:
    stops = st.tuples(*[st.booleans()] * tasks)
    at = sorted(data.draw(st.lists(st.integers(0, steps), max_size=4)))
    changes = [Change(step, data.draw(stops)) for step in at]
    turns = plan_turns([1.0] * tasks, changes, gap=gap, steps=steps)
    assert len(turns) == steps
    for number, change in enumerate(changes):
        before = plan_turns([1.0] * tasks, changes[:number], gap=gap, steps=steps)
        assert turns[: change.step].tolist() == before[: change.step].tolist()
    own = own_steps(turns, tasks)
    for task in range(tasks):
        assert own[turns == task].tolist() == list(range(int((turns == task).sum())))


def test_a_stopped_task_has_its_turn_once_in_a_gap() -> None:
    turns = plan_turns([1.0, 1.0], [Change(4, (False, True)), Change(14, (False, False))], gap=4, steps=20)
    assert turns[:4].tolist() == [0, 1, 0, 1]
    assert (turns[4:14] == 1).sum() == 2
    assert turns[14:].tolist() == [0, 1, 0, 1, 0, 1]


def test_all_stopped_tasks_are_as_none() -> None:
    stopped = plan_turns([1.0, 2.0], [Change(0, (True, True))], gap=4, steps=30)
    assert stopped.tolist() == plan_turns([1.0, 2.0], [], gap=4, steps=30).tolist()


def test_changes_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match="give them in ascending order"):
        plan_turns([1.0], [Change(5, (True,)), Change(3, (False,))], gap=4, steps=9)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=5))
def test_a_run_is_as_long_as_its_tasks_need(needed: list[int]) -> None:
    robin = take_turns([1.0] * len(needed), steps_of_run(needed, by_size=False))
    assert min((robin == task).sum() for task in range(len(needed))) == max(needed)
    sized = take_turns([float(it) for it in needed], steps_of_run(needed, by_size=True))
    assert [int((sized == task).sum()) for task in range(len(needed))] == needed


def taking(**more: object) -> TurnTaking:
    chosen = {
        "metrics": ("a", "b"), "weights": (1.0, 1.0), "batch_sizes": (3, 5), "steps": 40, "rule": StopAndGoSettings(),
    }  # fmt: skip
    return TurnTaking(**{**chosen, **more})  # type: ignore[arg-type]


@given(METRICS)
def test_what_a_checkpoint_keeps_gives_the_same_turns(metrics: list[tuple[float, float]]) -> None:
    first, second = taking(), taking()
    for number, (one, other) in enumerate(metrics, 1):
        first.note(5 * number, {"a": one, "b": other, "more": 1.0})
    second.restore(json.loads(json.dumps(first.state())))
    assert second.evaluations == first.evaluations
    assert second.plan().turns.tolist() == first.plan().turns.tolist()
    assert second.plan().own.tolist() == first.plan().own.tolist()


@given(METRICS)
def test_note_says_when_steps_are_others(metrics: list[tuple[float, float]]) -> None:
    turn_taking = taking()
    for number, (one, other) in enumerate(metrics, 1):
        step = 5 * number
        before = turn_taking.plan().turns.tolist()
        changed = turn_taking.note(step, {"a": one, "b": other})
        after = turn_taking.plan().turns.tolist()
        assert after[:step] == before[:step]
        assert changed or after == before


def test_samples_are_those_of_the_tasks_that_had_their_turns() -> None:
    assert [taking().samples(step) for step in range(6)] == [0, 3, 8, 11, 16, 19]


def test_an_evaluation_done_again_takes_the_place_of_the_first() -> None:
    turn_taking = taking()
    for step in (5, 10, 15):
        turn_taking.note(step, {"a": 0.5, "b": 0.5})
    turn_taking.note(10, {"a": 0.7, "b": 0.7})
    assert turn_taking.evaluations == {5: (0.5, 0.5), 10: (0.7, 0.7)}


def test_a_task_that_is_not_evaluated_never_stops_and_nan_is_no_better() -> None:
    turn_taking = taking(metrics=("a", None))
    for step in (5, 10, 15, 20):
        turn_taking.note(step, {"a": math.nan})
    assert turn_taking.changes() == [Change(10, (True, False))]
    again = taking(metrics=("a", None))
    again.restore(json.loads(json.dumps(turn_taking.state())))
    assert again.changes() == turn_taking.changes()


def test_without_the_rule_nothing_changes() -> None:
    turn_taking = taking(rule=StopAndGoSettings(stop_and_go=False))
    assert not any(turn_taking.note(step, {"a": 0.5, "b": 0.1}) for step in (5, 10, 15, 20))
