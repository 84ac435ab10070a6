"""`--init-from` takes a run as `--checkpoint` does."""

from __future__ import annotations

from pathlib import Path

import pytest

from vilbert.pipeline.finetune.settings import FinetuneSettings
from vilbert.pipeline.train.pretraining.settings import PretrainSettings
from vilbert.pipeline.train.run.init_from import resolve_init_from


def test_a_run_stands_for_its_final(tmp_path: Path) -> None:
    (tmp_path / "run" / "final").mkdir(parents=True)
    (tmp_path / "run" / "run.json").touch()
    final = str(tmp_path / "run" / "final")
    for given in (tmp_path / "run", tmp_path / "run" / "final"):
        assert PretrainSettings(data=("d",), output=Path("o"), init_from=str(given)).init_from == final
        finetune = FinetuneSettings(
            task="vqa", data=("d",), output=Path("o"), annotations=Path("a"), init_from=str(given)
        )
        assert finetune.init_from == final


def test_a_run_that_has_not_finished_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.json").touch()
    with pytest.raises(ValueError, match="has not finished"):
        resolve_init_from(str(tmp_path))


@pytest.mark.parametrize("name", ["none", "bert-base-uncased", "nowhere/at/all.bin"])
def test_other_names_stay_as_they_are(name: str) -> None:
    assert resolve_init_from(name) == name
