"""MILVLG's .npz files; docs/formats.md describes it."""

from __future__ import annotations

from vilbert.pipeline.rebuild.formats.registry import FormatSpec

SPEC = FormatSpec(
    summary="Folder of .npz files, one an image, of MILVLG/bottom-up-attention.pytorch.",
    importer="vilbert.pipeline.rebuild.formats.importers.bottom_up_npz:Importer",
)
