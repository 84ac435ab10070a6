"""`vilbert report`: what a model that was fine-tuned on VQA has learnt, on one page that a person can read."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tyro.conf import Positional

from extractors.extractor import DetectorSettings
from extractors.selection import SelectionSettings


@dataclass(frozen=True, kw_only=True)
class ReportSettings:
    """Put a model that was fine-tuned on VQA on one page: scores, photographs with its answers, attention, curves.

    Detector and selection are by default those that the features of the model's training were extracted with.
    """

    data: Positional[Path]
    """The data set of the images; their photographs have to be where they were for `vilbert extract`."""
    annotations: Path
    """The folder of VQA's annotation files, under their published names."""
    checkpoint: Path
    """A run of `vilbert finetune vqa`."""
    results: Path
    """What `vilbert evaluate vqa --output` wrote of the split."""
    blind_results: Path | None = None
    """What it wrote with --blind."""
    split: str = "val"
    """Which part of the annotations was answered."""
    pretrained: Path | None = None
    """The run of `vilbert pretrain` before, to show its curves too."""
    output: Path = Path("report.html")
    """The page (.html), which needs nothing else and no network."""
    images: int = 6
    """Photographs to show, taken evenly from those of the split."""
    questions: int = 6
    """Most questions to show about one photograph, the first of the files."""
    top: int = 4
    """How many answers to list for each question."""
    detector: DetectorSettings = field(default_factory=DetectorSettings)
    selection: SelectionSettings = field(default_factory=SelectionSettings)

    def __post_init__(self) -> None:
        for name in ("images", "questions", "top"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} {getattr(self, name)}: give at least 1")
        if self.output.suffix.lower() not in (".html", ".htm"):
            raise ValueError(f"--output {self.output}: give a file name that ends in .html")


def report(settings: ReportSettings) -> int:
    """Write the page; return 0."""
    from pipeline.shards.atomic import write_atomic
    from pipeline.tasks.report_content import read_content
    from pipeline.tasks.report_page import report_page
    from pipeline.train.disk import explain_disk_errors

    page = report_page(read_content(settings)).encode()
    with explain_disk_errors(settings.output):
        settings.output.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(settings.output, page)
    print(f"{settings.output}: {len(page) / 1e6:.1f} MB; open it in a browser")
    return 0
