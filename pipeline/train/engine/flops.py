"""The floating-point operations of a forward pass: matrix products, two for each multiply-add."""

from __future__ import annotations

from dataclasses import dataclass

from vilbert.model.config import ViLBertConfig


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What a forward pass works on."""

    rows: int
    """Captions with their images."""
    words: int
    """Positions of a caption, padding included."""
    regions: int
    """Regions of an image, the global one included."""
    words_computed: int
    """Positions of text in the batch that are computed: all, or all but padding."""
    words_read: int
    """Positions of text in the batch whose last states are read."""
    regions_read: int
    """The same of regions."""
    words_predicted: int
    """Positions in the batch that the word head runs on."""
    regions_predicted: int
    """Regions in the batch that the region head runs on."""


def forward_flops(config: ViLBertConfig, shape: Shape) -> dict[str, int]:
    """Return the operations of each part of a forward pass."""
    h, v, a = config.hidden_size, config.v_hidden_size, config.bi_hidden_size
    padded_text, image = 2 * shape.rows * shape.words, 2 * shape.rows * shape.regions
    text, text_read, image_read = 2 * shape.words_computed, 2 * shape.words_read, 2 * shape.regions_read
    text_ffn, image_ffn = 2 * h * config.intermediate_size, 2 * v * config.v_intermediate_size
    co_layers = len(config.v_biattention_id) if config.with_coattention else 0
    # Of each attention two products, with the keys and with the values: queries x keys x width.
    attended = (
        config.num_hidden_layers * shape.words * padded_text * h
        + config.v_num_hidden_layers * shape.regions * image * v
        + co_layers * (shape.regions * padded_text + shape.words * image) * a
    )
    # A stream's last layer needs keys and values of every position, and the rest where its states are read.
    last_text = text * 2 * h * h + text_read * (2 * h * h + text_ffn)
    last_image = image * 2 * v * v + image_read * (2 * v * v + image_ffn)
    return {
        "text layers": (config.num_hidden_layers - 1) * text * (4 * h * h + text_ffn) + last_text,
        "visual layers": (config.v_num_hidden_layers - 1) * image * (4 * v * v + image_ffn) + last_image,
        "co-attention layers, text side": co_layers * text * (4 * h * a + text_ffn),
        "co-attention layers, image side": co_layers * image * (4 * v * a + image_ffn),
        "attention products": 2 * attended,
        "image embeddings": image * (config.v_feature_size + 5) * v,
        "word head": 2 * shape.words_predicted * (h * h + h * config.vocab_size),
        "region head": 2 * shape.regions_predicted * (v * v + v * config.v_target_size),
        "poolers and alignment": 2 * shape.rows * (h * a + v * a + 2 * a),
    }
