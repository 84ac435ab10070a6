"""What a Ray for this machine alone is told, and that a cluster which is joined is told nothing."""

from __future__ import annotations

import os

import pytest

from pipeline.ray_session import ray_session
from pipeline.shards.errors import RefusedError

ray = pytest.importorskip("ray")
NAMES = ("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "RAY_prestart_worker_first_driver", "RAY_enable_metrics_collection")


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, dict[str, str | None]]]:
    """Return what Ray's start is told, as it happens, in place of a start."""
    seen: list[tuple[object, dict[str, str | None]]] = []

    def init(*, address: str, **_: object) -> None:
        seen.append((address, {name: os.environ.get(name) for name in NAMES}))
        raise ConnectionError("not here")

    for name in NAMES:
        monkeypatch.setenv(name, "before")
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr("pipeline.ray_session.find_spec", lambda name: object())
    return seen


@pytest.mark.parametrize(("dashboard", "figures"), [(False, "0"), (True, "1")])
def test_a_ray_of_its_own_is_no_cluster_and_has_nothing_to_spare(
    told: list[tuple[object, dict[str, str | None]]], dashboard: bool, figures: str
) -> None:
    with pytest.raises(RefusedError, match="Ray does not start"), ray_session(None, instead="do", dashboard=dashboard):
        pass
    assert told == [("local", dict(zip(NAMES, ("0", "0", figures), strict=True)))]


def test_a_cluster_that_is_joined_is_as_it_is(told: list[tuple[object, dict[str, str | None]]]) -> None:
    with pytest.raises(RefusedError, match="--ray-address"), ray_session("head:6379", instead="do without"):
        pass
    assert told == [("head:6379", dict.fromkeys(NAMES, "before"))]
