"""Processes that train together wait for one another for as long as the first may need to make a vocabulary."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import torch.distributed as dist

from vilbert.extractors.extractor import ExtractorError
from vilbert.manifests.record import ManifestError
from vilbert.pipeline.errors import RefusedError, ShardError
from vilbert.pipeline.train.engine.distributed import process_group


class JoinedError(Exception):
    """Ends a start where the group would be joined."""


def test_a_group_of_torchrun_waits_for_hours(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def join(backend: str, **options: Any) -> None:
        given.update(options, backend=backend)
        raise JoinedError

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(dist, "init_process_group", join)
    monkeypatch.setattr(dist, "rendezvous", lambda *_, **__: iter([(dist.HashStore(), 0, 2)]))
    monkeypatch.setattr("atexit.register", lambda *_: None)  # a process of a group that failed leaves for good
    with pytest.raises(JoinedError), process_group("cpu"):
        pass
    assert given["backend"] == "gloo"
    assert given["timeout"] >= timedelta(hours=12)


@pytest.mark.parametrize(
    ("error", "status"),
    [(RefusedError, 2), (ManifestError, 2), (ExtractorError, 2), (ShardError, 1), (KeyboardInterrupt, 130)],
)
def test_a_process_of_a_group_leaves_with_the_status_of_the_command(
    monkeypatch: pytest.MonkeyPatch, error: type[BaseException], status: int
) -> None:
    left: list[tuple[Any, ...]] = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(dist, "init_process_group", lambda *_, **__: None)
    monkeypatch.setattr(dist, "get_rank", lambda: 0)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "rendezvous", lambda *_, **__: iter([(dist.HashStore(), 0, 2)]))
    monkeypatch.setattr("atexit.register", lambda *given: left.append(given))
    with pytest.raises(error), process_group("cpu"):
        raise error("said")
    assert [given[1:] for given in left] == [(status,)]
