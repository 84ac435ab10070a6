"""ViLBERT's task LMDB; docs/formats.md describes it."""

from __future__ import annotations

from vilbert.pipeline.rebuild.formats.registry import FormatSpec

SPEC = FormatSpec(
    summary="LMDB of region features that the original ViLBERT reads in its tasks, of texts or of arrays.",
    importer="vilbert.pipeline.rebuild.formats.importers.vilbert_lmdb:Importer",
    exporter="vilbert.pipeline.rebuild.formats.exporters.vilbert_lmdb:exporter",
    lost=(
        "captions",
        "split",
        "metadata",
        "object_ids",
        "object_scores",
        "attribute_ids",
        "attribute_scores",
        "object_boxes",
    ),
)
