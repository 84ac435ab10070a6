"""UNITER's compressed LMDB; docs/formats.md describes it."""

from __future__ import annotations

from vilbert.pipeline.rebuild.formats.registry import FormatSpec

SPEC = FormatSpec(
    summary="LMDB of UNITER with --compressed_db.",
    exporter="vilbert.pipeline.rebuild.formats.exporters.uniter_lmdb:compressed_exporter",
    lost=(
        "captions",
        "split",
        "metadata",
        "object_ids",
        "attribute_ids",
        "attribute_scores",
        "object_boxes",
        "image sizes (boxes are fractions of them, in float16)",
        "scores and features beyond float16's precision",
    ),
)
