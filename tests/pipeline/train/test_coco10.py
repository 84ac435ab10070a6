"""Real features: the published regions of ten COCO photographs become a data set and train."""

from __future__ import annotations

import base64
import csv
import json
import math
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vilbert.extractors.regions import Regions
from vilbert.pipeline.cli import main
from vilbert.pipeline.shards.dataset import DatasetInfo, fingerprint_digest, sum_records, sum_splits, write_dataset
from vilbert.pipeline.shards.record import records_digest
from vilbert.pipeline.shards.sample import Sample, describe_fields
from vilbert.pipeline.shards.storage.writer import ShardWriter
from vilbert.pipeline.train.run.journal import read_journal

COCO10 = Path(__file__).parents[4] / "shared" / "data" / "coco10"
COLUMNS = (
    "image_id", "height", "width", "object_ids", "object_scores", "attribute_ids", "attribute_scores", "boxes_count",
    "boxes", "features",
)  # fmt: skip
CLASSES, FEATURES = 1601, 2048
MODEL = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "max_position_embeddings": 40, "v_hidden_size": 32, "v_num_hidden_layers": 1, "v_num_attention_heads": 2,
    "v_intermediate_size": 32, "bi_hidden_size": 32, "bi_num_attention_heads": 2, "v_biattention_id": [0],
    "t_biattention_id": [1],
}  # fmt: skip
STEPS = 20

pytestmark = pytest.mark.skipif(not COCO10.is_dir(), reason="the ten COCO photographs are not beside the project")


def decode(text: str, dtype: type[np.generic], boxes: int) -> NDArray[Any]:
    """Return an array [boxes, …] of the file's base64; [boxes] where there is one number a box."""
    array = np.frombuffer(base64.b64decode(text), dtype=dtype)
    return array if len(array) == boxes else array.reshape(boxes, -1)


def published_samples() -> Iterator[Sample]:
    """Yield the file's images with their captions.

    It numbers 1600 object classes from 0, where ours begin with the background, and keeps the most probable one alone.
    """
    captions = defaultdict(list)
    for annotation in json.loads((COCO10 / "captions_sample.json").read_text())["annotations"]:
        captions[annotation["image_id"]].append(annotation["caption"])
    csv.field_size_limit(sys.maxsize)
    with (COCO10 / "train2014_obj36.tsv").open(newline="") as file:
        for row in csv.DictReader(file, COLUMNS, delimiter="\t"):
            boxes = int(row["boxes_count"])
            object_ids = (decode(row["object_ids"], np.int64, boxes) + 1).astype(np.uint16)
            scores = decode(row["object_scores"], np.float32, boxes)
            yield Sample(
                key=row["image_id"],
                regions=Regions(
                    boxes=decode(row["boxes"], np.float32, boxes),
                    features=decode(row["features"], np.float32, boxes).astype(np.float16),
                    object_ids=object_ids,
                    object_scores=scores,
                    class_ids=object_ids[:, None],
                    class_probs=scores[:, None].astype(np.float16),
                    width=int(row["width"]),
                    height=int(row["height"]),
                ),
                meta={
                    "image_id": row["image_id"],
                    "captions": captions[int(row["image_id"].rpartition("_")[2])],
                    "split": "train",
                },
            )


def write_published(folder: Path) -> Path:
    """Write the ten images as a data set of one shard and return its folder."""
    samples = list(published_samples())
    fields = {"features": "train2014_obj36.tsv"}
    info = DatasetInfo(
        storage="tar",
        shard_size=len(samples),
        rows=len(samples),
        manifest="captions_sample.json",
        manifest_hash="0" * 64,
        fields=describe_fields(feature_dim=FEATURES, top_classes=1, attributes=False),
        feature_dim=FEATURES,
        class_names=("background", *(f"object {number}" for number in range(CLASSES - 1))),
        attribute_names=(),
        fingerprint=fingerprint_digest(fields),
        fingerprint_fields=fields,
        software={},
    )
    with ShardWriter(folder, shard=0, format="tar") as writer:
        for sample in samples:
            writer.add(sample)
        records = [writer.commit(rows=(0, len(samples)), failures=[], fingerprint=info.fingerprint)]
    digest, splits, totals = records_digest(records), sum_splits(records), sum_records(records)
    write_dataset(folder, replace(info, complete=True, records_sha256=digest, splits=splits, totals=totals))
    return folder


def test_real_features_train(tmp_path: Path) -> None:
    data, output = write_published(tmp_path / "data"), tmp_path / "run"
    (tmp_path / "model.json").write_text(json.dumps(MODEL))
    options = [
        "--model", str(tmp_path / "model.json"), "--tokenizer", "new", "--init-from", "none", "--eval-split", "none",
        "--batch-size", "10", "--max-steps", str(STEPS), "--log-every", "1", "--num-workers", "1", "--device", "cpu",
        "--learning-rate", "0.01", "--tracker", "none",
    ]  # fmt: skip
    assert main(["verify", str(data), "--deep"]) == 0
    assert main(["pretrain", str(data), "--output", str(output), *options]) == 0
    entries = [entry for entry in read_journal(output) if entry["kind"] == "train"]
    assert [entry["step"] for entry in entries] == list(range(1, STEPS + 1))
    assert all(math.isfinite(entry["loss"]) for entry in entries)
    assert entries[-1]["loss"] < entries[0]["loss"]
    assert all(entry["masked_image_loss"] > 0 for entry in entries)
    config = json.loads((output / "final" / "config.json").read_text())
    assert (config["v_feature_size"], config["v_target_size"]) == (FEATURES, CLASSES)
