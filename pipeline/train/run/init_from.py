"""Resolve `--init-from`: as with `--checkpoint`, a run stands for its final/."""

from __future__ import annotations

from pathlib import Path


def resolve_init_from(init_from: str) -> str:
    """Return the final/ of a run, and any other value unchanged.

    Raises:
        ValueError: The run has no final/ yet.
    """
    from vilbert.pipeline.train.run.folder import FINAL_FOLDER, RUN_FILE

    run = Path(init_from)
    if (run / FINAL_FOLDER).is_dir():
        return str(run / FINAL_FOLDER)
    if (run / RUN_FILE).is_file():
        raise ValueError(
            f"--init-from {init_from}: this run has not finished, so it has no {FINAL_FOLDER}/; run its command again "
            "to finish it"
        )
    return init_from
