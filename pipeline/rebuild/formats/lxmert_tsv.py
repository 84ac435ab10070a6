"""LXMERT's TSV; docs/formats.md describes it."""

from __future__ import annotations

from vilbert.pipeline.rebuild.formats.registry import FormatSpec

SPEC = FormatSpec(
    summary="TSV of LXMERT, with objects and attributes.",
    exporter="vilbert.pipeline.rebuild.formats.exporters.tsv:lxmert_exporter",
    lost=(
        "captions, splits and other metadata",
        "class probabilities",
        "boxes of the objects refined from the regions (object_boxes)",
    ),
)
