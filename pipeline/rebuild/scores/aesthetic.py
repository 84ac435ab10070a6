"""Aesthetic score of an image: a small head over its CLIP embedding.

The head is a safetensors file of one of two layouts, both in float:

    weight [1, D], bias [1]                      one linear layer, as LAION's first predictors
    layers.N.weight [O, I], layers.N.bias [O]    several, in the order of N, as LAION's predictor "sac+logos+ava1"

D is the width of the model's embeddings. The activation between the layers is `activation` in the file's metadata:
`none` (the default, as in LAION's heads) or `relu`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vilbert.interrupts import delayed_interrupts
from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.rebuild.scores.image_text import load_image_text_model
from vilbert.pipeline.rebuild.scores.score import Scored
from vilbert.pipeline.shards.storage.verified import file_sha256

if TYPE_CHECKING:
    from vilbert.pipeline.rebuild.scores.settings import ScoreSettings

DIGITS = 6
ACTIVATIONS = ("none", "relu")
MAX_HEAD_BYTES = 1 << 30


class Head(NamedTuple):
    """Layers that map an embedding to one number."""

    layers: list[tuple[NDArray[np.float64], NDArray[np.float64]]]
    """Weight [O, I] and bias [O] of each."""
    activation: str

    def __call__(self, embeddings: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the scores of embeddings [B, D], float64 [B]."""
        hidden = embeddings.astype(np.float64)
        for number, (weight, bias) in enumerate(self.layers):
            if number and self.activation == "relu":
                hidden = np.maximum(hidden, 0)
            hidden = hidden @ weight.T + bias
        scores: NDArray[np.float64] = hidden[:, 0]
        return scores


def read_head(path: Path) -> Head:
    """Read a head.

    Raises:
        RefusedError: The file does not exist, is not a safetensors file, or has another layout.
    """
    from safetensors import SafetensorError, safe_open

    try:
        if path.stat().st_size > MAX_HEAD_BYTES:
            raise ValueError(f"has more than {MAX_HEAD_BYTES:,} bytes")
        with delayed_interrupts(), safe_open(path, framework="np") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
            activation = (file.metadata() or {}).get("activation", "none")
        return Head(_layers(tensors), _known(activation))
    except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
        said = (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0]
        raise RefusedError(
            f"--aesthetic-head {path}: cannot be used ({said:.200}); give a .safetensors file with weight and bias, or "
            "layers.N.weight and layers.N.bias"
        ) from error


def _known(activation: str) -> str:
    if activation not in ACTIVATIONS:
        raise ValueError(f"its activation is {activation!r:.40}, expected one of {', '.join(ACTIVATIONS)}")
    return activation


def _layers(tensors: dict[str, NDArray[Any]]) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Return the layers in order; ValueError if they are not a chain that ends in one number."""
    if set(tensors) == {"weight", "bias"}:
        prefixes = [""]
    else:
        numbers = {int(match[1]) for name in tensors if (match := re.fullmatch(r"layers\.(\d{1,4})\.weight", name))}
        prefixes = [f"layers.{number}." for number in sorted(numbers)]
        if set(tensors) != {f"{prefix}{part}" for prefix in prefixes for part in ("weight", "bias")} or not prefixes:
            raise ValueError(f"its tensors are {', '.join(sorted(tensors)[:6]) or 'missing'}")
    layers = [
        (tensors[f"{prefix}weight"].astype(np.float64), tensors[f"{prefix}bias"].astype(np.float64))
        for prefix in prefixes
    ]
    for weight, bias in layers:
        if (
            weight.ndim != 2
            or bias.shape != weight.shape[:1]
            or not (np.isfinite(weight).all() and np.isfinite(bias).all())
        ):
            raise ValueError(f"a layer has the shapes {list(weight.shape)} and {list(bias.shape)}, or is not finite")
    if layers[-1][0].shape[0] != 1 or any(one[0].shape[0] != other[0].shape[1] for one, other in pairwise(layers)):
        raise ValueError(f"its layers {[list(weight.shape) for weight, _ in layers]} do not end in one number")
    return layers


class AestheticScore:
    """The field `aesthetic`, in the units of the head: about 1 to 10 for LAION's heads."""

    needs_images = True
    uses_model = True
    fields = ("aesthetic",)

    def __init__(self, settings: ScoreSettings) -> None:
        """Load the model of `--clip-model` and the head of `--aesthetic-head`."""
        if settings.aesthetic_head is None:
            raise RefusedError("--scores aesthetic: needs --aesthetic-head, a .safetensors file; see docs/select.md")
        self._head = read_head(settings.aesthetic_head)
        self._sha256 = file_sha256(settings.aesthetic_head)
        self._model = load_image_text_model(settings, score="aesthetic")
        self._path = settings.aesthetic_head

    def fingerprint(self) -> dict[str, Any]:
        """Return everything that embeddings depend on, and the hash of the head."""
        return {**self._model.facts, "head_sha256": self._sha256, "version": 1}

    def score(self, samples: Sequence[Scored]) -> list[dict[str, Any]]:
        """Return the field of each sample that has an image."""
        pixels = [sample.pixels for sample in samples if sample.pixels is not None]
        if not pixels:
            return [{} for _ in samples]
        embeddings = self._model.embed_images(pixels)
        width = self._head.layers[0][0].shape[1]
        if embeddings.shape[1] != width:
            raise RefusedError(
                f"--aesthetic-head {self._path}: expects embeddings of {width} channels, --clip-model has "
                f"{embeddings.shape[1]}; give the model that it was trained on"
            )
        scores = iter(self._head(embeddings))
        return [
            {} if sample.pixels is None else {"aesthetic": round(float(next(scores)), DIGITS)} for sample in samples
        ]
