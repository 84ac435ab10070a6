"""UNITER's compressed LMDB; docs/formats.md describes it."""

from __future__ import annotations

from vilbert.pipeline.rebuild.formats import uniter_lmdb
from vilbert.pipeline.rebuild.formats.registry import FormatSpec

SPEC = FormatSpec(
    summary="LMDB of UNITER with --compressed_db.",
    exporter="vilbert.pipeline.rebuild.formats.exporters.uniter_lmdb:compressed_exporter",
    lost=uniter_lmdb.SPEC.lost,
)
