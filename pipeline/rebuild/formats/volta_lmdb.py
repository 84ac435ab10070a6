"""VOLTA's LMDB; docs/formats.md describes it."""

from __future__ import annotations

from vilbert.pipeline.rebuild.formats.registry import FormatSpec

SPEC = FormatSpec(
    summary="LMDB with the columns of LXMERT, of VOLTA.",
    exporter="vilbert.pipeline.rebuild.formats.exporters.vilbert_lmdb:volta_exporter",
    lost=("captions", "split", "metadata", "class_probs", "object_boxes"),
)
