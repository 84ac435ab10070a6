"""The LMDB that ViLBERT is pre-trained from."""

from vilbert.pipeline.rebuild.formats.registry import FormatSpec

SPEC = FormatSpec(
    summary="vilbert_beta's pre-training: tensorpack LMDB and captions",
    exporter="vilbert.pipeline.rebuild.formats.exporters.vilbert_pretraining_lmdb:exporter",
    lost=(
        "splits and other metadata but captions",
        "object and attribute ids and scores",
        "images have one record for each caption",
        "boxes of the objects refined from the regions (object_boxes)",
    ),
)
