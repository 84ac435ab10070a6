"""COCO detection results; docs/formats.md describes it."""

from __future__ import annotations

from vilbert.pipeline.rebuild.formats.registry import FormatSpec

SPEC = FormatSpec(
    summary="JSON of detections, of detectron2 or COCO: boxes alone, no features.",
    importer="vilbert.pipeline.rebuild.formats.importers.coco_detections:Importer",
    exporter="vilbert.pipeline.rebuild.formats.exporters.coco_detections:exporter",
    lost=(
        "features",
        "image sizes",
        "captions",
        "split",
        "metadata",
        "class_probs",
        "attribute_ids",
        "attribute_scores",
    ),
)
