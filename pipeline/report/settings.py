"""The settings of `vilbert report`."""

from __future__ import annotations

from dataclasses import field
from pathlib import Path

from tyro.conf import Positional

from vilbert.extractors.extractor import DetectorSettings
from vilbert.extractors.selection import SelectionSettings
from vilbert.pipeline.tasks.registry import TASKS
from vilbert.settings import PositiveInt, validated


@validated
class ReportSettings:
    """Show a fine-tuned model on one page: metrics, errors, right answers, attention, curves, how it was made.

    The task is that of the model. Detector and selection are by default those that the features of the model's training
    were extracted with.
    """

    data: Positional[Path]
    """The data set of the images; their photographs have to be where they were for `vilbert extract`."""
    annotations: Path
    """The folder of the task's annotation files, under their published names."""
    checkpoint: Path
    """A run of `vilbert finetune`, its final/, or one of its checkpoints/."""
    results: Path
    """The results that `vilbert evaluate TASK --output` wrote of the split; its metrics are read from the
    .figures.json beside them."""
    task: str | None = None
    """Which of the model's tasks, where it was trained for several."""
    blind_results: Path | None = None
    """The results that it wrote with --blind."""
    split: str = "val"
    """Which part of the annotations was answered."""
    pretrained: Path | None = None
    """The run of `vilbert pretrain` before, to show its curves and settings too."""
    output: Path = Path("report.html")
    """The page (.html), which needs nothing else and no network."""
    images: PositiveInt = 8
    """Examples by photograph: half with errors, which come first, and half with right answers."""
    questions: PositiveInt = 3
    """Maximum number of items about one photograph."""
    top: PositiveInt = 4
    """How many answers, or ranked photographs, to list for each item."""
    detector: DetectorSettings = field(default_factory=DetectorSettings)
    selection: SelectionSettings = field(default_factory=SelectionSettings)

    def __post_init__(self) -> None:
        if self.task is not None and self.task not in TASKS:
            raise ValueError(f"--task {self.task}: no such task; there are {', '.join(TASKS)}")
        if self.output.suffix.lower() not in (".html", ".htm"):
            raise ValueError(f"--output {self.output}: give a file name that ends in .html")
