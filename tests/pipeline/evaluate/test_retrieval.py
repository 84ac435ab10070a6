"""`vilbert evaluate retrieval`: zero-shot by a pre-trained model, and images that cannot be read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from vilbert.model.config import ViLBertConfig
from vilbert.model.tasks import ViLBertForTasks
from vilbert.model.vilbert import ViLBertForPreTraining
from vilbert.pipeline.cli import main
from vilbert.pipeline.tasks.captioned_images import read_captioned_images
from vilbert.pipeline.tasks.join import Images
from vilbert.pipeline.tasks.retrieval.ranks import retrieval_figures
from vilbert.pipeline.tasks.retrieval.task import RetrievalTask
from vilbert.pipeline.tasks.task_card import TaskCard, write_task_cards
from vilbert.pipeline.train.data.corpus import Corpus
from vilbert.pipeline.train.examples.words import new_tokenizer

from ..tasks.small_tasks import CHANNELS, MODEL, PICTURES, finetune_arguments, sentence

IMAGES = 9
NPY = b"\x93NUMPY"
"""Begins every array of a shard."""


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return new_tokenizer([sentence(picture) for picture in range(PICTURES)])


@pytest.fixture(scope="module")
def pretrained(tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder as `vilbert convert-checkpoint` makes it, with a tokenizer, and no run around it."""
    folder = tmp_path_factory.mktemp("converted") / "published"
    torch.manual_seed(0)
    sizes = {"vocab_size": len(tokenizer), "v_feature_size": CHANNELS, "max_position_embeddings": 40}
    ViLBertForPreTraining(ViLBertConfig(**{**MODEL, **sizes})).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def arguments(small: Path, checkpoint: Path, *options: str) -> list[str]:
    return [
        "evaluate", "retrieval", str(small / "features"), "--annotations", str(small / "captions"), "--checkpoint",
        str(checkpoint), "--images", str(IMAGES), "--device", "cpu", "--json", *options,
    ]  # fmt: skip


