"""VisualBERT's HDF5."""

from vilbert.pipeline.rebuild.formats.registry import FormatSpec

SPEC = FormatSpec(
    summary="VisualBERT: HDF5 of arrays over all images (needs h5py)",
    exporter="vilbert.pipeline.rebuild.formats.exporters.hdf5:exporter",
    lost=(
        "captions, splits and other metadata",
        "class probabilities",
        "boxes of the objects refined from the regions (object_boxes)",
    ),
)
