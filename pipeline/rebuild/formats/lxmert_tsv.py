"""LXMERT's TSV; docs/formats.md describes it."""

from __future__ import annotations

from vilbert.pipeline.rebuild.formats.registry import FormatSpec

SPEC = FormatSpec(
    summary="TSV of LXMERT, with objects and attributes.",
    exporter="vilbert.pipeline.rebuild.formats.exporters.tsv:lxmert_exporter",
    lost=("captions", "split", "metadata", "class_probs", "object_boxes"),
)
