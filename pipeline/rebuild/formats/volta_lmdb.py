"""The LMDB of VOLTA's readers."""

from vilbert.pipeline.rebuild.formats.registry import FormatSpec

SPEC = FormatSpec(
    summary="VOLTA: LMDB with the columns of LXMERT",
    exporter="vilbert.pipeline.rebuild.formats.exporters.vilbert_lmdb:volta_exporter",
    lost=(
        "captions, splits and other metadata",
        "class probabilities",
        "boxes of the objects refined from the regions (object_boxes)",
    ),
)
