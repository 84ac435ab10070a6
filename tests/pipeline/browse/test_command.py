"""The settings of `vilbert browse`."""

from __future__ import annotations

from pathlib import Path

import pytest

from vilbert.pipeline.browse.command import BrowseSettings


def test_a_task_without_a_model_is_refused() -> None:
    with pytest.raises(ValueError, match="--task: needs --checkpoint"):
        BrowseSettings(directories=(Path("features"),), task="vqa")
