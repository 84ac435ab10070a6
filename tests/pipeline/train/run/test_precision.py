"""The precision that a run has where `--precision` is not given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from vilbert.pipeline.train.engine.distributed import Group
from vilbert.pipeline.train.run.checkpoints import save_checkpoint
from vilbert.pipeline.train.run.folder import describe_run, write_run
from vilbert.pipeline.train.run.precision import best_precision, with_precision
from vilbert.pipeline.train.run.settings import RunSettings

GROUP = Group(rank=0, world=1, device=torch.device("cpu"))


def described(precision: str) -> dict[str, Any]:
    return describe_run({"precision": precision}, {}, [], [])


def settings(output: Path, **others: Any) -> RunSettings:
    return RunSettings(data=("data",), output=output, **others)


def test_a_new_run_on_a_cpu_is_in_fp32(tmp_path: Path) -> None:
    assert with_precision(settings(tmp_path / "run"), GROUP).precision == "fp32"


@pytest.mark.parametrize(("supported", "expected"), [(True, "bf16"), (False, "fp32")])
def test_a_gpu_computes_in_bf16_where_it_can(monkeypatch: pytest.MonkeyPatch, supported: bool, expected: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    assert best_precision(torch.device("cuda", 0)) == expected


def test_a_run_keeps_the_precision_that_it_began_with(tmp_path: Path) -> None:
    write_run(tmp_path, described("bf16"))
    assert with_precision(settings(tmp_path), GROUP).precision == "bf16"
    assert with_precision(settings(tmp_path, precision="fp32"), GROUP).precision == "fp32"


def test_a_run_that_starts_from_a_checkpoint_has_its_precision(tmp_path: Path) -> None:
    write_run(tmp_path, described("fp32"))
    info = {"run": described("bf16")}
    saved = save_checkpoint(tmp_path, 3, model={"a": torch.zeros(1)}, optimizer={}, info=info)
    assert with_precision(settings(tmp_path / "other", resume=str(saved)), GROUP).precision == "bf16"
    (tmp_path / "run.json").write_text("{")
    assert with_precision(settings(tmp_path), GROUP).precision == "bf16"


def test_what_cannot_be_read_is_left_to_resuming(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("[]")
    assert with_precision(settings(tmp_path), GROUP).precision == "fp32"
    assert with_precision(settings(tmp_path, resume=str(tmp_path / "nowhere")), GROUP).precision == "fp32"
