"""VinVL's TSVs, each with an index of its rows, in the two layouts that Oscar reads.

Captioning: a folder with `feature.tsv` (image id, JSON of num_boxes and features in base64), `label.tsv` (classes,
scores, boxes), `hw.tsv` (image sizes), `caption.json`, and `dataset.yaml`, which names them.

Pre-training, retrieval and VQA: a folder with `features.tsv` (image id, num_boxes, features in base64),
`predictions.tsv` (image size, classes, scores, boxes), and `imageid2idx.json` (row numbers).

A `.lineidx` beside each TSV has the byte offset of each row. Features have six columns more than those of the detector:
the corners, width and height of the box as fractions of the image. Source: microsoft/Oscar `oscar/run_captioning.py`,
`oscar/run_retrieval.py`, `oscar/datasets/oscar_tsv.py`, `oscar/utils/tsv_file.py`.
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
    """A TSV and its index of rows."""

    def __init__(self, files: ExitStack, path: Path) -> None:
        self._rows: BinaryIO = files.enter_context(path.open("xb"))
        self._index: BinaryIO = files.enter_context(path.with_suffix(".lineidx").open("xb"))

    def write(self, *columns: str) -> None:
        """Append a row."""
        self._index.write(b"%d\n" % self._rows.tell())
        self._rows.write("\t".join(columns).encode() + b"\n")


def features_text(sample: Sample) -> str:
    """Return the features of the regions and their boxes, float32 [N, D + 6] in base64."""
    return base64_text(np.concatenate([float32(sample.regions.features), normalised_boxes(sample)], axis=1))


def labels(sample: Sample, class_names: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return class, score and box of each region."""
    regions = sample.regions
    assert regions.object_scores is not None
    return [
        {"class": class_names[number + 1], "conf": score, "rect": box}
        for number, score, box in zip(
            foreground_ids(sample), regions.object_scores.tolist(), regions.boxes.tolist(), strict=True
        )
    ]


def write_captioning(path: Path, description: SourceDescription) -> Rows:
    """Write the folder for captioning."""
    path.mkdir()
    (path / "dataset.yaml").write_text(_YAML, encoding="utf-8")
    with ExitStack() as files:
        feature, label, sizes = (IndexedTsv(files, path / f"{name}.tsv") for name in ("feature", "label", "hw"))
        captions = files.enter_context((path / "caption.json").open("x", encoding="utf-8"))
        separator = "["
        while (sample := (yield)) is not None:
            image_id, regions = tsv_text(sample), sample.regions
            feature.write(image_id, json.dumps({"num_boxes": len(regions), "features": features_text(sample)}))
            label.write(image_id, json.dumps(labels(sample, description.class_names)))
            sizes.write(image_id, json.dumps([{"height": regions.height, "width": regions.width}]))
            for caption in captions_of(sample, path):
                captions.write(f"{separator}\n{json.dumps({'image_id': image_id, 'caption': caption})}")
                separator = ","
        captions.write("[]\n" if separator == "[" else "\n]\n")


def write_pretraining(path: Path, description: SourceDescription) -> Rows:
    """Write the folder for pre-training, retrieval and VQA."""
    path.mkdir()
    with ExitStack() as files:
        features, predictions = (IndexedTsv(files, path / f"{name}.tsv") for name in ("features", "predictions"))
        rows = files.enter_context((path / "imageid2idx.json").open("x", encoding="utf-8"))
        count = 0
        while (sample := (yield)) is not None:
            image_id, regions = tsv_text(sample), sample.regions
            found = {
                "image_h": regions.height,
                "image_w": regions.width,
                "objects": labels(sample, description.class_names),
            }
            features.write(image_id, str(len(regions)), features_text(sample))
            predictions.write(image_id, json.dumps(found))
            rows.write(f"{',' if count else '{'}\n{json.dumps(image_id)}: {count}")
            count += 1
        rows.write("\n}\n" if count else "{}\n")


_FIELDS = ("object_ids", "object_scores")


def exporter() -> StreamExporter:
    """Return the exporter of the files for captioning."""
    return StreamExporter(write=write_captioning, fields=_FIELDS, class_names=True)


def pretraining_exporter() -> StreamExporter:
    """Return the exporter of the files for pre-training, retrieval and VQA."""
    return StreamExporter(write=write_pretraining, fields=_FIELDS, class_names=True)
