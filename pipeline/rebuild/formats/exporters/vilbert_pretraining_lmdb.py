"""The LMDB for pre-training of ViLBERT: tensorpack's LMDBSerializer with msgpack, one record per caption.

A folder with one LMDB file and one JSON of captions, named as the reference's loader expects them. Sources:
jiasenlu/vilbert_beta `script/conceptual_caption_preprocess_sequential_train.py` and `concept_cap_dataset.py`;
tensorpack/tensorpack `dataflow/serialize.py`, with its serialiser `msgpack`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.rebuild.formats.exporters.lmdb_file import new_lmdb
from vilbert.pipeline.rebuild.formats.exporters.msgpacks import encode_msgpack
from vilbert.pipeline.rebuild.formats.exporters.staging import Rows
from vilbert.pipeline.rebuild.formats.exporters.stream import StreamExporter, class_distributions, float32
from vilbert.pipeline.rebuild.source import SourceDescription
from vilbert.pipeline.shards.sample import Sample, captions_of

TRAINING = ("training_feat_all.lmdb", "caption_train.json")
VALIDATION = ("validation_feat_all.lmdb", "caption_val.json")


def records_of(sample: Sample, description: SourceDescription) -> Iterator[list[Any]]:
    """Yield the records of an image, one per caption.

    Raises:
        ShardError: The image has no caption.
    """
    captions = captions_of(sample, Path(sample.key))
    if not captions:
        raise ShardError(
            f"sample {sample.key} has no caption, which a record of the format needs; add captions with "
            "`vilbert convert --join` first"
        )
    regions = sample.regions
    features, boxes = float32(regions.features), float32(regions.boxes)
    probabilities = class_distributions(sample, description)
    sizes = [str(size) for size in (len(regions), regions.height, regions.width)]
    for caption in captions:
        yield [features, probabilities, boxes, *sizes, sample.meta["image_id"], caption]


def write_records(path: Path, description: SourceDescription) -> Rows:
    """Write the LMDB and the captions; their names depend on whether all samples are of a validation split."""
    path.mkdir()
    numbers = count()
    splits: set[str] = set()
    database, captions = (path / name for name in TRAINING)
    with new_lmdb(database, subdir=False) as put, captions.open("x", encoding="utf-8") as file:
        while (sample := (yield)) is not None:
            splits.add(str(sample.meta.get("split", "")))
            for repeat, record in enumerate(records_of(sample, description)):
                number = next(numbers)
                put(f"{number:08}".encode(), encode_msgpack(record))
                # The loader draws a wrong caption by the number of a record, so there is one entry for each record.
                entry = record[-2] if not repeat else f"{record[-2]}#{repeat}"
                file.write(f"{',' if number else '{'}\n{json.dumps(entry)}: {json.dumps(record[-1])}")
        total = next(numbers)
        put(b"__keys__", encode_msgpack([f"{number:08}".encode() for number in range(total)]))
        file.write("\n}\n" if total else "{}\n")
    if splits <= {"val", "validation"} and splits:
        database.rename(path / VALIDATION[0])
        captions.rename(path / VALIDATION[1])


def exporter() -> StreamExporter:
    """Return the exporter."""
    return StreamExporter(write=write_records, fields=("class_ids", "class_probs"), class_names=True)
