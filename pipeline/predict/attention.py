"""The attention maps of every layer and head for one text and one photograph.

Shapes: H heads, T word pieces with special tokens, R regions with the whole image at 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vilbert.model.config import ViLBertConfig
from vilbert.model.encoder import layer_order
from vilbert.model.outputs import ViLBertForTasksOutput

Side = Literal["words", "regions"]


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class AttentionMap:
    """One layer's weights in one direction."""

    layer: str
    """Its name, such as `co-attention 0`."""
    rows: Side
    """Who looks."""
    columns: Side
    """Who is looked at; each row of a head sums to 1."""
    weights: NDArray[np.float32]
    """[H, T or R, T or R]."""

    @property
    def name(self) -> str:
        """Return what the map is, in words."""
        return f"{self.layer}: {self.rows} look at {self.columns}"


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Attention:
    """All maps of one text and one photograph, and what their rows and columns are."""

    words: tuple[str, ...]
    """[T] word pieces, special tokens included."""
    regions: tuple[str, ...]
    """[R] number and the detector's name of each; the first is the whole image."""
    boxes_xyxy: NDArray[np.float32]
    """[R, 4] in pixels."""
    width: int
    """Pixels of the photograph."""
    height: int
    """Pixels of the photograph."""
    maps: tuple[AttentionMap, ...]
    """In the order of the layers."""


def attention_maps(output: ViLBertForTasksOutput, config: ViLBertConfig) -> tuple[AttentionMap, ...]:
    """Return the maps of an output of one row, from the first layer to the last.

    output: of `output_attentions=True`, B = 1. Layers count from 0, as in docs/model.md.
    """
    text, image, both = output.text_attentions, output.image_attentions, output.co_attentions
    assert text is not None
    assert image is not None
    assert both is not None
    maps: list[AttentionMap] = []
    for kind, number in layer_order(config):
        if kind == "text":
            maps.append(_map(f"text layer {number}", "words", "words", text[number]))
        elif kind == "image":
            maps.append(_map(f"visual layer {number}", "regions", "regions", image[number]))
        elif config.with_coattention:
            by_words, by_regions = both[number]
            maps.append(_map(f"co-attention {number}", "words", "regions", by_words))
            maps.append(_map(f"co-attention {number}", "regions", "words", by_regions))
    return tuple(maps)


def _map(layer: str, rows: Side, columns: Side, weights: Tensor) -> AttentionMap:
    of_one_row = weights[0].float().cpu().numpy()
    return AttentionMap(layer=layer, rows=rows, columns=columns, weights=of_one_row)


def mean_maps(maps: Sequence[AttentionMap]) -> list[AttentionMap]:
    """Return the mean over the layers of each direction between words and regions, head by head, in their order.

    The mean over layers and heads is what a reader wants first: a single layer or head may look at anything.
    """
    directions = dict.fromkeys((found.rows, found.columns) for found in maps if found.rows != found.columns)
    means = []
    for rows, columns in directions:
        stacked = [found.weights for found in maps if (found.rows, found.columns) == (rows, columns)]
        layer = f"mean of {len(stacked)} co-attention layers" if len(stacked) > 1 else "co-attention"
        means.append(AttentionMap(layer=layer, rows=rows, columns=columns, weights=np.mean(stacked, axis=0)))
    return means
