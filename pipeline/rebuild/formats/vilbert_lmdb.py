"""The LMDB of vilbert_beta's task readers."""

from vilbert.pipeline.rebuild.formats.registry import FormatSpec

SPEC = FormatSpec(
    summary="vilbert_beta's tasks: LMDB of base64 texts",
    exporter="vilbert.pipeline.rebuild.formats.exporters.vilbert_lmdb:exporter",
    lost=(
        "captions, splits and other metadata",
        "object and attribute ids and scores",
        "boxes of the objects refined from the regions (object_boxes)",
    ),
)
