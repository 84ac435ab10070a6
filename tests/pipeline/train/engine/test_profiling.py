"""`--profile`: what is written, and what is said where nothing is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vilbert.pipeline.train.engine.profiling import profiled


@pytest.mark.parametrize(("done", "written"), [(3, False), (5, True)])
def test_a_session_that_ends_before_the_profiled_steps_says_so(
    done: int, written: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with profiled(tmp_path, 2, rank=1, device=torch.device("cpu")) as end_step:
        for _ in range(done):
            torch.ones(2).sum()
            end_step()
    assert (tmp_path / "profile" / "table-1.txt").exists() == written
    assert ("nothing was profiled" in caplog.text) != written
