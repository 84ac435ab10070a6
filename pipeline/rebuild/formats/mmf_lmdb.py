"""MMF's LMDB; docs/formats.md describes it."""

from __future__ import annotations

from vilbert.pipeline.rebuild.formats.registry import FormatSpec

SPEC = FormatSpec(
    summary="LMDB of MMF's lmdb_conversion.py.",
    importer="vilbert.pipeline.rebuild.formats.importers.mmf_lmdb:Importer",
    exporter="vilbert.pipeline.rebuild.formats.exporters.mmf_lmdb:exporter",
    lost=("captions", "split", "metadata", "object_scores", "attribute_ids", "attribute_scores", "object_boxes"),
)
