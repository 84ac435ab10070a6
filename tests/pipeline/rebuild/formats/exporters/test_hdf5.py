"""HDF5, read as VisualBERT's code describes it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from vilbert.pipeline.errors import RefusedError, ShardError

from .conftest import Write, make_samples, without


@pytest.fixture
def folder(write: Write) -> Path:
    """Three images of four regions each."""
    pytest.importorskip("h5py")
    return write("hdf5", make_samples(boxes=(4, 4, 4)), name="hdf5")


def test_arrays_over_all_images(folder: Path) -> None:
    import h5py

    samples = make_samples(boxes=(4, 4, 4))
    images = json.loads((folder / "features.json").read_text())
    assert images == [{"img_id": sample.meta["image_id"], "img_h": 90, "img_w": 120} for sample in samples]
    with h5py.File(folder / "features.h5") as file:
        kinds = {name: (array.dtype, array.shape) for name, array in file.items()}
        assert kinds == {
            "features": ("<f4", (3, 4, 8)),
            "boxes": ("<f4", (3, 4, 4)),
            **dict.fromkeys(("objects_id", "attrs_id"), ("<i8", (3, 4))),
            **dict.fromkeys(("objects_conf", "attrs_conf"), ("<f4", (3, 4))),
        }
        for number, sample in enumerate(samples):
            regions = sample.regions
            assert np.array_equal(file["features"][number], regions.features)
            assert np.array_equal(file["boxes"][number], regions.boxes)
            assert np.array_equal(file["objects_id"][number] + 1, regions.object_ids)
            assert np.array_equal(file["objects_conf"][number], regions.object_scores)
            assert np.array_equal(file["attrs_id"][number], regions.attribute_ids)
            assert np.array_equal(file["attrs_conf"][number], regions.attribute_scores)


def test_images_with_other_numbers_of_regions_are_refused(write: Write) -> None:
    pytest.importorskip("h5py")
    with pytest.raises(ShardError, match="sample 300 has 5 regions and earlier samples have 4"):
        write("hdf5", make_samples(boxes=(4, 4, 5)))


def test_it_refuses_what_it_needs_by_its_names(write: Write) -> None:
    pytest.importorskip("h5py")
    with pytest.raises(RefusedError, match="needs attribute_ids, attribute_scores, which"):
        write("hdf5", [], without("attribute_ids", "attribute_scores"))


def test_without_h5py_it_names_the_extra(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(RefusedError, match=r"vilbert-pipeline\[hdf5\]"):
        write("hdf5", make_samples())
