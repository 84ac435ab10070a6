"""MMF's LMDB."""

from vilbert.pipeline.rebuild.formats.registry import FormatSpec

SPEC = FormatSpec(
    summary="MMF: LMDB of features",
    exporter="vilbert.pipeline.rebuild.formats.exporters.mmf_lmdb:exporter",
    lost=(
        "captions, splits and other metadata",
        "object scores, attribute ids and scores",
        "boxes of the objects refined from the regions (object_boxes)",
    ),
)
