"""The options of `vilbert manifest`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

from vilbert.manifests.boxes import BoxFormat
from vilbert.manifests.readers.detect import Kind
from vilbert.settings import Fraction, PositiveInt, validated


@validated
class ManifestSettings:
    """List the images and captions of a data set in one file, and report what is missing, doubled or damaged."""

    sources: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="SOURCE ...")]]
    """Conceptual Captions TSV, img2dataset folder, COCO captions or Karpathy JSON, folder of images (with caption files
    or metadata), and tables of images: CSV, TSV, JSONL, JSON array, Parquet."""
    output: Path
    """The manifest to write (.parquet); the report goes beside it (.report.json)."""
    kind: Kind | None = None
    """What the sources are; by default, what their content shows."""
    images: Path | None = None
    """COCO, Karpathy: folder of the images, or of train2014, val2014, … Tables: where relative paths start."""
    uri_column: str | None = None
    """Tables: the column that names the image; by default uri, url, path, image, file_name and their like."""
    caption_column: str | None = None
    """Tables: the column of captions; by default caption, captions, sentences, text or title."""
    exif_orientation: Literal["auto", "apply", "ignore"] = "auto"
    """Turn images as their EXIF orientation says, or keep their stored pixels. auto: stored pixels for COCO, Karpathy
    files and Visual Genome, whose annotations and published features refer to those."""
    given_boxes: Path | None = None
    """Boxes to use instead of detected ones: JSONL {image_id, boxes (xyxy)}, or COCO instances JSON."""
    box_format: BoxFormat | None = None
    """How given boxes are written, in --given-boxes and in tables: two corners, a corner and the size, or the centre
    and the size; in pixels, or normalized by width and height. By default xyxy, and xywh in COCO instances."""
    exclude_ids: Path | None = None
    """Image ids to leave out, such as another task's test images: one a line, a JSON list, or .npy."""
    split: str | None = None
    """Split of every row; by default, what the source says."""
    hold_out: Fraction | None = None
    """Share of the images that get the split `val`, such as 0.01: of those whose source names no split, or `train`. The
    others of them get `train`. Chosen by a hash of the image id."""
    seed: int = 0
    """Makes another choice of as many images for --hold-out."""
    limit: PositiveInt | None = None
    """Stop after this many rows."""
    duplicate_ids: Literal["error", "first"] = "error"
    """Where two rows have one id: refuse, or keep the first and count the others."""
    check_files: bool = True
    """Look whether every local image file is there; missing ones are counted, and kept."""
    incomplete_shards: Literal["skip", "read"] = "skip"
    """img2dataset shards without _stats.json: count and skip, or read what is there."""
    overwrite: bool = False
    """Replace the output where it exists."""

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("SOURCES are missing: name at least one file or folder")
        if self.hold_out is not None and self.split not in (None, "train"):
            raise ValueError(
                f"--hold-out takes rows of split train, --split {self.split} leaves none: give one of both"
            )
        if self.output.suffix != ".parquet":
            raise ValueError(f"--output {self.output}: a manifest is a Parquet file; end its name in .parquet")
