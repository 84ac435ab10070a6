"""Oscar's TSVs; docs/formats.md describes it."""

from __future__ import annotations

from vilbert.pipeline.rebuild.formats.registry import FormatSpec

SPEC = FormatSpec(
    summary="TSVs with .lineidx, of Oscar's pre-training, retrieval and VQA.",
    exporter="vilbert.pipeline.rebuild.formats.exporters.vinvl_tsv:pretraining_exporter",
    lost=("captions", "split", "metadata", "class_probs", "attribute_ids", "attribute_scores", "object_boxes"),
)
