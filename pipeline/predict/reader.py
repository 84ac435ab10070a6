"""A model that reads texts before photographs: from files and sentences to the model's output, batch by batch.

Shapes: N rows, C distinct photographs, T word pieces, R regions of the photograph with most.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vilbert.extractors.decode import DecodeSettings
from vilbert.extractors.extractor import Extractor
from vilbert.extractors.regions import Regions
from vilbert.manifests.uri import ImageReader
from vilbert.model.outputs import ViLBertForTasksOutput
from vilbert.model.tasks import TASK_HEADS
from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.evaluate.evaluation import Trained
from vilbert.pipeline.extract.fetching.fetcher import Fetcher
from vilbert.pipeline.extract.fetching.settings import FetchSettings
from vilbert.pipeline.predict.asking import Row, Text, first_of_same
from vilbert.pipeline.predict.attention import Attention, attention_maps
from vilbert.pipeline.predict.photographs import Photograph, detect_each, name_of_photograph, read_pixels, shown
from vilbert.pipeline.shards.viewing.describe import name_of
from vilbert.pipeline.tasks.batch import ItemBatch, row_tensors
from vilbert.pipeline.tasks.images import lay_out
from vilbert.pipeline.tasks.objective import to_inputs
from vilbert.pipeline.tasks.registry import find_task
from vilbert.pipeline.tasks.task import Shown
from vilbert.pipeline.tasks.texts import encode

WHOLE_IMAGE = "whole image"
IMAGE_INPUTS = ("image_feat", "image_loc", "image_attention_mask")


class Batch(NamedTuple):
    """Some of what is asked, read by the model."""

    output: ViLBertForTasksOutput
    regions: list[Regions]
    """Of the photograph of each row."""


class ImageBatch(NamedTuple):
    """Some photographs alone."""

    names: list[str]
    inputs: dict[str, Tensor]
    """`IMAGE_INPUTS` of `ViLBertForTasks.forward`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Reader:
    """Detector, tokenizer and model."""

    trained: Trained
    """Model and tokenizer, and how they were trained."""
    extractor: Extractor
    """Gives the regions."""
    decoding: DecodeSettings = field(default_factory=DecodeSettings)
    """Which photographs are taken."""
    batch_size: int = 32
    """Items, or photographs, at a time."""

    fetching: FetchSettings = field(default_factory=FetchSettings)
    """How photographs behind URLs are fetched."""

    @cached_property
    def fetcher(self) -> Fetcher:
        """Reads photographs from files and URLs, with the checks of `vilbert extract`."""
        return Fetcher(self.fetching, ImageReader(), max_bytes=self.decoding.max_bytes)

    def pixels(self, image: Photograph, number: int = 0) -> NDArray[np.uint8]:
        """Return RGB uint8 [H, W, 3] of a photograph, upright; RefusedError where it cannot be used."""
        return read_pixels(image, name_of_photograph(image, number), self.decoding, self.fetcher.read)

    def detect_each(self, images: Sequence[Photograph], numbers: Sequence[int]) -> list[Regions | RefusedError]:
        """Return the regions of some of the images, or the error of one that cannot be used."""
        named = [(name_of_photograph(images[number], number), images[number]) for number in numbers]
        return detect_each(self.extractor, named, decoding=self.decoding, read=self.fetcher.read)

    def detect(self, images: Sequence[Photograph], numbers: Sequence[int]) -> list[Regions]:
        """Return the regions of some of the images; raise the error of the first that cannot be used."""
        found: list[Regions] = []
        for of_one in self.detect_each(images, numbers):
            if isinstance(of_one, RefusedError):
                raise of_one
            found.append(of_one)
        return found

    def batches(self, images: Sequence[Photograph], items: Sequence[Sequence[Row]], head: str) -> Iterator[Batch]:
        """Yield the output of a head for batches of items, each of some rows.

        A photograph that the next batch asks about, too, is not detected again.
        """
        heads = TASK_HEADS[self.trained.model.config.task_heads]
        if head not in heads:
            raise RefusedError(
                f"{self.trained.folder}: the model has no head {head}, which {self.trained.card.task} reads; it has "
                f"{', '.join(heads)}"
            )
        same = first_of_same(images)
        held: dict[int, Regions] = {}
        for start in range(0, len(items), self.batch_size):
            rows = [(same[row.image], row.text) for item in items[start : start + self.batch_size] for row in item]
            wanted = list(dict.fromkeys(image for image, _ in rows))
            held = {image: held[image] for image in wanted if image in held}
            missing = [image for image in wanted if image not in held]
            held.update(zip(missing, self.detect(images, missing), strict=True))
            seen = [self._shown(held[image], images[image], image) for image in wanted]
            at = {image: place for place, image in enumerate(wanted)}
            inputs = self._inputs([text for _, text in rows], seen, [at[image] for image, _ in rows])
            with torch.inference_mode():
                output = self.trained.model(**inputs, heads=(head,))
            yield Batch(output, [held[image] for image, _ in rows])

    def image_batches(self, images: Sequence[Photograph]) -> Iterator[ImageBatch]:
        """Yield the images in batches, for what reads them before any text."""
        for start in range(0, len(images), self.batch_size):
            numbers = range(start, min(start + self.batch_size, len(images)))
            regions = self.detect(images, numbers)
            seen = [self._shown(of_one, images[at], at) for of_one, at in zip(regions, numbers, strict=True)]
            inputs = self._inputs([("",)] * len(seen), seen, range(len(seen)))
            yield ImageBatch([it.image_id for it in seen], {name: inputs[name] for name in IMAGE_INPUTS})

    def attend(self, image: Photograph, text: Text) -> Attention:
        """Return which words and regions attend to which when the model reads a text and an image."""
        (regions,) = self.detect([image], [0])
        seen = self._shown(regions, image, 0)
        inputs = self._inputs([text], [seen], [0])
        with torch.inference_mode():
            output = self.trained.model(**inputs, heads=(), output_attentions=True)
        names = [str(number) for number in range(1, len(seen.boxes) + 1)]
        if regions.object_ids is not None:
            objects = [name_of(self.extractor.class_names, int(object_id)) for object_id in regions.object_ids]
            names = [f"{number} {name}" for number, name in zip(names, objects, strict=False)]
        whole = np.array([[0, 0, seen.width, seen.height]], dtype=np.float32)
        return Attention(
            words=self._spelled(inputs["input_ids"][0].tolist()),
            regions=(WHOLE_IMAGE, *names),
            boxes_xyxy=np.concatenate([whole, seen.boxes]),
            width=seen.width,
            height=seen.height,
            maps=attention_maps(output, self.trained.model.config),
        )

    def _shown(self, regions: Regions, image: Photograph, number: int) -> Shown:
        return shown(regions, name_of_photograph(image, number), max_regions=self.trained.card.max_regions)

    def _spelled(self, ids: Sequence[int]) -> tuple[str, ...]:
        """Return word pieces as they are read, and the task's token, which the model puts behind the first."""
        tokenizer = self.trained.tokenizer
        words = [str(tokenizer.decode([word])).strip() or str(tokenizer.convert_ids_to_tokens(word)) for word in ids]
        return tuple(words if self.trained.task_token is None else [words[0], "[TASK]", *words[1:]])

    def _inputs(self, texts: Sequence[Text], seen: Sequence[Shown], image_of: Sequence[int]) -> dict[str, Tensor]:
        """Return the arguments of `ViLBertForTasks.forward` for N texts, each about photograph `image_of`.

        As in training: image tensors begin with the whole image, R + 1 in all, and padding is masked.
        """
        trained, config = self.trained, self.trained.model.config
        text = encode(trained.tokenizer, texts, max_words=trained.card.max_words)
        regions = lay_out(seen, feature_dim=config.v_feature_size, max_regions=trained.card.max_regions)
        batch = ItemBatch(
            **row_tensors(text, regions, image_of),
            feature_scales=regions.features.scales,
            targets={},
            count=0,
            numbers=(),
            image_ids=tuple(it.image_id for it in seen),
            unread=0,
        )
        inputs = to_inputs(batch, trained.device, causal=find_task(trained.card.task).causal)
        if config.type_vocab_size < 2:
            del inputs["token_type_ids"]
        if trained.task_token is not None:
            inputs["task_ids"] = torch.full((len(texts), 1), trained.task_token, device=trained.device)
        return inputs
