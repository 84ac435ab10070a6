"""The LMDB of vilbert-multi-task's readers."""

from vilbert.pipeline.rebuild.formats.registry import FormatSpec

SPEC = FormatSpec(
    summary="vilbert-multi-task: LMDB of arrays",
    exporter="vilbert.pipeline.rebuild.formats.exporters.vilbert_lmdb:arrays_exporter",
    lost=(
        "captions, splits and other metadata",
        "object and attribute ids and scores",
        "boxes of the objects refined from the regions (object_boxes)",
    ),
)