def test_a_published_model_ranks_by_its_alignment_head(
    small: Path,
    pretrained: Path,
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ranked = tmp_path / "ranked.json"
    assert main(arguments(small, pretrained, "--zero-shot", "--output", str(ranked))) == 0
    said = json.loads(capsys.readouterr().out)

    captioned = read_captioned_images(small / "captions", "val")[:IMAGES]
    images = Images(Corpus.open([str(small / "features")], split=None, on_corrupt="stop", cache_dir=tmp_path / "cache"))
    model = ViLBertForPreTraining.from_pretrained(pretrained).eval()
    scores = np.zeros((IMAGES, IMAGES), dtype=np.float32)
    for row, text in enumerate(captioned):
        words = tokenizer(text.captions[0], return_tensors="pt")
        for column, image in enumerate(captioned):
            (example,) = images.read([image.image_id])
            scores[row, column] = alignment(model, words, example)
    expected = retrieval_figures(scores, np.arange(IMAGES))
    assert len(np.unique(scores.round(6))) > IMAGES  # pairs differ
    assert said == {**{name: pytest.approx(value) for name, value in expected.items()}, "left_out": 0}
    best = [captioned[at].image_id for at in scores.argmax(1)]
    assert [row["ranked"][0] for row in json.loads(ranked.read_bytes())] == best


def test_a_fine_tuned_model_is_no_zero_shot(
    small: Path, pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tuned = Path(shutil.copytree(pretrained, tmp_path / "tuned"))
    card = TaskCard(task="retrieval", labels=(), max_words=16, max_regions=8, seed=0)
    write_task_cards(tuned, [card])
    assert main(arguments(small, tuned, "--zero-shot")) == 2
    assert "was fine-tuned" in capsys.readouterr().err


def test_a_published_fine_tuned_model_is_none_either(
    small: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_tuned(tmp_path / "tuned", tokenizer)
    (folder / "task.json").unlink()
    assert main(arguments(small, folder, "--zero-shot")) == 2
    assert "was fine-tuned" in capsys.readouterr().err


def test_a_model_without_an_alignment_head_is_refused(
    small: Path, pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(pretrained, tmp_path / "backbone"))
    ViLBertForPreTraining.from_pretrained(pretrained).bert.save_pretrained(folder)
    assert main(arguments(small, folder, "--zero-shot")) == 2
    assert "give a training run" in capsys.readouterr().err


def test_images_that_cannot_be_read_are_left_out_and_counted(
    small: Path,
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = write_tuned(tmp_path / "tuned", tokenizer)
    lost = tmp_path / "lost"
    shutil.copytree(small, lost)
    shard = lost / "features" / "shards" / "000000.tar"
    parts = shard.read_bytes().split(NPY)
    half = len(parts) // 2
    shard.write_bytes(NPY.join(parts[:half]) + NPY.lower().join([b"", *parts[half:]]))
    ranked = tmp_path / "ranked.json"
    chosen = [
        "--no-verify-shards",
        "--on-corrupt",
        "skip",
        "--images",
        "60",
        "--output",
        str(ranked),
        "--max-missing-fraction",
        "0.9",
    ]
    assert main(arguments(lost, folder, *chosen)) == 0
    said = json.loads(capsys.readouterr().out)
    captioned = read_captioned_images(small / "captions", "val")[:60]
    rows = json.loads(ranked.read_bytes())
    there = [row["image_id"] for row in rows]
    assert {image.image_id for image in captioned if int(image.image_id) >= 300} < set(there)
    assert 20 < said["left_out"] == 60 - len(there) < 30
    assert "images cannot be read; recall is computed over the other" in caplog.text
    assert main(arguments(lost, folder, *chosen[:-1], "0.3")) == 2
    assert "more than --max-missing-fraction 0.3 allows" in capsys.readouterr().err
    assert {image for row in rows for image in row["ranked"]} <= set(there)


def test_wrong_images_are_drawn_from_those_with_features(small: Path) -> None:
    task = RetrievalTask("retrieval", read_captioned_images(small / "captions", "train"))
    everything = [task.rows(number, np.uint64(number * 77)) for number in range(60)]
    task.draw_from({image.image_id for image in task.captioned})
    assert [task.rows(number, np.uint64(number * 77)) for number in range(60)] == everything
    there = {image.image_id for image in task.captioned[::7]}
    task.draw_from(there)
    texts = {text for image in task.captioned if image.image_id in there for text in image.captions}
    for number, item in enumerate(task.items):
        if item.image_id in there:
            rows = task.rows(number, np.uint64(number * 77))
            assert set(rows.images) <= there
            assert rows.images[2] != item.image_id
            assert {text for (text,) in rows.texts} <= texts


def test_a_blind_model_learns_retrieval_where_some_images_have_no_features(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    captions = json.loads((small / "captions" / "dataset_coco.json").read_text())
    gone = {**captions["images"][1], "cocoid": 5000, "filename": "COCO_val2014_000000005000.jpg"}
    (tmp_path / "captions").mkdir()
    whole = {**captions, "images": [*captions["images"], *[{**gone, "cocoid": 5000 + n} for n in range(400)]]}
    (tmp_path / "captions" / "dataset_coco.json").write_text(json.dumps(whole))
    command = finetune_arguments(small, "retrieval", tmp_path / "run", steps=4)
    changed = ["--annotations", str(tmp_path / "captions"), "--max-missing-fraction", "0.5", "--blind"]
    assert main([*command, *changed]) == 0
    capsys.readouterr()


def write_tuned(folder: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    """Write an untrained model of retrieval as a run leaves it."""
    torch.manual_seed(0)
    sizes = {"vocab_size": len(tokenizer), "v_feature_size": CHANNELS, "max_position_embeddings": 40}
    ViLBertForTasks(ViLBertConfig(**{**MODEL, **sizes})).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_task_cards(folder, [TaskCard(task="retrieval", labels=(), max_words=16, max_regions=8, seed=0)])
    return folder


@torch.inference_mode()
def alignment(model: ViLBertForPreTraining, words: Any, example: Any) -> float:
    """Return how much more probable it is to the model that the two belong together, one pair at a time."""
    features = torch.tensor(example.features).float()
    shares = torch.tensor(example.boxes) / torch.tensor([example.width, example.height] * 2)
    area = (shares[:, 2] - shares[:, 0]) * (shares[:, 3] - shares[:, 1])
    places = torch.cat([shares, area[:, None]], dim=1)
    output = model(
        words["input_ids"],
        torch.cat([features.mean(0, keepdim=True), features])[None],
        torch.cat([torch.tensor([[0.0, 0, 1, 1, 1]]), places])[None],
        words["token_type_ids"],
        words["attention_mask"],
    )
    match, other = output.alignment_scores[0].tolist()
    return match - other
