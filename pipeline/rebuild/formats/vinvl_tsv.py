"""VinVL's TSV; docs/formats.md describes it."""

from __future__ import annotations

from vilbert.pipeline.rebuild.formats.registry import FormatSpec

SPEC = FormatSpec(
    summary="TSV of VinVL (Oscar+), features.tsv or predictions.tsv, with .lineidx, hw and label files.",
    importer="vilbert.pipeline.rebuild.formats.importers.vinvl_tsv:Importer",
    exporter="vilbert.pipeline.rebuild.formats.exporters.vinvl_tsv:exporter",
    lost=("split", "metadata", "class_probs", "attribute_ids", "attribute_scores", "object_boxes"),
)
