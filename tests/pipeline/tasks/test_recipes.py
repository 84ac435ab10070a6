"""The settings that come with the package, of every task."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pipeline.cli import RECIPES, parse
from pipeline.tasks.registry import TASKS
from pipeline.train.run_settings import identity

REQUIRED = ["--annotations", "a", "--output", "o", "--init-from", "i"]


@pytest.mark.parametrize("task", TASKS)
def test_a_task_without_a_config_takes_its_published_settings(task: str) -> None:
    shipped = yaml.safe_load((RECIPES / "finetune" / task / "default.yaml").read_text())
    found = identity(parse("finetune", [task, "features", *REQUIRED]))
    assert found["task"] == task
    chosen = {"batch_size": None, "epochs": None, **found}
    settings = parse("finetune", [task, "features", *REQUIRED])
    for name, value in shipped.items():
        key = name.replace("-", "_")
        assert chosen.get(key, getattr(settings, key, None)) == value, name


def test_a_flag_goes_over_them_and_a_config_takes_their_place(tmp_path: Path) -> None:
    assert parse("finetune", ["vqa", "features", *REQUIRED, "--batch-size", "8"]).batch_size == 8
    (tmp_path / "mine.yaml").write_text("epochs: 3\n")
    mine = parse("finetune", ["vqa", "features", *REQUIRED, "--config", str(tmp_path / "mine.yaml")])
    assert mine.epochs == 3
    assert mine.max_words == 36


def test_every_shipped_config_of_tasks_is_of_a_task() -> None:
    assert {path.name for path in (RECIPES / "finetune").iterdir()} <= set(TASKS)
    for path in (RECIPES / "finetune").glob("*/*.yaml"):
        assert parse("finetune", [path.parent.name, "features", *REQUIRED, "--config", path.stem]).output == Path("o")
