"""Published features: the regions of ten COCO photographs are imported with their captions, and train."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from vilbert.pipeline.cli import main
from vilbert.pipeline.shards.open_dataset import open_dataset
from vilbert.pipeline.train.run.journal import read_journal

COCO10 = Path(__file__).parents[4] / "shared" / "data" / "coco10"
MODEL = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "max_position_embeddings": 40, "v_hidden_size": 32, "v_num_hidden_layers": 1, "v_num_attention_heads": 2,
    "v_intermediate_size": 32, "bi_hidden_size": 32, "bi_num_attention_heads": 2, "v_biattention_id": [0],
    "t_biattention_id": [1],
}  # fmt: skip
STEPS = 20

pytestmark = pytest.mark.skipif(not COCO10.is_dir(), reason="the ten COCO photographs are not beside the project")


def test_published_features_are_imported_and_train(tmp_path: Path) -> None:
    data, output = tmp_path / "data", tmp_path / "run"
    source, captions = COCO10 / "train2014_obj36.tsv", COCO10 / "captions_sample.json"
    arguments = [str(source), "--number-ids", "--join", str(captions), "--output", str(data)]
    assert main(["convert", *arguments, "--feature-dtype", "float16"]) == 0
    assert main(["verify", str(data), "--deep"]) == 0
    with open_dataset(data) as dataset:
        assert all(sample.meta["captions"] and sample.meta["split"] == "train" for sample in dataset)
    (tmp_path / "model.json").write_text(json.dumps(MODEL))
    options = [
        "--model", str(tmp_path / "model.json"), "--tokenizer", "new", "--init-from", "none", "--eval-split", "none",
        "--batch-size", "10", "--max-steps", str(STEPS), "--log-every", "1", "--num-workers", "1", "--device", "cpu",
        "--learning-rate", "0.01", "--tracker", "none",
    ]  # fmt: skip
    # The file has no class probabilities, so masked regions predict their features.
    assert main(["pretrain", str(data), "--output", str(output), *options]) == 0
    entries = [entry for entry in read_journal(output) if entry["kind"] == "train"]
    assert [entry["step"] for entry in entries] == list(range(1, STEPS + 1))
    assert all(math.isfinite(entry["loss"]) for entry in entries)
    assert entries[-1]["loss"] < entries[0]["loss"]
    assert all(entry["masked_image_loss"] > 0 for entry in entries)
    config = json.loads((output / "final" / "config.json").read_text())
    assert (config["v_feature_size"], config["visual_target"]) == (2048, 1)
