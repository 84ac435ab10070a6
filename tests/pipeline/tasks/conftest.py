"""Tiny data sets for tasks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ..train.conftest import write_dataset_folder
from .small_tasks import write_tasks


@pytest.fixture(scope="session")
def make_dataset() -> Callable[..., Path]:
    """Return what writes tiny data sets for the tests of training."""
    return write_dataset_folder


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with region features of simple pictures, and annotations of every task about them."""
    folder = tmp_path_factory.mktemp("small")
    write_tasks(folder)
    return folder
