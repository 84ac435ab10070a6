"""Published features are converted, verified, pre-trained on and fine-tuned on like a data set of `vilbert extract`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vilbert.pipeline.cli import main
from vilbert.pipeline.shards.open_dataset import open_dataset

from ..train.tiny_runs import MODEL, pretrain_arguments
from .formats.importers.published import pictures, tsv

COCO10 = Path(__file__).resolve().parents[4] / "shared/data/coco10"


def run(*arguments: object) -> None:
    assert main([*map(str, arguments)]) == 0


def pretrain(folder: Path, data: Path, *, visual_target: int) -> None:
    """Pre-train a tiny model on a data set for two steps."""
    (folder / "model.json").write_text(json.dumps({**MODEL, "visual_target": visual_target}))
    sizes = {"steps": 2, "batch_size": 2, "eval_every": 2, "save_every": 2}
    arguments = pretrain_arguments([data], folder / "run", folder / "model.json", **sizes)
    run(*arguments, "--eval-split", "none", "--max-regions", 12)


def finetune(folder: Path, data: Path, captions: dict[str, list[str]]) -> None:
    """Fine-tune the model to write captions for two steps."""
    lines = [json.dumps({"id": image_id, "sentences": texts}) for image_id, texts in captions.items()]
    (folder / "captions.jsonl").write_text("\n".join(lines))
    run(
        "finetune", "captioning", data, "--annotations", folder / "captions.jsonl", "--init-from", folder / "run/final",
        "--output", folder / "captioning", "--batch-size", 2, "--max-steps", 2, "--eval-split", "none", "--num-workers",
        0, "--device", "cpu", "--tracker", "none", "--max-regions", 12, "--max-tokens", 12,
    )  # fmt: skip
    assert (folder / "captioning/final").is_dir()


def test_class_probabilities_and_joined_captions(tmp_path: Path) -> None:
    found = pictures(6)
    (tmp_path / "train.tsv").write_bytes(tsv(found, 7))
    captions = {str(number): [f"a picture of {number} things", "a picture"] for number in range(1, 7)}
    joined = [{"image_id": image_id, "captions": texts, "split": "train"} for image_id, texts in captions.items()]
    (tmp_path / "captions.jsonl").write_text("\n".join(map(json.dumps, joined)))
    data = tmp_path / "data"
    run(
        "convert", tmp_path / "train.tsv", "--output", data, "--number-ids", "--join", tmp_path / "captions.jsonl",
        "--shard-size", 4,
    )  # fmt: skip
    run("verify", data, "--deep")
    with open_dataset(data) as dataset:
        assert [sample.meta["image_id"] for sample in dataset] == list(captions)
        assert dataset[2].meta["captions"] == captions["3"]
        assert dataset.info.class_names[:2] == ("background", "class 1")
    pretrain(tmp_path, data, visual_target=0)


@pytest.mark.skipif(not COCO10.is_dir(), reason="../shared/data/coco10 is not here")
def test_the_published_features_of_ten_coco_images(tmp_path: Path) -> None:
    data = tmp_path / "data"
    run(
        "convert", COCO10 / "train2014_obj36.tsv", "--output", data, "--number-ids", "--join",
        COCO10 / "captions_sample.json",
    )  # fmt: skip
    run("verify", data, "--deep")
    with open_dataset(data) as dataset:
        assert dataset.info.format == 2  # no class probabilities, float32
        captions = {sample.meta["image_id"]: sample.meta["captions"] for sample in dataset}
    assert len(captions) == 10
    assert all(captions.values())
    pretrain(tmp_path, data, visual_target=1)
    finetune(tmp_path, data, captions)
