"""ViLBERT's pre-training LMDB; docs/formats.md describes it."""

from __future__ import annotations

from vilbert.pipeline.rebuild.formats.registry import FormatSpec

SPEC = FormatSpec(
    summary="LMDB of tensorpack that the original ViLBERT reads in pre-training, with captions.",
    importer="vilbert.pipeline.rebuild.formats.importers.vilbert_pretraining_lmdb:Importer",
    exporter="vilbert.pipeline.rebuild.formats.exporters.vilbert_pretraining_lmdb:exporter",
    lost=(
        "split",
        "metadata",
        "object_ids",
        "object_scores",
        "attribute_ids",
        "attribute_scores",
        "object_boxes",
        "images have one record for each caption",
    ),
)
