"""The options of `vilbert manifest`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

from vilbert.manifests.boxes import BoxFormat
from vilbert.manifests.readers.detect import Kind
from vilbert.settings import Fraction, PositiveInt, Share, validated


@validated
class ManifestSettings:
    """Write a manifest of a data set's images and captions, and report missing, duplicate and damaged rows."""

    sources: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="SOURCE ...")]]
    """Conceptual Captions TSV, img2dataset folder, COCO captions or Karpathy JSON, folder of images (with caption files
    or metadata), and tables of images: CSV, TSV, JSONL, JSON array, Parquet."""
    output: Path
    """The manifest to write (.parquet); the report is written beside it (.report.json)."""
    kind: Kind | None = None
    """Format of the sources; default: detected from their content."""
    images: Path | None = None
    """COCO, Karpathy: folder of the images, or of train2014, val2014, … Tables: base folder of relative paths."""
    uri_column: str | None = None
    """Tables: column with the image's path or URL; default: uri, url, path, image, file_name or similar."""
    caption_column: str | None = None
    """Tables: column with captions; default: caption, captions, sentences, text or title."""
    exif_orientation: Literal["auto", "apply", "ignore"] = "auto"
    """Apply the EXIF orientation of images, or ignore it and use stored pixels. auto: ignore for COCO, Karpathy files
    and Visual Genome, whose annotations and published features refer to stored pixels."""
    given_boxes: Path | None = None
    """Boxes to use instead of detected ones: JSONL {image_id, boxes (xyxy)}, COCO instances or detections JSON, or a
    folder with YOLO .txt or Pascal VOC .xml files."""
    min_box_score: Share = 0.0
    """COCO detections, YOLO with confidences: boxes with a lower score are skipped."""
    box_format: BoxFormat | None = None
    """Format of given boxes, in --given-boxes and in tables: two corners, a corner and the size, or the centre and the
    size; in pixels or normalized by width and height. Default: xyxy, xywh for COCO, cxcywh-normalized for YOLO."""
    exclude_ids: Path | None = None
    """Image ids to exclude, such as test images of another task: one per line, a JSON list, or .npy."""
    split: str | None = None
    """Split of every row; default: the split that the source names."""
    hold_out: Fraction | None = None
    """Fraction of the images without a split, or of the split `train`, that is assigned to `val`, such as 0.01; the
    rest is assigned to `train`. Selected by a hash of the image id."""
    seed: int = 0
    """Seed of the selection for --hold-out."""
    group_by_split: bool = False
    """Order the rows by the names of their splits, for `vilbert extract --one-split-per-shard`."""
    limit: PositiveInt | None = None
    """Maximum number of rows."""
    duplicate_ids: Literal["error", "first"] = "error"
    """Rows with the same id: stop with an error, or keep the first and count the others."""
    check_files: bool = True
    """Check that local image files exist; missing files are counted, and their rows are kept."""
    incomplete_shards: Literal["skip", "read"] = "skip"
    """img2dataset shards without _stats.json: skip and count them, or read their images."""
    overwrite: bool = False
    """Overwrite an existing output file."""

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("SOURCES are missing: give at least one file or folder")
        if self.min_box_score and self.given_boxes is None:
            raise ValueError("--min-box-score requires --given-boxes")
        if self.hold_out is not None and self.split not in (None, "train"):
            raise ValueError(
                f"--hold-out holds out rows of split train, and --split {self.split} selects none of them: use only "
                "one of the two options"
            )
        if self.output.suffix != ".parquet":
            raise ValueError(f"--output {self.output}: a manifest is a Parquet file; its name must end in .parquet")
