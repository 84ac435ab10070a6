"""Feature maps of tiny encoders against transformers itself."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image

from vilbert.extractors.encoders.vision_encoder import VisionEncoder
from vilbert.extractors.extractor import DetectorSettings, ExtractorError

from .tiny_encoders import CELLS, ENCODERS, save_encoder


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that writes an encoder's folder, once."""
    return functools.cache(lambda name: save_encoder(name, tmp_path_factory.mktemp(name)))


def encoder(folder: Path, size: int | None = None) -> VisionEncoder:
    return VisionEncoder(str(folder), option="--encoder", size=size, detector=DetectorSettings(device="cpu"))


@pytest.mark.parametrize("name", ENCODERS)
def test_the_map_is_the_last_hidden_state_of_the_patches(name: str, folder_of: Callable[[str], Path]) -> None:
    mapped = encoder(folder_of(name))
    assert mapped.size == 64
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    with torch.inference_mode():
        found = mapped([image])
        loader = {"clip": hf.CLIPVisionModel, "siglip": hf.SiglipVisionModel, "siglip2": hf.Siglip2VisionModel}
        model: Any = loader.get(name, hf.AutoModel).from_pretrained(folder_of(name)).eval()
        processor = hf.AutoImageProcessor.from_pretrained(folder_of(name))
        inputs = processor(images=Image.fromarray(image), return_tensors="pt", **_unchanged(name))
        hidden = model(**inputs).last_hidden_state
    cells = CELLS[name]
    assert found.shape == (1, mapped.feature_dim, cells, cells)
    theirs = hidden if hidden.ndim == 4 else hidden[:, -cells * cells :].mT.unflatten(2, (cells, cells))
    assert found.numpy() == pytest.approx(theirs.numpy(), abs=1e-4)


def _unchanged(name: str) -> dict[str, Any]:
    """Return arguments of the image processor that keep an image of 64 x 64 pixels at its size."""
    return {} if name in ("siglip", "siglip2", "vit", "dinov3_vit", "swin") else {"do_resize": False}


@pytest.mark.parametrize("name", ["clip", "siglip", "siglip2", "dinov2", "dinov3_vit", "vit"])
def test_another_size_gives_more_patches(name: str, folder_of: Callable[[str], Path]) -> None:
    with torch.inference_mode():
        found = encoder(folder_of(name), 96)([np.zeros((20, 50, 3), np.uint8)])
    assert found.shape[-2:] == (6, 6)


def test_what_does_not_fit_is_refused(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(ExtractorError, match=r"its patches have 16 pixels .* give 64 or 80"):
        encoder(folder_of("vit"), 70)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ExtractorError, match="'bert' is not a supported image encoder"):
        encoder(tmp_path)


def test_the_description_names_weights_and_pixels(folder_of: Callable[[str], Path]) -> None:
    facts = encoder(folder_of("clip")).describe()
    assert json.loads(json.dumps(facts)) == facts
    assert len(str(facts["weights_sha256"])) == 64
    assert {"mean", "std", "size", "interpolation", "precision", "transformers", "config"} <= facts.keys()
