"""The LMDB of features that MMF reads.

Like the LMDBs of ViLBERT's tasks, with MMF's names. Class 0 is the background, as in MMF's extractor with
`--background`, because its ViLBERT predicts a distribution with the background (`v_target_size` 1601).
Sources: facebookresearch/mmf `tools/scripts/features/lmdb_conversion.py`, `extract_features_vmb.py`,
`mmf/datasets/databases/readers/feature_readers.py`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from vilbert.pipeline.rebuild.formats.exporters.stream import (
    StreamExporter,
    class_distributions,
    float32,
    has_classes,
)
from vilbert.pipeline.rebuild.formats.exporters.vilbert_lmdb import write_pickled_items
from vilbert.pipeline.rebuild.source import SourceDescription
from vilbert.pipeline.shards.sample import Sample


def mmf_item(sample: Sample, description: SourceDescription) -> dict[str, Any]:
    """Return the value that MMF stores for an image; `cls_prob` is None without class probabilities."""
    regions = sample.regions
    assert regions.object_ids is not None
    return {
        "feature_path": sample.meta["image_id"],
        "features": float32(regions.features),
        "image_height": regions.height,
        "image_width": regions.width,
        "num_boxes": len(regions),
        "objects": regions.object_ids.astype("<i8"),
        "cls_prob": class_distributions(sample, description) if has_classes(description) else None,
        "bbox": float32(regions.boxes),
    }


def exporter() -> StreamExporter:
    """Return the exporter. MMF recognises an LMDB by the suffix .lmdb."""
    return StreamExporter(write=partial(write_pickled_items, item=mmf_item), fields=("object_ids",), suffix=".lmdb")
