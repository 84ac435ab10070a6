"""MMF's pairs of .npy files; docs/formats.md describes it."""

from __future__ import annotations

from vilbert.pipeline.rebuild.formats.registry import FormatSpec

SPEC = FormatSpec(
    summary="Folder of ID.npy and ID_info.npy files of MMF's feature extraction.",
    importer="vilbert.pipeline.rebuild.formats.importers.mmf_npy:Importer",
)
