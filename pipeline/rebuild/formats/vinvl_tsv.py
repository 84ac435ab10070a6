"""VinVL's TSVs with lineidx."""

from vilbert.pipeline.rebuild.formats.registry import FormatSpec

SPEC = FormatSpec(
    summary="VinVL and Oscar: TSVs with lineidx",
    exporter="vilbert.pipeline.rebuild.formats.exporters.vinvl_tsv:exporter",
    lost=(
        "splits and other metadata but captions",
        "class probabilities, attribute ids and scores",
        "boxes of the objects refined from the regions (object_boxes)",
    ),
)
