"""Bottom-Up Attention TSV; docs/formats.md describes it."""

from __future__ import annotations

from vilbert.pipeline.rebuild.formats.registry import FormatSpec

SPEC = FormatSpec(
    summary="Bottom-Up Attention TSV: the original, with cls_prob (ViLBERT), LXMERT, volta; plain or .gz.",
    importer="vilbert.pipeline.rebuild.formats.importers.bottom_up_tsv:Importer",
    exporter="vilbert.pipeline.rebuild.formats.exporters.tsv:bottom_up_exporter",
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
