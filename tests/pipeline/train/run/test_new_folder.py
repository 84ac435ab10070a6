"""A folder of which nothing has come is removed again, and never that of another process."""

from __future__ import annotations

from pathlib import Path

import pytest

from vilbert.pipeline.errors import LockedError, RefusedError
from vilbert.pipeline.train.run.new_folder import new_folder


def test_what_was_made_is_removed_where_the_block_fails(tmp_path: Path) -> None:
    with pytest.raises(RefusedError), new_folder(tmp_path / "a" / "b", is_used=lambda: False):
        raise RefusedError("no")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("error", [RefusedError, KeyboardInterrupt])
def test_what_is_used_or_interrupted_stays(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), new_folder(tmp_path / "a", is_used=lambda: error is RefusedError):
        raise error
    assert (tmp_path / "a").is_dir()


def test_the_process_that_made_the_folder_but_lost_its_lock_leaves_it_to_the_winner(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"

    def lose() -> None:
        (folder / "plan.json").write_text("of the winner")
        raise LockedError("another process is writing here")

    with pytest.raises(LockedError), new_folder(folder, is_used=lambda: False):
        lose()
    assert (folder / "plan.json").read_text() == "of the winner"
