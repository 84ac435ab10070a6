"""Bottom-Up Attention's TSV."""

from vilbert.pipeline.rebuild.formats.registry import FormatSpec

SPEC = FormatSpec(
    summary="Bottom-Up Attention: TSV",
    exporter="vilbert.pipeline.rebuild.formats.exporters.tsv:bottom_up_exporter",
    lost=(
        "captions, splits and other metadata",
        "object and attribute ids and scores",
        "boxes of the objects refined from the regions (object_boxes)",
    ),
)
