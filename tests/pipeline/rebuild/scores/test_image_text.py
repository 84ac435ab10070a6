"""Similarity and aesthetic scores with tiny random models, compared with transformers' own computation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModel,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
)

from vilbert.pipeline.cli import main
from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.rebuild.scores.aesthetic import read_head
from vilbert.pipeline.shards.open_dataset import open_dataset

from .test_run import score, values_of

WIDTH = 16
SIZES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
WORDS = ("[PAD]", "[UNK]", "[EOS]", *["caption", "of", "photograph", "0", "1", "2", "3", "4", "5", "6", "7", "8", "9"])


def save_model(folder: Path, kind: str) -> Path:
    """Write a tiny model with its tokenizer and image processor."""
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", eos_token="[EOS]", unk_token="[UNK]", model_max_length=12
    ).save_pretrained(folder)
    text = {**SIZES, "vocab_size": len(WORDS), "max_position_embeddings": 12, "eos_token_id": 2, "pad_token_id": 0}
    vision = {**SIZES, "image_size": 32, "patch_size": 16}
    torch.manual_seed(4)
    size = {"height": 32, "width": 32}
    if kind == "clip":
        CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH)).save_pretrained(folder)
        CLIPImageProcessor(size=size, crop_size=size).save_pretrained(folder)
    else:
        SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).save_pretrained(folder)
        SiglipImageProcessor(size=size).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["clip", "siglip"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"), request.param)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("clip"), "clip")


def embeddings(folder: Path, pixels: NDArray[np.uint8], texts: list[str]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the embeddings of an image and texts, computed one by one."""
    network: Any = AutoModel.from_pretrained(folder).eval()
    siglip = network.config.model_type == "siglip"
    processor = (SiglipImageProcessor if siglip else CLIPImageProcessor).from_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    options = {"padding": "max_length", "max_length": 12} if siglip else {}
    with torch.no_grad():
        image = network.get_image_features(**processor(images=Image.fromarray(pixels), return_tensors="pt"))
        found = [
            network.get_text_features(
                **{k: v for k, v in tokenizer(text, return_tensors="pt", **options).items() if k != "token_type_ids"}
            )
            for text in texts
        ]
    unit = [torch.nn.functional.normalize(it.pooler_output[0], dim=-1).numpy() for it in [image, *found]]
    return unit[0], np.array(unit[1:])


def test_similarities_are_those_of_single_images_and_texts(photographs: Any, model: Path) -> None:
    options = ["--scores", "clip", "boxes", "--clip-model", str(model), "--device", "cpu", "--batch-size", "3"]
    assert score(photographs.directory, *options) == 0
    values = values_of(photographs.directory)
    with open_dataset(photographs.directory) as samples:
        for sample in samples:
            value = values[sample.key]
            if not sample.meta["captions"]:
                assert "similarity" not in value
                continue
            pixels = np.asarray(Image.open(sample.meta["uri"]).convert("RGB"))
            image, texts = embeddings(model, pixels, sample.meta["captions"])
            cosines = texts @ image
            assert value["similarity"] == pytest.approx(cosines.mean(), abs=1e-4)
            assert value["similarity_min"] == pytest.approx(cosines.min(), abs=1e-4)
            assert value["similarity_max"] == pytest.approx(cosines.max(), abs=1e-4)


@pytest.mark.parametrize("activation", ["none", "relu"])
def test_an_aesthetic_score_is_that_of_its_head(photographs: Any, clip: Path, tmp_path: Path, activation: str) -> None:
    draw = np.random.default_rng(0)
    layers = {
        "layers.0.weight": draw.standard_normal((5, WIDTH)).astype(np.float32),
        "layers.0.bias": draw.standard_normal(5).astype(np.float32),
        "layers.2.weight": draw.standard_normal((1, 5)).astype(np.float16),
        "layers.2.bias": np.array([5], np.float32),
    }
    save_file(layers, tmp_path / "head.safetensors", metadata={"activation": activation})
    options = ["--scores", "aesthetic", "clip", "--clip-model", str(clip), "--device", "cpu", "--aesthetic-head"]
    assert score(photographs.directory, *options, str(tmp_path / "head.safetensors")) == 0
    values = values_of(photographs.directory)
    with open_dataset(photographs.directory) as samples:
        for sample in list(samples)[:3]:
            image, _ = embeddings(clip, np.asarray(Image.open(sample.meta["uri"]).convert("RGB")), ["photograph"])
            hidden = layers["layers.0.weight"] @ image + layers["layers.0.bias"]
            hidden = np.maximum(hidden, 0) if activation == "relu" else hidden
            expected = float((layers["layers.2.weight"].astype(np.float64) @ hidden + 5)[0])
            assert values[sample.key]["aesthetic"] == pytest.approx(expected, abs=1e-3)


LINEAR = {"weight": np.ones((1, WIDTH), np.float32), "bias": np.zeros(1, np.float32)}


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda path: None, "No such file"),
        (lambda path: path.write_bytes(b"\x80\x04N."), "cannot be used"),
        (lambda path: path.write_bytes(b"\xff" * 64), "cannot be used"),
        (lambda path: save_file({"w": LINEAR["weight"]}, path), "its tensors are w"),
        (lambda path: save_file({**LINEAR, "bias": np.zeros(2, np.float32)}, path), "shapes"),
        (lambda path: save_file({**LINEAR, "weight": np.full((1, WIDTH), np.nan, np.float32)}, path), "not finite"),
        (
            lambda path: save_file({"weight": np.ones((2, 4), np.float32), "bias": np.ones(2, np.float32)}, path),
            "do not end in one number",
        ),
        (lambda path: save_file(LINEAR, path, metadata={"activation": "exec"}), "activation is 'exec'"),
        (lambda path: save_file({f"layers.0.{name}": LINEAR[name] for name in ("weight",)}, path), "its tensors are"),
    ],
)
def test_heads_that_are_refused(tmp_path: Path, write: Callable[[Path], None], said: str) -> None:
    write(tmp_path / "head.safetensors")
    with pytest.raises(RefusedError, match=rf"--aesthetic-head .*{said}"):
        read_head(tmp_path / "head.safetensors")


def test_a_linear_head(tmp_path: Path) -> None:
    save_file({**LINEAR, "bias": np.array([3], np.float32)}, tmp_path / "head.safetensors")
    embedded = np.arange(2 * WIDTH, dtype=np.float32).reshape(2, WIDTH)
    assert read_head(tmp_path / "head.safetensors")(embedded).tolist() == [it.sum() + 3 for it in embedded]


def test_models_that_are_refused(
    photographs: Any, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file({**LINEAR, "weight": np.ones((1, 3), np.float32)}, tmp_path / "head.safetensors")
    aesthetic = ["--scores", "aesthetic", "--aesthetic-head", str(tmp_path / "head.safetensors"), "--clip-model"]
    assert score(photographs.directory, *aesthetic, str(clip), "--device", "cpu") == 2
    assert "expects embeddings of 3 channels" in capsys.readouterr().err
    for name, config in (("other", '{"model_type": "bert"}'), ("empty", "{}")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(config)
        (tmp_path / name / "model.safetensors").write_bytes(b"")
        assert main(["score", str(photographs.directory), "--column", "c", "--scores", "clip", "--clip-model",
                     str(tmp_path / name)]) == 2  # fmt: skip
    message = capsys.readouterr().err
    assert "is a bert; give a model of type clip, siglip" in message
    assert "has no model_type" in message
