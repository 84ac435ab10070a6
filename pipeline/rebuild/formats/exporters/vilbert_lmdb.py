"""The LMDBs of ViLBERT's task readers in three variants: base64 texts, arrays, and the names of VOLTA.

One LMDB folder. The value of an image id is a pickled mapping, the value of `keys` the pickled list of all ids.
Sources: jiasenlu/vilbert_beta `script/convert_trainval_lmdb.py` and `_image_features_reader.py`;
facebookresearch/vilbert-multi-task `script/convert_to_lmdb.py`; e-bug/volta `data/mscoco/convert_coco_lmdb.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from vilbert.pipeline.rebuild.formats.exporters.lmdb_file import new_lmdb
from vilbert.pipeline.rebuild.formats.exporters.pickles import append_key, encode_key_list, encode_pickle
from vilbert.pipeline.rebuild.formats.exporters.staging import Rows
from vilbert.pipeline.rebuild.formats.exporters.stream import (
    StreamExporter,
    class_distributions,
    float32,
    has_classes,
)
from vilbert.pipeline.rebuild.formats.exporters.tsv import LXMERT_FIELDS, bottom_up_row, lxmert_row
from vilbert.pipeline.rebuild.source import SourceDescription
from vilbert.pipeline.shards.sample import Sample

Item = Callable[[Sample, SourceDescription], dict[str, Any]]


def write_pickled_items(path: Path, description: SourceDescription, item: Item) -> Rows:
    """Write an LMDB of pickled mappings, one per image id, and the list of ids under `keys`."""
    keys = bytearray()
    with new_lmdb(path, subdir=True) as put:
        while (sample := (yield)) is not None:
            key = sample.meta["image_id"].encode()
            put(key, encode_pickle(item(sample, description)))
            append_key(keys, key)
        put(b"keys", encode_key_list(keys))


def array_item(sample: Sample, description: SourceDescription) -> dict[str, Any]:
    """Return the mapping that vilbert-multi-task stores for an image: arrays of float32."""
    regions = sample.regions
    item = {
        "image_id": sample.meta["image_id"],
        "image_h": regions.height,
        "image_w": regions.width,
        "num_boxes": len(regions),
        "boxes": float32(regions.boxes),
        "features": float32(regions.features),
    }
    return {**item, "cls_prob": class_distributions(sample, description)} if has_classes(description) else item


def exporter() -> StreamExporter:
    """Return the exporter for vilbert_beta: texts, arrays in base64."""
    return StreamExporter(write=partial(write_pickled_items, item=bottom_up_row))


def arrays_exporter() -> StreamExporter:
    """Return the exporter for vilbert-multi-task: arrays."""
    return StreamExporter(write=partial(write_pickled_items, item=array_item))


def volta_exporter() -> StreamExporter:
    """Return the exporter for VOLTA: the columns of LXMERT's TSV, as texts."""
    return StreamExporter(write=partial(write_pickled_items, item=lxmert_row), fields=LXMERT_FIELDS)
