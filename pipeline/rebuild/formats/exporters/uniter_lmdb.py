"""UNITER's LMDB of features, uncompressed (msgpack) and compressed (npz).

A folder that `DetectFeatLmdb` opens, with the thresholds of its configurations in the names: the LMDB, and a JSON with
the number of regions to read for each image, here all of them. The key of an image is its id followed by `.npz`.
Source: ChenRocks/UNITER `data/data.py`, `scripts/convert_imgdir.py`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.rebuild.formats.exporters.lmdb_file import new_lmdb
from vilbert.pipeline.rebuild.formats.exporters.msgpacks import encode_msgpack
from vilbert.pipeline.rebuild.formats.exporters.staging import Rows
from vilbert.pipeline.rebuild.formats.exporters.stream import StreamExporter, class_distributions, float32
from vilbert.pipeline.rebuild.source import SourceDescription
from vilbert.pipeline.shards.sample import Sample

THRESHOLDS = "th0.2_max100_min10"


def normalised_boxes(sample: Sample) -> NDArray[np.float32]:
    """Return x1, y1, x2, y2, width and height of each box as fractions of the image, float32 [N, 6]."""
    regions = sample.regions
    corners = float32(regions.boxes) / np.array([regions.width, regions.height] * 2, np.float32)
    return np.concatenate([corners, corners[:, 2:] - corners[:, :2]], axis=1)


def uniter_item(sample: Sample, description: SourceDescription) -> dict[str, NDArray[np.float16]]:
    """Return the arrays that UNITER stores for an image, all in float16; ShardError for a feature beyond float16."""
    regions = sample.regions
    assert regions.object_scores is not None
    arrays = {
        "features": regions.features,
        "norm_bb": normalised_boxes(sample),
        "conf": regions.object_scores,
        "soft_labels": class_distributions(sample, description),
    }
    with np.errstate(over="ignore"):
        item = {name: np.ascontiguousarray(array, dtype="<f2") for name, array in arrays.items()}
    if not np.isfinite(item["features"]).all():
        raise ShardError(f"sample {sample.key}: features exceed float16, in which UNITER stores them")
    return item


def encode_npz(item: dict[str, NDArray[Any]]) -> bytes:
    """Return the arrays as a compressed .npz."""
    with io.BytesIO() as file:
        np.savez_compressed(file, **item)  # type: ignore[arg-type]
        return file.getvalue()


def write_uniter(
    path: Path, description: SourceDescription, *, encode: Callable[[dict[str, Any]], bytes], suffix: str
) -> Rows:
    """Write the LMDB and the numbers of regions."""
    path.mkdir()
    keys = bytearray()
    counts_path = path / f"nbb_{THRESHOLDS}.json"
    with new_lmdb(path / f"feat_{THRESHOLDS}{suffix}", subdir=True) as put, counts_path.open("xb") as counts:
        while (sample := (yield)) is not None:
            key = f"{sample.meta['image_id']}.npz"
            put(key.encode(), encode(uniter_item(sample, description)))
            name = json.dumps(key).encode()
            counts.write((b", " if keys else b"{") + name + b": %d" % len(sample.regions))
            keys += (b", " if keys else b"") + name
        put(b"__keys__", b"[" + keys + b"]")
        counts.write(b"}" if keys else b"{}")


_FIELDS = ("object_ids", "object_scores", "class_ids", "class_probs")


def exporter() -> StreamExporter:
    """Return the exporter of msgpack values, which UNITER's configurations read by default."""
    write = partial(write_uniter, encode=encode_msgpack, suffix="")
    return StreamExporter(write=write, fields=_FIELDS, class_names=True)


def compressed_exporter() -> StreamExporter:
    """Return the exporter of npz values, for UNITER's `--compressed_db`."""
    write = partial(write_uniter, encode=encode_npz, suffix="_compressed")
    return StreamExporter(write=write, fields=_FIELDS, class_names=True)
