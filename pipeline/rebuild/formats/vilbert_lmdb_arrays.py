"""vilbert-multi-task's LMDB; docs/formats.md describes it."""

from __future__ import annotations

from vilbert.pipeline.rebuild.formats import vilbert_lmdb
from vilbert.pipeline.rebuild.formats.registry import FormatSpec

SPEC = FormatSpec(
    summary="LMDB of arrays, of vilbert-multi-task.",
    exporter="vilbert.pipeline.rebuild.formats.exporters.vilbert_lmdb:arrays_exporter",
    lost=vilbert_lmdb.SPEC.lost,
)
