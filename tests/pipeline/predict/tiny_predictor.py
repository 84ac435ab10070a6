"""A few scenes of the shapes data set, and tiny models of every task that can be asked about them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from vilbert.extractors.extractor import DetectorSettings
from vilbert.extractors.selection import SelectionSettings
from vilbert.model.config import ViLBertConfig
from vilbert.model.tasks import ViLBertForTasks
from vilbert.pipeline.cli import main
from vilbert.pipeline.predict.predictor import Predictor
from vilbert.pipeline.shapes.write import ShapesSettings, write_shapes
from vilbert.pipeline.tasks.task_card import TaskCard, write_task_cards
from vilbert.pipeline.train.examples.words import load_tokenizer, save_tokenizer

DETECTOR = DetectorSettings(detector="shapes", device="cpu")
SELECTION = SelectionSettings(boxes="2-20", confidence=0.5, nms=0.5)
OPTIONS = ("--detector", "shapes", "--boxes", "2-20", "--confidence", "0.5", "--nms", "0.5", "--device", "cpu")
WORDS = "what colour is the a of red blue green cyan pink circle square ring star heart left right object small large"
SIZES: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
    "max_position_embeddings": 24, "v_feature_size": 256, "v_target_size": 11, "v_hidden_size": 16,
    "v_num_hidden_layers": 2, "v_num_attention_heads": 4, "v_intermediate_size": 24, "bi_hidden_size": 16,
    "bi_num_attention_heads": 2, "v_biattention_id": [0, 1], "t_biattention_id": [0, 1], "num_answers": 12,
    "num_gqa_answers": 3,
}  # fmt: skip
LABELS = {"vqa": tuple(f"answer {number}" for number in range(12)), "gqa": ("yes", "no", "left")}


def write_scenes(folder: Path) -> list[Path]:
    """Write ten scenes and return the photographs, eight of them to train, by id."""
    write_shapes(ShapesSettings(output=folder, scenes=10))
    return sorted(path for part in ("train2014", "val2014") for path in (folder / part).glob("*.jpg"))


def write_features(scenes: Path, output: Path) -> None:
    """Extract the scenes' regions."""
    manifest = output.with_suffix(".parquet")
    captions = scenes / "karpathy" / "dataset_coco.json"
    assert main(["manifest", str(captions), "--images", str(scenes), "--output", str(manifest)]) == 0
    assert main(["extract", str(manifest), "--output", str(output), "--backend", "local", *OPTIONS]) == 0


def write_model(run: Path, task: str, *, extractors: Sequence[Any] = (), **changes: Any) -> Path:
    """Write a model of random parameters as a run of `vilbert finetune` ends with it, and return the run."""
    tokenizer = load_tokenizer("new", [WORDS])
    model = ViLBertForTasks(ViLBertConfig(**{**SIZES, "vocab_size": len(tokenizer), **changes}))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            # Without biases, answers depend on what is asked.
            parameter.copy_(drawn * 0.5 * (not name.endswith("bias")) + ("LayerNorm.weight" in name))
    final = run / "final"
    model.save_pretrained(final)
    save_tokenizer(tokenizer, final)
    labels = LABELS.get(task, ())
    card = TaskCard(task=task, labels=labels, max_words=16, max_regions=12, seed=0, extractors=tuple(extractors))
    write_task_cards(final, [card])
    return run


def load(run: Path) -> Predictor:
    """Load a model with the detector of its features."""
    return Predictor.load(run, detector=DETECTOR, selection=SELECTION, device="cpu")
