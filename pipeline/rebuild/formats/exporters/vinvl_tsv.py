"""VinVL's TSVs, as Oscar's captioning reads them, each with an index of its rows.

A folder: `feature.tsv` (image id, JSON of num_boxes and features in base64), `label.tsv` (classes, scores, boxes),
`hw.tsv` (image sizes), a `.lineidx` beside each with the byte at which each row begins, `caption.json`, and
`dataset.yaml`, which names them. Features have six columns more than the detector's: the corners, width and height of
the box as fractions of the image. Source: microsoft/Oscar `oscar/run_captioning.py`, `oscar/utils/tsv_file.py`.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from vilbert.pipeline.rebuild.formats.exporters.staging import Rows
from vilbert.pipeline.rebuild.formats.exporters.stream import StreamExporter, float32, foreground_ids, tsv_text
from vilbert.pipeline.rebuild.formats.exporters.tsv import base64_text
from vilbert.pipeline.rebuild.formats.exporters.uniter_lmdb import normalised_boxes
from vilbert.pipeline.rebuild.source import SourceDescription
from vilbert.pipeline.shards.sample import Sample, captions_of

_YAML = "feature: feature.tsv\nlabel: label.tsv\nhw: hw.tsv\ncaption: caption.json\n"


class IndexedTsv:
    """A TSV of two columns, image id and JSON, and its index of rows."""

    def __init__(self, files: ExitStack, path: Path) -> None:
        self._rows: BinaryIO = files.enter_context(path.open("xb"))
        self._index: BinaryIO = files.enter_context(path.with_suffix(".lineidx").open("xb"))

    def write(self, image_id: str, value: Any) -> None:
        """Append a row."""
        self._index.write(b"%d\n" % self._rows.tell())
        self._rows.write(f"{image_id}\t{json.dumps(value)}\n".encode())


def feature_row(sample: Sample) -> dict[str, Any]:
    """Return the number of regions and their features, float32 [N, D + 6] in base64."""
    features = np.concatenate([float32(sample.regions.features), normalised_boxes(sample)], axis=1)
    return {"num_boxes": len(sample.regions), "features": base64_text(float32(features))}


def label_row(sample: Sample, class_names: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return class, score and box of each region."""
    regions = sample.regions
    assert regions.object_scores is not None
    return [
        {"class": class_names[number + 1], "conf": score, "rect": box}
        for number, score, box in zip(
            foreground_ids(sample), regions.object_scores.tolist(), regions.boxes.tolist(), strict=True
        )
    ]


def write_vinvl(path: Path, description: SourceDescription) -> Rows:
    """Write the folder."""
    path.mkdir()
    (path / "dataset.yaml").write_text(_YAML, encoding="utf-8")
    with ExitStack() as files:
        features, labels, sizes = (IndexedTsv(files, path / f"{name}.tsv") for name in ("feature", "label", "hw"))
        captions = files.enter_context((path / "caption.json").open("x", encoding="utf-8"))
        separator = "["
        while (sample := (yield)) is not None:
            image_id = tsv_text(sample)
            features.write(image_id, feature_row(sample))
            labels.write(image_id, label_row(sample, description.class_names))
            sizes.write(image_id, [{"height": sample.regions.height, "width": sample.regions.width}])
            for caption in captions_of(sample, path):
                captions.write(f"{separator}\n{json.dumps({'image_id': image_id, 'caption': caption})}")
                separator = ","
        captions.write("[]\n" if separator == "[" else "\n]\n")


def exporter() -> StreamExporter:
    """Return the exporter."""
    return StreamExporter(write=write_vinvl, fields=("object_ids", "object_scores"), class_names=True)
