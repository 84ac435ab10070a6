"""COCO's detection results."""

from vilbert.pipeline.rebuild.formats.registry import FormatSpec

SPEC = FormatSpec(
    summary="COCO evaluation, detectron2: JSON list of boxes",
    exporter="vilbert.pipeline.rebuild.formats.exporters.coco_detections:exporter",
    lost=(
        "features",
        "class probabilities, attribute ids and scores",
        "image sizes",
        "captions, splits and other metadata",
    ),
)
