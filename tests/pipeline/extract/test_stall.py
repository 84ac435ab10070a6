from pipeline.extract.stall import MOST_SECONDS_A_TICK, Pulse, StallWatch


def test_a_worker_is_stuck_once_its_pulse_has_not_changed_for_so_long() -> None:
    watch = StallWatch(10)
    for second in range(30):
        watch.tick(1000.0 + second)
        moving = Pulse(0, second)
        still = Pulse(3, min(second, 5))
        assert not watch.is_stuck("moving", moving)
        assert watch.is_stuck("still", still) == (second >= 15)
    watch.forget("still")
    assert not watch.is_stuck("still", Pulse(3, 5))


def test_a_driver_that_was_held_up_blames_no_worker() -> None:
    watch = StallWatch(10)
    watch.tick(0.0)
    assert not watch.is_stuck("worker", Pulse(0, 0))
    watch.tick(100_000.0)  # the laptop was closed
    assert MOST_SECONDS_A_TICK < 10
    assert not watch.is_stuck("worker", Pulse(0, 0))


def test_zero_seconds_is_never() -> None:
    watch = StallWatch(0)
    for second in range(100):
        watch.tick(float(second))
        assert not watch.is_stuck("worker", Pulse(0, 0))
