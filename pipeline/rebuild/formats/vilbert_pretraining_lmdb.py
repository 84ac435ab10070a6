"""ViLBERT's pre-training LMDB; docs/formats.md describes it."""

from __future__ import annotations

from vilbert.pipeline.rebuild.formats.registry import FormatSpec

SPEC = FormatSpec(
    summary="LMDB of tensorpack that the original ViLBERT reads in pre-training, with captions.",
    importer="vilbert.pipeline.rebuild.formats.importers.vilbert_pretraining_lmdb:Importer",
    exporter="vilbert.pipeline.rebuild.formats.exporters.vilbert_pretraining_lmdb:exporter",
    lost=(
        "splits and other metadata but captions",
        "object and attribute ids and scores",
        "images have one record for each caption",
        "boxes of the objects refined from the regions (object_boxes)",
    ),
)
