"""The TSVs of Bottom-Up Attention and LXMERT: one image per row, arrays in base64.

No header; rows end in CR LF, as written by Python's csv module. Sources: peteanderson80/bottom-up-attention
`tools/generate_tsv.py`, jiasenlu's fork of it (the seventh column), airsplay/lxmert `src/utils.py`.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vilbert.pipeline.rebuild.formats.exporters.staging import Rows
from vilbert.pipeline.rebuild.formats.exporters.stream import (
    StreamExporter,
    class_distributions,
    float32,
    foreground_ids,
    has_classes,
    tsv_text,
)
from vilbert.pipeline.rebuild.source import SourceDescription
from vilbert.pipeline.shards.sample import Sample

LXMERT_FIELDS = ("object_ids", "object_scores", "attribute_ids", "attribute_scores")


def base64_text(array: NDArray[Any]) -> str:
    """Return the bytes of an array in base64."""
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")


def bottom_up_row(sample: Sample, description: SourceDescription) -> dict[str, str]:
    """Return the columns of Bottom-Up Attention; `cls_prob` only if the data set has class probabilities."""
    regions = sample.regions
    row = {
        "image_id": sample.meta["image_id"],
        "image_w": str(regions.width),
        "image_h": str(regions.height),
        "num_boxes": str(len(regions)),
        "boxes": base64_text(float32(regions.boxes)),
        "features": base64_text(float32(regions.features)),
    }
    if has_classes(description):
        row["cls_prob"] = base64_text(class_distributions(sample, description))
    return row


def lxmert_row(sample: Sample, _description: SourceDescription) -> dict[str, str]:
    """Return the columns of LXMERT. Class ids start at 0, without the background."""
    regions = sample.regions
    assert regions.object_scores is not None
    assert regions.attribute_ids is not None
    assert regions.attribute_scores is not None
    return {
        "img_id": sample.meta["image_id"],
        "img_h": str(regions.height),
        "img_w": str(regions.width),
        "objects_id": base64_text(foreground_ids(sample)),
        "objects_conf": base64_text(float32(regions.object_scores)),
        "attrs_id": base64_text(regions.attribute_ids.astype("<i8")),
        "attrs_conf": base64_text(float32(regions.attribute_scores)),
        "num_boxes": str(len(regions)),
        "boxes": base64_text(float32(regions.boxes)),
        "features": base64_text(float32(regions.features)),
    }


def write_tsv(
    path: Path, description: SourceDescription, row: Callable[[Sample, SourceDescription], Mapping[str, str]]
) -> Rows:
    """Write a TSV with the columns that `row` returns."""
    with path.open("xb") as file:
        while (sample := (yield)) is not None:
            tsv_text(sample)
            file.write("\t".join(row(sample, description).values()).encode() + b"\r\n")


def bottom_up_exporter() -> StreamExporter:
    """Return the exporter of Bottom-Up Attention's TSV."""
    return StreamExporter(write=partial(write_tsv, row=bottom_up_row))


def lxmert_exporter() -> StreamExporter:
    """Return the exporter of LXMERT's TSV."""
    return StreamExporter(write=partial(write_tsv, row=lxmert_row), fields=LXMERT_FIELDS)
