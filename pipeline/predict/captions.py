"""Captions of photographs: given ones are scored (retrieval), new ones are generated (captioning).

Both read batches of photographs before any text. Arguments and errors are those of `Predictor.rank` and
`Predictor.describe`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from vilbert.pipeline.predict.asking import as_texts, paired
from vilbert.pipeline.predict.photographs import Photograph, as_photographs
from vilbert.pipeline.predict.reader import IMAGE_INPUTS, ImageBatch, Reader
from vilbert.pipeline.tasks.captioning.generation import generate
from vilbert.pipeline.tasks.captioning.generation_settings import GenerationSettings
from vilbert.pipeline.tasks.retrieval.score_plan import ScoreSettings
from vilbert.pipeline.tasks.retrieval.scores import ImagePool, ImageTensors, score_pairs
from vilbert.pipeline.tasks.texts import text_ids


def rank(reader: Reader, images: Iterable[Photograph], captions: Iterable[str]) -> NDArray[np.float32]:
    """Return the score of every caption with every image, float32 [captions, images]."""
    images, captions = as_photographs(images), as_texts(captions, "captions")
    if not images or not captions:
        paired(len(images), len(captions), "captions")  # raises
    trained = reader.trained
    ids = text_ids(trained.tokenizer, [(caption,) for caption in captions], max_words=trained.card.max_words)
    parts = [
        score_pairs(trained.model, ids, _pool(batch), settings=ScoreSettings(), task_id=trained.task_token)
        for batch in reader.image_batches(images)
    ]
    return np.concatenate(parts, axis=1)


def describe(reader: Reader, images: Iterable[Photograph], generation: GenerationSettings | None) -> list[str]:
    """Return a generated caption for each image."""
    photographs = as_photographs(images)
    trained = reader.trained
    tokenizer = trained.tokenizer
    chosen = generation or GenerationSettings()
    settings = replace(chosen, max_tokens=min(chosen.max_tokens, trained.card.max_words - 2))
    captions: list[str] = []
    for batch in reader.image_batches(photographs):
        generated = generate(
            trained.model,
            batch.inputs,
            cls_id=tokenizer.cls_token_id,
            sep_id=tokenizer.sep_token_id,
            pad_id=tokenizer.pad_token_id,
            never=tokenizer.all_special_ids,
            settings=settings,
            keys=batch.names,
            task_token=trained.task_token,
        )
        captions += [str(tokenizer.decode(list(it.ids), clean_up_tokenization_spaces=True)) for it in generated]
    return captions


def _pool(batch: ImageBatch) -> ImagePool:
    """Return a batch of photographs, whose tensors are in memory, as the images to rank."""
    tensors = ImageTensors(*(batch.inputs[name] for name in IMAGE_INPUTS))
    return ImagePool(
        regions=tensors.mask.sum(1).cpu().numpy(),
        read=lambda numbers: ImageTensors(*(whole[torch.from_numpy(numbers)] for whole in tensors)),
        fingerprint="",
    )
