"""The settings of `vilbert compare`."""

from __future__ import annotations

from dataclasses import field
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Gt, Le
from tyro.conf import Positional

from vilbert.pipeline.rebuild.formats.registry import ImportOptions
from vilbert.settings import NonNegativeInt, PositiveInt, Share, validated

PREFIX = "detector:"
SETTINGS_FILES = (".yaml", ".yml")


def names_detector(text: str) -> bool:
    """Return whether an argument names a detector: detector:NAME, or a YAML file of its options."""
    return text.startswith(PREFIX) or Path(text).suffix.lower() in SETTINGS_FILES


@validated
class CompareSettings:
    """Compare two feature sets of the same images: boxes, features, objects, and the likely cause of a difference.

    A and B are each a data set (folder or URL), a file of published features, `detector:NAME`, or a YAML file with
    options of a detector, which is then run over the images of the other. Exit status 1: a bound is exceeded.
    """

    a: Positional[str]
    """The reference: a data set, a file of published features, detector:NAME, or a detector's options as a .yaml file.
    """
    b: Positional[str]
    """The feature set to compare with it; the same kinds of argument."""
    report: Path | None = None
    """Write a single HTML file with metrics and the most different images."""
    json: bool = False
    """Print one JSON object instead of text."""
    limit: NonNegativeInt = 1000
    """Maximum number of images to compare. Images are chosen by a hash of their id, so the choice does not depend on
    the order of either set. 0: all."""
    seed: int = 0
    """Seed of the choice of images."""
    min_iou: Annotated[float, Gt(0), Le(1)] = 0.5
    """Minimum IoU of matched boxes."""
    min_matched: Share = 0.99
    """Bound: minimum fraction of the regions of both sets that have a match."""
    min_cosine: Annotated[float, Gt(-1), Le(1)] = 0.999
    """Cosine similarity from which two features count as equal."""
    min_equal: Share = 0.99
    """Bound: minimum fraction of matched regions whose features are equal (--min-cosine)."""
    min_objects: Share = 0.95
    """Bound: minimum fraction of matched regions with the same object class, where both sets have classes."""
    worst: PositiveInt = 8
    """Number of most different images to list and to show in the report."""
    manifest: Path | None = None
    """Manifest with the locations of the images, by image id. Default: the images that a data set stores, or the paths
    and URLs in it."""
    diagnose: bool = True
    """If a bound is exceeded, extract a few images again with each suspected cause and name the one that reproduces
    the difference. It needs the images and a detector that can be built here."""
    detector: str | None = None
    """Detector of --diagnose: detector:NAME or a .yaml file. Default: A or B if it is a detector, else the one that
    the data set records."""
    batch_size: PositiveInt = 8
    """Maximum number of images per forward pass of a detector."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of a detector. auto: a GPU if available."""
    source_format: str | None = None
    """Format of published features; default: detected from their content."""
    importing: ImportOptions = field(default_factory=ImportOptions)

    def __post_init__(self) -> None:
        if self.a == self.b:
            raise ValueError(f"A and B are both {self.a}: give two feature sets")
        if names_detector(self.a) and names_detector(self.b) and self.manifest is None:
            raise ValueError("A and B are both detectors: give --manifest with the images to run them on")
        if self.report is not None and self.report.suffix.lower() not in (".html", ".htm"):
            raise ValueError(f"--report {self.report}: name a file that ends in .html")
        if self.detector is not None and not names_detector(self.detector):
            raise ValueError(f"--detector {self.detector}: give {PREFIX}NAME, or a .yaml file of a detector's options")
