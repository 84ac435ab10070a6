"""The order of the layers, and the encoder that runs them.

For the published 6-layer model: text layers 0-5, then six times a co-attention, a visual and a text layer. The
diagram is in docs/model.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from vilbert.model.attention import scores_mask, seen_by_all
from vilbert.model.config import ViLBertConfig
from vilbert.model.layers import ConnectionLayer, StreamLayer, image_sizes, text_sizes
from vilbert.model.packing import Packing
from vilbert.model.pairs import Pairing, Streams, pair


class Step(NamedTuple):
    """A layer to run: its kind, and its index among layers of that kind."""

    kind: Literal["text", "image", "connection"]
    number: int


def layer_order(config: ViLBertConfig) -> list[Step]:
    """Return all layers in execution order.

    Co-attention layer k follows the text and visual layers below its indices (`t_biattention_id`, `v_biattention_id`).
    Text layers run first, as in the multi-task code, because dynamic attention makes visual layers read the words. The
    remaining layers follow the last co-attention layer, visual layers first.
    """
    order: list[Step] = []
    text = image = 0
    places = zip(config.t_biattention_id, config.v_biattention_id, strict=True)
    for connection, (text_place, image_place) in enumerate(places):
        order += [Step("text", index) for index in range(text, text_place)]
        order += [Step("image", index) for index in range(image, image_place)]
        order.append(Step("connection", connection))
        text, image = text_place, image_place
    order += [Step("image", index) for index in range(image, config.v_num_hidden_layers)]
    order += [Step("text", index) for index in range(text, config.num_hidden_layers)]
    return order


def first_meeting(config: ViLBertConfig) -> int:
    """Return the number of steps of `layer_order` before the first step that needs both streams.

    This step is the first co-attention or, with dynamic attention, the first visual layer, which reads the words.
    """
    together = ("image", "connection") if config.dynamic_attention else ("connection",)
    order = layer_order(config)
    return next((at for at, step in enumerate(order) if step.kind in together), len(order))


@dataclass(kw_only=True)
class Trace:
    """Recorded states (embeddings, then after each layer) and attention maps of eager attention."""

    text_states: list[Tensor] = field(default_factory=list)
    image_states: list[Tensor] = field(default_factory=list)
    text_maps: list[Tensor] = field(default_factory=list)
    image_maps: list[Tensor] = field(default_factory=list)
    co_maps: list[tuple[Tensor, Tensor]] = field(default_factory=list)


class Masks(NamedTuple):
    """Additive attention masks: within each stream, and for the attention of the other stream to it."""

    text: Tensor | None
    image: Tensor | None
    to_text: Tensor | None
    to_image: Tensor | None


def _masks(streams: Streams) -> Masks:
    dtype = streams.text.dtype
    return Masks(
        text=scores_mask(streams.text_mask, dtype),
        image=scores_mask(streams.image_mask, dtype),
        to_text=scores_mask(seen_by_all(streams.text_mask), dtype),
        to_image=scores_mask(seen_by_all(streams.image_mask), dtype),
    )


def _mean_word(streams: Streams) -> Tensor:
    """Return the mean [B, H] of the unmasked words, or of all words if all are masked."""
    mask = seen_by_all(streams.text_mask)
    text = streams.text if streams.text_packing is None else streams.text_packing.unpack(streams.text)
    if mask is None:
        return text.mean(1)
    seen = torch.where(mask.any(1, keepdim=True), mask, torch.ones_like(mask))[..., None].to(text.dtype)
    return (text * seen).sum(1) / seen.sum(1)


class Kept(NamedTuple):
    """Packed positions of each stream that the last layer returns; None for all."""

    text: Packing | None = None
    image: Packing | None = None


class Encoder(nn.Module):
    """Text layers, visual layers and co-attention layers, run in `layer_order`."""

    def __init__(self, config: ViLBertConfig) -> None:
        super().__init__()
        text, image = text_sizes(config), image_sizes(config)
        words = config.hidden_size if config.dynamic_attention else None
        self.layer = nn.ModuleList(StreamLayer(text) for _ in range(config.num_hidden_layers))
        self.v_layer = nn.ModuleList(StreamLayer(image, words) for _ in range(config.v_num_hidden_layers))
        self.c_layer = nn.ModuleList(ConnectionLayer(config) for _ in config.v_biattention_id)
        self.order = layer_order(config)
        self.meeting = first_meeting(config)
        self.with_coattention = config.with_coattention
        self.dynamic_attention = config.dynamic_attention
        self.frozen = {"text": config.fixed_t_layer, "image": config.fixed_v_layer, "connection": 0}

    def forward(
        self, streams: Streams, *, pairing: Pairing, eager: bool, keep_states: bool, kept: Kept
    ) -> tuple[Streams, Trace]:
        """Return the last states of both streams, and a trace with maps (if `eager`) and states (if `keep_states`).

        Rows are paired directly before the first step that needs both streams. Frozen layers run without gradients.
        """
        trace = Trace()
        if keep_states:
            trace.text_states.append(streams.text)
            trace.image_states.append(streams.image)
        before, after = self.order[: self.meeting], self.order[self.meeting :]
        streams = self._run_all(before, streams, trace, kept, eager=eager, keep_states=keep_states)
        streams = pair(streams, pairing)
        return self._run_all(after, streams, trace, kept, eager=eager, keep_states=keep_states), trace

    def alone(self, kind: Literal["text", "image"], states: Tensor, mask: Tensor | None, *, eager: bool) -> Tensor:
        """Run the layers of one stream before the first step that needs both streams."""
        layers = self.layer if kind == "text" else self.v_layer
        added = scores_mask(mask, states.dtype)
        for step in self.order[: self.meeting]:
            if step.kind == kind:
                with torch.set_grad_enabled(torch.is_grad_enabled() and step.number >= self.frozen[step.kind]):
                    states, _ = layers[step.number](states, added, eager=eager)
        return states

    def together(self, streams: Streams, *, eager: bool, kept: Kept) -> Streams:
        """Run the remaining layers on paired rows whose states come from `alone`."""
        return self._run_all(self.order[self.meeting :], streams, Trace(), kept, eager=eager, keep_states=False)

    def _run_all(
        self, steps: list[Step], streams: Streams, trace: Trace, kept: Kept, *, eager: bool, keep_states: bool
    ) -> Streams:
        masks = _masks(streams)
        for step in steps:
            with torch.set_grad_enabled(torch.is_grad_enabled() and step.number >= self.frozen[step.kind]):
                streams = self._run(step, streams, masks, trace, kept, eager=eager)
            ran = step.kind != "connection" or self.with_coattention
            if keep_states and ran and step.kind != "image":
                trace.text_states.append(streams.text)
            if keep_states and ran and step.kind != "text":
                trace.image_states.append(streams.image)
        return streams

    def _run(self, step: Step, streams: Streams, masks: Masks, trace: Trace, kept: Kept, *, eager: bool) -> Streams:
        if step.kind == "text":
            last = step.number == len(self.layer) - 1
            text, maps = self.layer[step.number](
                streams.text, masks.text, None, streams.text_packing, kept.text if last else None, eager=eager
            )
            if maps is not None:
                trace.text_maps.append(maps)
            return replace(streams, text=text)
        if step.kind == "image":
            words = _mean_word(streams) if self.dynamic_attention else None
            last = step.number == len(self.v_layer) - 1
            image, maps = self.v_layer[step.number](
                streams.image, masks.image, words, streams.image_packing, kept.image if last else None, eager=eager
            )
            if maps is not None:
                trace.image_maps.append(maps)
            return replace(streams, image=image)
        if not self.with_coattention:
            return streams
        image, text, (image_maps, text_maps) = self.c_layer[step.number](
            streams.image,
            masks.to_image,
            streams.text,
            masks.to_text,
            streams.image_packing,
            streams.text_packing,
            eager=eager,
        )
        if image_maps is not None and text_maps is not None:
            trace.co_maps.append((image_maps, text_maps))
        return replace(streams, image=image, text=text)
