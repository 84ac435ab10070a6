"""UNITER's LMDB; docs/formats.md describes it."""

from __future__ import annotations

from vilbert.pipeline.rebuild.formats.registry import FormatSpec

SPEC = FormatSpec(
    summary="LMDB of UNITER's convert_imgdir.py, plain or compressed.",
    importer="vilbert.pipeline.rebuild.formats.importers.uniter_lmdb:Importer",
)
