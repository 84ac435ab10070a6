"""Score every caption against every image, for retrieval in both directions.

Layers before the first co-attention are computed once per caption and once per image; a pair costs only the remaining
layers (see `score_plan`). The published evaluation runs every image through the whole model for every caption.

To distribute captions over processes, give each a subset of them and its own folder, and concatenate the rows.

Shapes: T tokens, R regions with the global one at 0, F features of a region.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vilbert.model.heads import fuse
from vilbert.model.meeting import image_alone, pooled_pairs, text_alone
from vilbert.model.pairs import Streams
from vilbert.model.tasks import ViLBertForTasks
from vilbert.model.vilbert import ViLBertForPreTraining, ViLBertModel
from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.tasks.retrieval.score_file import open_scores, save
from vilbert.pipeline.tasks.retrieval.score_plan import Numbers, Plan, ScoreSettings, plan

Scorer = ViLBertForTasks | ViLBertForPreTraining
Scores = NDArray[np.float32]


class ImageTensors(NamedTuple):
    """A batch of images with R regions; padding is at the end."""

    features: Tensor
    """[C, R, F], any floating-point type."""
    locations: Tensor
    """[C, R, 5]."""
    mask: Tensor
    """[C, R], 1 for regions, 0 for padding."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ImagePool:
    """The images to rank, read on demand."""

    regions: Numbers
    """int64 [images], number of regions including the global one."""
    read: Callable[[Numbers], ImageTensors]
    """Returns images by index, on any device."""
    fingerprint: str
    """Identifies the images and their order; scores on disk are resumed only if it is equal."""


class _Encoded(NamedTuple):
    """Captions or images encoded up to the first co-attention."""

    numbers: Numbers
    states: Tensor
    mask: Tensor | None  # None where nothing is padding


