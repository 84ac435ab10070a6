"""Oscar's TSVs; docs/formats.md describes it."""

from __future__ import annotations

from vilbert.pipeline.rebuild.formats.registry import FormatSpec

SPEC = FormatSpec(
    summary="TSVs with .lineidx, of Oscar's pre-training, retrieval and VQA.",
    exporter="vilbert.pipeline.rebuild.formats.exporters.vinvl_tsv:pretraining_exporter",
    lost=(
        "captions, splits and other metadata",
        "class probabilities, attribute ids and scores",
        "boxes of the objects refined from the regions (object_boxes)",
    ),
)
