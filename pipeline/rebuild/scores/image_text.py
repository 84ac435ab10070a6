"""Similarity of an image and its captions, by a CLIP or SigLIP of transformers.

Legend: B images, T texts, D channels of an embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.rebuild.scores.score import Scored

if TYPE_CHECKING:
    from torch import Tensor

    from vilbert.pipeline.rebuild.scores.settings import ScoreSettings

DIGITS = 6
MODEL_TYPES = ("clip", "siglip", "siglip2")
"""`model_type` in the config.json of models that embed images and texts in the same space."""


class ImageTextModel:
    """A CLIP or SigLIP. Embeddings have length 1."""

    def __init__(self, name: str, device: str) -> None:
        """Load a model.

        Args:
            name: Folder written by `save_pretrained`, or a hub name OWNER/NAME, OWNER/NAME@REVISION.
            device: auto, cpu or cuda.

        Raises:
            RefusedError: The model has another type.
            ExtractorError: The model does not exist, or its files are damaged.
        """
        import torch
        from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

        from vilbert.extractors.pretrained import load_pretrained, load_processor, open_pretrained, plain_values

        folder = open_pretrained(name, option="--clip-model")
        if folder.model_type not in MODEL_TYPES:
            raise RefusedError(
                f"--clip-model {name}: is a {folder.model_type:.40}; give a model of type {', '.join(MODEL_TYPES)}"
            )
        self._processor = load_processor(AutoImageProcessor, folder)
        self._tokenizer = load_processor(AutoTokenizer, folder)
        self._device = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
        if device == "cuda" and self._device == "cpu":
            raise RefusedError("--device cuda: PyTorch sees no GPU here; give --device cpu")
        self._model = load_pretrained(AutoModel, folder).to(self._device)
        self._tokens = int(self._model.config.text_config.max_position_embeddings)
        # SigLIP was trained on texts padded to the full length, without a mask.
        self._padding = "longest" if folder.model_type == "clip" else "max_length"
        self.facts = {
            "weights_sha256": folder.weights_sha256,
            "model_type": folder.model_type,
            "preprocessing": plain_values(self._processor),
            "device": self._device,
        }
        """Everything that embeddings depend on, as JSON values."""
        self._last: tuple[list[NDArray[np.uint8]], NDArray[np.float32]] = [], np.empty((0, 0), np.float32)

    def embed_images(self, pixels: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Return the embeddings of images, float32 [B, D].

        The last batch is cached, because several scores need the embeddings of the same images.

        Args:
            pixels: RGB images, [H, W, 3] each.
        """
        import torch

        asked, last = list(pixels), self._last[0]
        if len(asked) != len(last) or any(one is not other for one, other in zip(asked, last, strict=True)):
            inputs = self._processor(images=asked, input_data_format="channels_last", return_tensors="pt").to(
                self._device
            )
            with torch.inference_mode():
                self._last = asked, _unit(self._model.get_image_features(**inputs).pooler_output)
        return self._last[1]

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the embeddings of texts, float32 [T, D]; longer texts are truncated."""
        import torch

        inputs = self._tokenizer(
            list(texts), padding=self._padding, truncation=True, max_length=self._tokens, return_tensors="pt"
        ).to(self._device)
        known = {name: inputs[name] for name in ("input_ids", "attention_mask") if name in inputs}
        with torch.inference_mode():
            return _unit(self._model.get_text_features(**known).pooler_output)


def _unit(embeddings: Tensor) -> NDArray[np.float32]:
    found: NDArray[np.float32] = (embeddings / embeddings.norm(dim=-1, keepdim=True)).float().cpu().numpy()
    return found


@lru_cache(maxsize=1)
def _load(name: str, device: str) -> ImageTextModel:
    return ImageTextModel(name, device)


def load_image_text_model(settings: ScoreSettings, *, score: str) -> ImageTextModel:
    """Return the model of `--clip-model`, which the scores of a process share.

    Raises:
        RefusedError: The option is missing.
    """
    if settings.clip_model is None:
        raise RefusedError(
            f"--scores {score}: needs --clip-model, a CLIP or SigLIP: a folder, or a hub name such as "
            "openai/clip-vit-large-patch14"
        )
    return _load(settings.clip_model, settings.device)


class SimilarityScore:
    """Cosine of the embeddings of an image and its captions: mean, minimum and maximum over the captions.

    Source: Hessel et al., "CLIPScore" (EMNLP 2021), without the factor 2.5 and the lower bound 0.
    """

    needs_images = True
    uses_model = True
    fields = ("similarity", "similarity_min", "similarity_max")

    def __init__(self, settings: ScoreSettings) -> None:
        """Load the model of `--clip-model`."""
        self._model = load_image_text_model(settings, score="clip")

    def fingerprint(self) -> dict[str, Any]:
        """Return everything that embeddings depend on."""
        return {**self._model.facts, "version": 1}

    def score(self, samples: Sequence[Scored]) -> list[dict[str, Any]]:
        """Return the fields of each sample; none without an image or without captions."""
        pixels = [sample.pixels for sample in samples if sample.pixels is not None]
        texts = [caption for sample in samples if sample.pixels is not None for caption in sample.captions]
        if not texts:
            return [{} for _ in samples]
        images, captions = iter(self._model.embed_images(pixels)), iter(self._model.embed_texts(texts))
        return [
            {}
            if sample.pixels is None
            else _similarities(next(images), np.array([next(captions) for _ in sample.captions]))
            for sample in samples
        ]


def _similarities(image: NDArray[np.float32], captions: NDArray[np.float32]) -> dict[str, Any]:
    """Return the fields of one image; image: [D], captions: [T, D]."""
    if not len(captions):
        return {}
    cosines = captions.astype(np.float64) @ image.astype(np.float64)
    figures = {"similarity": cosines.mean(), "similarity_min": cosines.min(), "similarity_max": cosines.max()}
    return {name: round(float(value), DIGITS) for name, value in figures.items()}
