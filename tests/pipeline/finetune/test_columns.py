"""Fine-tuning and evaluating on a column with boxes of its own is that on a data set of these regions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from vilbert.pipeline.cli import main
from vilbert.pipeline.train.run.journal import read_journal, without_timing

from ..shards.columns.made import make_region_column
from ..tasks.small_tasks import FOLDERS, finetune_arguments

STEPS = 3


@pytest.fixture(scope="module")
def folders(small: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a data set with a column `own` of three regions an image, and a data set of these regions."""
    folder = tmp_path_factory.mktemp("columns")
    base, plain = folder / "base", folder / "plain"
    for output, options in ((base, []), (plain, ["--max-boxes", "3"])):
        assert main(["convert", str(small / "features"), "--output", str(output), *options]) == 0
    make_region_column(base, Path(shutil.copytree(plain, folder / "moved")), "own")
    return base, plain


@pytest.mark.parametrize("task", ["refcocog", pytest.param("vqa", marks=pytest.mark.slow)])
def test_losses_and_predictions_are_those_of_the_regions(
    small: Path, folders: tuple[Path, Path], tmp_path: Path, task: str
) -> None:
    torch.set_num_threads(1)
    losses, submissions = [], []
    for name, data, options in zip(("own", "plain"), folders, (["--features", "own"], []), strict=True):
        run = tmp_path / name
        arguments = finetune_arguments(small, task, run, steps=STEPS)
        arguments[2] = str(data)
        assert main([*arguments, "--eval-every", str(STEPS), "--log-every", "1", *options]) == 0
        losses.append(without_timing(read_journal(run)))
        results = tmp_path / f"{name}.json"
        command = ["evaluate", task, str(data), "--annotations", str(small / FOLDERS[task]), "--checkpoint", str(run)]
        assert main([*command, "--split", "val", "--output", str(results), "--num-workers", "0", *options]) == 0
        submissions.append(json.loads(results.read_text()))
    assert losses[0] == losses[1]
    assert submissions[0] == submissions[1] != []
