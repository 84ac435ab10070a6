"""Turns at the detector: one thread at a time on a CPU, two on a GPU, and time that counts once."""

import threading
import time
from typing import ClassVar

import pytest

from vilbert.pipeline.extract import turns
from vilbert.pipeline.extract.turns import GPU_TURNS, Turns


class Stream:
    """What `torch.cuda.stream` returns, as far as `turns` can tell."""

    current: ClassVar[set[int]] = set()

    def __init__(self, number: int) -> None:
        self.number = number

    def __enter__(self) -> None:
        assert self.number not in self.current
        self.current.add(self.number)

    def __exit__(self, *_: object) -> None:
        self.current.remove(self.number)


class Visitor(threading.Thread):
    """A thread that waits for its turn, and leaves when it is told to."""

    def __init__(self, detector: Turns) -> None:
        super().__init__(daemon=True)
        self.detector = detector
        self.here, self.told = threading.Event(), threading.Event()
        self.start()

    def run(self) -> None:
        with self.detector.turn():
            self.here.set()
            self.told.wait(20)

    def leave(self) -> None:
        self.told.set()
        self.join(20)


@pytest.mark.parametrize(("device", "places"), [("cpu", 1), ("cuda", GPU_TURNS)])
def test_as_many_have_it_as_there_are_places(device: str, places: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "_cuda_streams", lambda: [Stream(number) for number in range(GPU_TURNS)])
    detector = Turns(device)
    inside = [Visitor(detector) for _ in range(places)]
    assert all(one.here.wait(20) for one in inside)
    late = Visitor(detector)
    assert not late.here.wait(0.2)
    inside[0].leave()
    assert late.here.wait(20)
    if device == "cuda":
        assert Stream.current == set(range(GPU_TURNS))
    for one in (*inside, late):
        one.leave()
    assert Stream.current == set()


def test_whoever_wants_the_detector_alone_waits_for_the_other_and_keeps_it_out() -> None:
    detector, seen = Turns("cpu"), []
    first_is_in, leave_first = threading.Event(), threading.Event()
    alone_is_in, leave_alone = threading.Event(), threading.Event()

    def visit(name: str, alone: bool, is_in: threading.Event, leave: threading.Event) -> None:
        with detector.at_images(alone=alone):
            seen.append(name)
            is_in.set()
            leave.wait(20)

    late = threading.Event()
    threads = [threading.Thread(target=visit, args=("first", False, first_is_in, leave_first), daemon=True)]
    threads += [threading.Thread(target=visit, args=("alone", True, alone_is_in, leave_alone), daemon=True)]
    threads += [threading.Thread(target=visit, args=("late", False, late, leave_alone), daemon=True)]
    threads[0].start()
    assert first_is_in.wait(20)
    threads[1].start()
    assert not alone_is_in.wait(0.2)
    threads[2].start()
    assert not late.wait(0.2)  # or whoever wants it alone might never get it
    leave_first.set()
    assert alone_is_in.wait(20)
    assert not late.wait(0.2)
    leave_alone.set()
    for thread in threads:
        thread.join(20)
    assert seen == ["first", "alone", "late"]


def test_an_error_gives_the_turn_back() -> None:
    detector = Turns("cpu")
    with pytest.raises(ValueError, match="within"), detector.turn():
        raise ValueError("within")
    visitor = Visitor(detector)
    assert visitor.here.wait(20)
    visitor.leave()


def test_seconds_of_two_at_a_time_count_once() -> None:
    detector = Turns("cpu")
    begun = time.perf_counter()
    with detector.at_images():
        with detector.at_images():
            time.sleep(0.05)
        time.sleep(0.05)
    assert 0.1 <= detector.take_seconds() <= time.perf_counter() - begun
    assert detector.take_seconds() == 0
