"""What RUN says of itself, and who may go on with it."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from vilbert.pipeline.errors import FingerprintError, LockedError, RefusedError
from vilbert.pipeline.train.run.folder import (
    describe_run,
    make_run_folder,
    read_run,
    require_same_run,
    write_run,
    writing,
)


def description(**changes: Any) -> dict[str, Any]:
    data = [{"path": "features", "records_sha256": "ab", "samples": 10}]
    return describe_run({"seed": 1, "learning_rate": 0.1}, {"hidden_size": 8}, data, []) | changes


def test_it_reads_back_what_was_written(tmp_path: Path) -> None:
    assert read_run(tmp_path) is None
    write_run(tmp_path, description())
    assert read_run(tmp_path) == description()


def test_data_may_have_moved_and_software_may_be_newer(tmp_path: Path) -> None:
    moved = [{"path": "/elsewhere", "records_sha256": "ab", "samples": 10}]
    require_same_run(description(), description(data=moved, software={"torch": "9"}), where=tmp_path)
    with pytest.raises(FingerprintError):
        require_same_run(description(), description(data=[{**moved[0], "samples": 11}]), where=tmp_path)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"settings": {"seed": 2, "learning_rate": 0.1}}, "seed 1 before, now 2"),
        ({"model": {"hidden_size": 16}}, "model.hidden_size 8 before, now 16"),
        ({"data": [{"path": "features", "records_sha256": "cd", "samples": 10}]}, r"data\[0\].records_sha256"),
        ({"data": []}, "data "),
        ({"eval_data": [{"records_sha256": "x"}]}, "eval_data"),
    ],
)
def test_another_run_is_refused_naming_the_difference(changes: dict[str, Any], named: str, tmp_path: Path) -> None:
    with pytest.raises(FingerprintError, match=named):
        require_same_run(description(), description(**changes), where=tmp_path)


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(RefusedError, match=r"thesis\.txt"):
        make_run_folder(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_what_a_run_killed_at_its_start_leaves_is_taken_over(tmp_path: Path) -> None:
    for name in ("tokenizer", ".tokenizer.tmp"):
        (tmp_path / name).mkdir()
    for name in ("hard-negatives-0123456789abcdef.npy", "hard-negatives-0123456789abcdef.json"):
        (tmp_path / name).touch()
    before = sorted(tmp_path.iterdir())
    make_run_folder(tmp_path)
    assert sorted(tmp_path.iterdir()) == before


def test_a_writer_that_is_ending_is_waited_for_and_a_living_one_refused(tmp_path: Path) -> None:
    holder = ExitStack()
    holder.enter_context(writing(tmp_path, patience=0))
    with pytest.raises(LockedError, match="is writing here"), writing(tmp_path, patience=0.2):
        pytest.fail("two writers")
    threading.Timer(0.3, holder.close).start()
    with writing(tmp_path, patience=20):
        assert "process" in (tmp_path / ".lock").read_text()