def score_pairs(
    model: Scorer,
    captions: Sequence[Sequence[int]],
    images: ImagePool,
    *,
    settings: ScoreSettings,
    task_id: int | None = None,
    folder: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Score every caption against every image; higher means a better match.

    Args:
        model: The model in evaluation mode, on its device. Task heads give `vil_logit`. A pre-trained model gives, for
            zero-shot retrieval, the log-odds of its alignment head, which have the same order as its match probability
            without ties from rounding to 1.
        captions: Token ids of each caption, with special tokens, without padding.
        images: The images.
        settings: Batches, memory and precision.
        task_id: The task token, if the model has task tokens.
        folder: Folder for the scores computed so far, from which a killed run resumes; None for none.
        progress: Called with the number of finished pairs and of all pairs after each batch.

    Raises:
        RefusedError: Scores in the folder have another identity, the budget is too small, or the model outputs NaN.
        ValueError: Inputs do not match the model, or the model is in training mode.
    """
    if model.training:
        raise ValueError("the model is in training mode, in which dropout changes the scores: call model.eval()")
    config = model.config
    words = np.array([len(caption) for caption in captions], dtype=np.int64)
    if not words.all():
        raise ValueError(f"caption {int(words.argmin())} has no word pieces: give at least its special tokens")
    planned = plan(
        words + (task_id is not None),
        images.regions,
        text_width=config.hidden_size,
        image_width=config.v_hidden_size,
        settings=settings,
    )
    shape = len(captions), len(images.regions)
    scores: Scores = np.full(shape, np.nan, dtype=np.float32)
    saved = None
    if folder is not None:
        scores = saved = open_scores(folder, shape, _identity(model, captions, images, settings, task_id))
    missing = np.isnan(scores)
    done, last_saved = int(missing.size - missing.sum()), time.monotonic()
    for block, chunk, values in _batches(model, captions, images, planned, missing, settings, task_id):
        rows = np.ix_(block, chunk)
        done += int(missing[rows].sum())
        scores[rows] = values
        if saved is not None and folder is not None and time.monotonic() - last_saved >= settings.save_seconds:
            save(saved, folder)
            last_saved = time.monotonic()
        if progress is not None:
            progress(done, planned.pairs)
    if saved is not None and folder is not None:
        save(saved, folder)
    return np.array(scores)


def _batches(
    model: Scorer,
    captions: Sequence[Sequence[int]],
    images: ImagePool,
    planned: Plan,
    missing: NDArray[np.bool_],
    settings: ScoreSettings,
    task_id: int | None,
) -> Iterator[tuple[Numbers, Numbers, Scores]]:
    """Yield (captions, images, scores) of each batch with a missing score."""
    for panel in planned.panels:
        if missing[:, np.concatenate(panel)].any():
            yield from _panel_batches(model, captions, images, planned, panel, missing, settings, task_id)


def _panel_batches(
    model: Scorer,
    captions: Sequence[Sequence[int]],
    images: ImagePool,
    planned: Plan,
    panel: Sequence[Numbers],
    missing: NDArray[np.bool_],
    settings: ScoreSettings,
    task_id: int | None,
) -> Iterator[tuple[Numbers, Numbers, Scores]]:
    held = [_encode_images(model, images, chunk, settings) for chunk in panel]
    for block in planned.blocks:
        if not missing[np.ix_(block, np.concatenate(panel))].any():
            continue
        encoded = _encode_captions(model, captions, block, settings, task_id)
        for start in range(0, len(block), planned.captions_per_batch):
            some = _part(encoded, start, start + planned.captions_per_batch)
            for chunk in held:
                if missing[np.ix_(some.numbers, chunk.numbers)].any():
                    yield some.numbers, chunk.numbers, _score(model, some, chunk, settings)


def _autocast(model: Scorer, settings: ScoreSettings) -> torch.autocast:
    return torch.autocast(model.device.type, torch.bfloat16, enabled=settings.precision == "bfloat16")


@torch.inference_mode()
def _encode_images(model: Scorer, images: ImagePool, chunk: Numbers, settings: ScoreSettings) -> _Encoded:
    features, locations, mask = (tensor.to(model.device) for tensor in images.read(chunk))
    if (expected := (len(chunk), int(images.regions[chunk].max()))) != tuple(mask.shape):
        raise ValueError(f"images.read gave a mask {tuple(mask.shape)} for {len(chunk)} images: expected {expected}")
    known = None if bool(mask.all()) else mask
    with _autocast(model, settings):
        states = image_alone(_streams(model), features.float(), locations.float(), known)
    return _Encoded(chunk, states.to(_held_type(settings)), known)


@torch.inference_mode()
def _encode_captions(
    model: Scorer, captions: Sequence[Sequence[int]], block: Numbers, settings: ScoreSettings, task_id: int | None
) -> _Encoded:
    lengths = torch.tensor([len(captions[number]) for number in block])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    ids = torch.full(mask.shape, model.config.pad_token_id or 0)
    ids[mask] = torch.tensor([piece for number in block for piece in captions[number]])
    tasks = None if task_id is None else torch.full((len(block), 1), task_id, device=model.device)
    with _autocast(model, settings):
        states, seen = text_alone(
            _streams(model), ids.to(model.device), attention_mask=mask.long().to(model.device), task_ids=tasks
        )
    return _Encoded(block, states.to(_held_type(settings)), seen)


def _part(encoded: _Encoded, start: int, stop: int) -> _Encoded:
    """Return some captions of a block, without padding that they do not need."""
    assert encoded.mask is not None
    mask = encoded.mask[start:stop]
    longest = int(mask.sum(1).max())
    cut = mask[:, :longest]
    return _Encoded(encoded.numbers[start:stop], encoded.states[start:stop, :longest], None if bool(cut.all()) else cut)


@torch.inference_mode()
def _score(model: Scorer, text: _Encoded, image: _Encoded, settings: ScoreSettings) -> Scores:
    """Return float32 [captions, images]."""
    streams = Streams(text=text.states, image=image.states, text_mask=text.mask, image_mask=image.mask)
    with _autocast(model, settings):
        pooled = pooled_pairs(_streams(model), streams, pairing="one_text" if len(text.numbers) == 1 else "all")
        fused = fuse(*pooled, model.config.fusion_method)
        if isinstance(model, ViLBertForTasks):
            scores = model.vil_logit(fused)[:, 0]
        else:
            match, other = model.cls.alignment(fused).float().unbind(1)
            scores = match - other
    found: Scores = scores.float().view(len(text.numbers), len(image.numbers)).cpu().numpy()
    if np.isnan(found).any():
        row, column = (int(place) for place in np.argwhere(np.isnan(found))[0])
        raise RefusedError(
            f"the model gives NaN for caption {text.numbers[row]} with image {image.numbers[column]}: look for NaN in "
            "its weights and in the features, and try --precision float32"
        )
    return found


def _streams(model: Scorer) -> ViLBertModel:
    assert isinstance(model.bert, ViLBertModel)
    return model.bert


def _held_type(settings: ScoreSettings) -> torch.dtype:
    return torch.bfloat16 if settings.precision == "bfloat16" else torch.float32


def _identity(
    model: Scorer, captions: Sequence[Sequence[int]], images: ImagePool, settings: ScoreSettings, task_id: int | None
) -> dict[str, object]:
    """Return what the scores depend on; batches are left out because they change only rounding."""
    weights, texts = hashlib.sha256(), hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        weights.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        weights.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    for caption in captions:
        texts.update(np.array([len(caption), *caption], dtype="<i8").tobytes())
    return {
        "model": weights.hexdigest(),
        "head": "vil_logit" if isinstance(model, ViLBertForTasks) else "alignment",
        "captions": texts.hexdigest(),
        "images": images.fingerprint,
        "precision": settings.precision,
        "task_id": task_id,
    }
