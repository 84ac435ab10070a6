"""What --checkpoint names: a run, its final/, or one of its checkpoints/, the best of which lies there.

A checkpoint holds parameters alone; how the run was begun, and its tokenizer, lie in the run's folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.tasks.task_card import TASK_FILE
from vilbert.pipeline.train.run.checkpoint_manifest import MANIFEST
from vilbert.pipeline.train.run.folder import FINAL_FOLDER, RUN_FILE, TOKENIZER_FOLDER


class TrainedFolder(NamedTuple):
    """Where a trained model lies, and what belongs to it."""

    model: Path
    """A folder that `from_pretrained` reads, or a checkpoint of a run."""
    run: Path
    """The run that it came of."""
    card: Path
    """The folder of its task.json."""
    tokenizer: Path

    @property
    def is_of_a_run(self) -> bool:
        """Whether it is a run's final/ or one of its checkpoints, and no folder of another origin."""
        return self.is_checkpoint or self.model.name == FINAL_FOLDER

    @property
    def is_checkpoint(self) -> bool:
        """Whether it is one of a run's checkpoints, which `from_pretrained` does not read."""
        return (self.model / MANIFEST).is_file()


def trained_folder(checkpoint: Path) -> TrainedFolder:
    """Return what a run, its final/ or one of its checkpoints/ is made of; RefusedError for a run that has no final/.

    A folder of any other kind is taken for a final/.
    """
    if (checkpoint / MANIFEST).is_file():
        run = checkpoint.resolve().parent.parent
        final = run / FINAL_FOLDER
        card = run if (run / TASK_FILE).is_file() else final
        return TrainedFolder(checkpoint, run, card, run / TOKENIZER_FOLDER)
    if (checkpoint / FINAL_FOLDER).is_dir():
        final = checkpoint / FINAL_FOLDER
        return TrainedFolder(final, checkpoint, final, final)
    if (checkpoint / RUN_FILE).is_file():
        from vilbert.pipeline.train.run.checkpoints import checkpoints

        there = [str(found.path) for found in checkpoints(checkpoint)[-1:]]
        named = f", or give one of its checkpoints, such as {there[0]}" if there else ""
        raise RefusedError(f"--checkpoint {checkpoint}: the run is not finished; run its command again{named}")
    return TrainedFolder(checkpoint, checkpoint.resolve().parent, checkpoint, checkpoint)
