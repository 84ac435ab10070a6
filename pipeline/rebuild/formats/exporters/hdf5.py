"""HDF5 in the format of VisualBERT's code: arrays over all images, and a JSON list of the images in the same order.

A folder with `features.h5` and `features.json`. The arrays cannot store a number of regions, so all images must have
the same number. Source: uclanlp/visualbert `unsupervised_visualbert/src/utils.py` (load_obj_tsv_save_to_h5) and
`src/lxrt/h5_data.py` (load_custom_h5).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from vilbert.pipeline.errors import RefusedError, ShardError
from vilbert.pipeline.rebuild.formats.exporters.staging import Rows, StagedWriter
from vilbert.pipeline.rebuild.formats.exporters.stream import StreamExporter, float32, foreground_ids
from vilbert.pipeline.rebuild.formats.exporters.tsv import LXMERT_FIELDS
from vilbert.pipeline.rebuild.source import SourceDescription
from vilbert.pipeline.shards.sample import Sample

_ROWS_AT_ONCE = 256


def hdf5_arrays(sample: Sample) -> dict[str, NDArray[Any]]:
    """Return an image's rows of the arrays; classes are counted without the background, from 0."""
    regions = sample.regions
    assert regions.object_scores is not None
    assert regions.attribute_ids is not None
    assert regions.attribute_scores is not None
    return {
        "features": float32(regions.features),
        "boxes": float32(regions.boxes),
        "objects_id": foreground_ids(sample),
        "objects_conf": float32(regions.object_scores),
        "attrs_id": regions.attribute_ids.astype("<i8"),
        "attrs_conf": float32(regions.attribute_scores),
    }


def write_hdf5(path: Path, _description: SourceDescription) -> Rows:
    """Write the arrays, which grow with each image, and the list of images."""
    import h5py

    path.mkdir()
    count = 0
    with (
        h5py.File(path / "features.h5", "x") as file,
        (path / "features.json").open("x", encoding="utf-8") as images,
    ):
        while (sample := (yield)) is not None:
            rows = hdf5_arrays(sample)
            if not count:
                for name, row in rows.items():
                    file.create_dataset(
                        name, (0, *row.shape), row.dtype, maxshape=(None, *row.shape), chunks=(1, *row.shape)
                    )
            regions = file["boxes"].shape[1]
            if len(sample.regions) != regions:
                raise ShardError(
                    f"sample {sample.key} has {len(sample.regions)} regions and earlier samples have {regions}; the "
                    "format "
                    "has one region count for all images: choose another format, or use `vilbert convert --max-boxes`"
                )
            for name, row in rows.items():
                if count % _ROWS_AT_ONCE == 0:
                    file[name].resize(count + _ROWS_AT_ONCE, axis=0)
                file[name][count] = row
            size = {"img_id": sample.meta["image_id"], "img_h": sample.regions.height, "img_w": sample.regions.width}
            images.write(f"{',' if count else '['}\n{json.dumps(size)}")
            count += 1
        for name in file:
            file[name].resize(count, axis=0)
        images.write("\n]\n" if count else "[]\n")


class Hdf5Exporter:
    """An `Exporter` that checks for its package before it writes."""

    def create(self, path: Path, description: SourceDescription) -> StagedWriter:
        """Create a folder; RefusedError if h5py is not installed or a field is missing."""
        try:
            import h5py  # noqa: F401
        except ImportError as error:
            raise RefusedError("hdf5 needs the package h5py: pip install 'vilbert-pipeline[hdf5]'") from error
        return StreamExporter(write=write_hdf5, fields=LXMERT_FIELDS).create(path, description)


def exporter() -> Hdf5Exporter:
    """Return the exporter."""
    return Hdf5Exporter()
