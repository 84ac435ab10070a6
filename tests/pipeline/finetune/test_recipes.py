"""The settings that come with the package, of every task."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from vilbert.pipeline.cli import parse
from vilbert.pipeline.config_file import RECIPES
from vilbert.pipeline.tasks.registry import TASKS
from vilbert.pipeline.train.run.settings import identity

BETA, MULTITASK, NOBODY = "jiasenlu/vilbert_beta", "facebookresearch/vilbert-multi-task", "published no"
# Batch, rate, epochs and word pieces as those files have them, and whose the first three are.
PUBLISHED = {
    "vqa": (256, 4e-5, 20, 23, BETA),
    "vcr-qa": (64, 2e-5, 20, 60, BETA),
    "vcr-qar": (64, 2e-5, 20, 80, BETA),
    "refcoco": (256, 4e-5, 20, 20, BETA),
    "refcoco+": (256, 4e-5, 20, 20, BETA),
    "refcocog": (256, 4e-5, 20, 20, BETA),
    "retrieval": (64, 2e-5, 20, 30, BETA),
    "retrieval-coco": (128, 2e-5, 20, 30, MULTITASK),
    "gqa": (128, 4e-5, 20, 26, MULTITASK),
    "nlvr2": (64, 2e-5, 20, 40, MULTITASK),
    "snli-ve": (256, 2e-5, 20, 56, MULTITASK),
    "captioning": (256, 4e-5, 20, 22, NOBODY),
}
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


@pytest.mark.parametrize("task", TASKS)
def test_the_settings_are_those_of_the_source_that_their_head_names(task: str) -> None:
    text = (RECIPES / "finetune" / task / "default.yaml").read_text()
    head = " ".join(line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#"))
    found = yaml.safe_load(text)
    *values, source = PUBLISHED[task]
    assert [found[name] for name in ("batch-size", "learning-rate", "epochs", "max-tokens")] == values
    assert source in head.partition("All else")[0]
    # What the paper itself gives could not be checked against it, so no head claims it.
    assert "paper" not in head


def test_a_flag_goes_over_them_and_a_config_takes_their_place(tmp_path: Path) -> None:
    assert parse("finetune", ["vqa", "features", *REQUIRED, "--batch-size", "8"]).batch_size == 8
    (tmp_path / "mine.yaml").write_text("epochs: 3\n")
    mine = parse("finetune", ["vqa", "features", *REQUIRED, "--config", str(tmp_path / "mine.yaml")])
    assert mine.epochs == 3
    assert mine.max_tokens == 36


def test_every_shipped_config_of_tasks_is_of_a_task() -> None:
    assert {path.name for path in (RECIPES / "finetune").iterdir()} <= {*TASKS, "multitask"}
    for path in (RECIPES / "finetune").glob("*/*.yaml"):
        if path.parent.name == "multitask":
            continue  # test_multitask.py reads it
        assert parse("finetune", [path.parent.name, "features", *REQUIRED, "--config", path.stem]).output == Path("o")
