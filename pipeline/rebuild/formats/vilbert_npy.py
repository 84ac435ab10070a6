"""vilbert-multi-task's .npy files; docs/formats.md describes it."""

from __future__ import annotations

from vilbert.pipeline.rebuild.formats.registry import FormatSpec

SPEC = FormatSpec(
    summary="Folder of .npy files, one an image, of vilbert-multi-task's extract_features.py.",
    importer="vilbert.pipeline.rebuild.formats.importers.vilbert_npy:Importer",
)
