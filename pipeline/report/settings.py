"""The settings of `vilbert report`."""

from __future__ import annotations

from dataclasses import field
from pathlib import Path

from tyro.conf import Positional

from vilbert.extractors.settings import DetectorSettings, SelectionSettings
from vilbert.pipeline.tasks.registry import TASKS
from vilbert.settings import PositiveInt, validated


@validated
class ReportSettings:
    """Write one HTML page about a fine-tuned model: metrics, errors, correct answers, attention, curves, settings.

    The task is read from the model. Defaults of the detector and the selection are those of the training features.
    """

    data: Positional[Path]
    """Data set of the images; the image files must be where they were during `vilbert extract`."""
    annotations: Path
    """Folder with the task's annotation files under their published names."""
    checkpoint: Path
    """A run of `vilbert finetune`, its final/, or one of its checkpoints/."""
    results: Path
    """File that `vilbert evaluate TASK --output` wrote for the split; metrics are read from the .figures.json beside
    it."""
    task: str | None = None
    """Task to report, if the model was trained on several."""
    blind_results: Path | None = None
    """Results with --blind for the same split."""
    split: str = "val"
    """Split of the annotations that was evaluated."""
    pretrained: Path | None = None
    """Run of `vilbert pretrain` to include with its curves and settings."""
    output: Path = Path("report.html")
    """Page to write (.html); a single file that needs no network."""
    images: PositiveInt = 8
    """Number of example images: half with errors, shown first, and half with correct answers."""
    questions: PositiveInt = 3
    """Maximum number of items per image."""
    top: PositiveInt = 4
    """Number of answers or ranked images per item."""
    detector: DetectorSettings = field(default_factory=DetectorSettings)
    selection: SelectionSettings = field(default_factory=SelectionSettings)

    def __post_init__(self) -> None:
        if self.task is not None and self.task not in TASKS:
            raise ValueError(f"--task {self.task}: no such task; the tasks are {', '.join(TASKS)}")
        if self.output.suffix.lower() not in (".html", ".htm"):
            raise ValueError(f"--output {self.output}: give a file name that ends in .html")
