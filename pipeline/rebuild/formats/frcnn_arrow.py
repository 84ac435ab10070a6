"""Arrow files of transformers' frcnn; docs/formats.md describes it."""

from __future__ import annotations

from vilbert.pipeline.rebuild.formats.registry import FormatSpec

SPEC = FormatSpec(
    summary="Arrow file of the LXMERT example of transformers (unc-nlp/frcnn-vg-finetuned).",
    importer="vilbert.pipeline.rebuild.formats.importers.frcnn_arrow:Importer",
)
