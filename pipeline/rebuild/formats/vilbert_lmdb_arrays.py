"""vilbert-multi-task's LMDB; docs/formats.md describes it."""

from __future__ import annotations

from vilbert.pipeline.rebuild.formats.registry import FormatSpec

SPEC = FormatSpec(
    summary="LMDB of arrays, of vilbert-multi-task.",
    exporter="vilbert.pipeline.rebuild.formats.exporters.vilbert_lmdb:arrays_exporter",
    lost=(
        "captions, splits and other metadata",
        "object and attribute ids and scores",
        "boxes of the objects refined from the regions (object_boxes)",
    ),
)
