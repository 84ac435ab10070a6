"""VisualBERT's HDF5; docs/formats.md describes it."""

from __future__ import annotations

from vilbert.pipeline.rebuild.formats.registry import FormatSpec

SPEC = FormatSpec(
    summary="HDF5 of arrays over all images, of VisualBERT; needs h5py.",
    exporter="vilbert.pipeline.rebuild.formats.exporters.hdf5:exporter",
    lost=("captions", "split", "metadata", "class_probs", "object_boxes"),
)
