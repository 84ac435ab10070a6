"""Recall and ranks of image and text retrieval.

Ranks start at 0. Among equal scores the true one is last, so a model that gives the same score to all pairs has no
recall; the published evaluation leaves ties to the sort.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vilbert.pipeline.errors import RefusedError

Ranks = NDArray[np.int64]
NO_CAPTION = -1
_ROWS_AT_ONCE = 1024


def ranks(scores: NDArray[np.float32], image_of_caption: NDArray[np.int64]) -> tuple[Ranks, Ranks]:
    """Return the rank of each caption's image among all images, and of each image's best caption among all captions.

    Args:
        scores: [captions, images]; higher is better.
        image_of_caption: int64 [captions].

    Returns:
        int64 [captions] and int64 [images]. Images without captions, which are distractors, have `NO_CAPTION`.

    Raises:
        RefusedError: A score is NaN, whose rank would be the best.
        ValueError: Shapes or indices do not match.
    """
    captions, images = scores.shape
    if image_of_caption.shape != (captions,):
        raise ValueError(f"image_of_caption {image_of_caption.shape}: expected one for each of {captions} captions")
    if captions and not (image_of_caption.min() >= 0 and image_of_caption.max() < images):
        raise ValueError(f"image_of_caption names images that are not among the {images} of scores")
    own = scores[np.arange(captions), image_of_caption]
    best = np.full(images, -np.inf, dtype=scores.dtype)
    np.maximum.at(best, image_of_caption, own)
    of_captions, of_images = np.empty(captions, dtype=np.int64), np.zeros(images, dtype=np.int64)
    for start in range(0, captions, _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        part, true = scores[rows], np.arange(images) == image_of_caption[rows, None]
        if np.isnan(part).any():
            row, column = (int(place) for place in np.argwhere(np.isnan(part))[0])
            raise RefusedError(f"the score of caption {start + row} with image {column} is missing: score all pairs")
        of_captions[rows] = ((part >= own[rows, None]) & ~true).sum(1)
        of_images += ((part >= best) & ~true).sum(0)
    of_images[np.bincount(image_of_caption, minlength=images) == 0] = NO_CAPTION
    return of_captions, of_images


def recall_figures(found: Ranks) -> dict[str, float]:
    """Return r1, r5 and r10 (fractions of ranks below 1, 5 and 10), and median_rank and mean_rank, starting at 1.

    `NO_CAPTION` is ignored. The median of an even number of ranks is rounded down. Source: eval_retrieval.py of
    jiasenlu/vilbert_beta, which uses percent.

    Raises:
        RefusedError: There are no ranks.
    """
    counted = found[found != NO_CAPTION]
    if not len(counted):
        raise RefusedError("no caption belongs to an image: nothing to rank")
    return {
        "r1": float((counted < 1).mean()),
        "r5": float((counted < 5).mean()),
        "r10": float((counted < 10).mean()),
        "median_rank": float(np.floor(np.median(counted)) + 1),
        "mean_rank": float(counted.mean() + 1),
    }


def retrieval_figures(scores: NDArray[np.float32], image_of_caption: NDArray[np.int64]) -> dict[str, float]:
    """Return the metrics of both directions, image_retrieval_r1 ... and text_retrieval_r1 ...; see `ranks`."""
    of_captions, of_images = ranks(scores, image_of_caption)
    directions = {"image_retrieval": of_captions, "text_retrieval": of_images}
    return {
        f"{direction}_{name}": value
        for direction, found in directions.items()
        for name, value in recall_figures(found).items()
    }


def top_list(scores: NDArray[np.float32], k: int = 20) -> NDArray[np.int64]:
    """Return the indices of the k best images of each caption, best first, int64 [captions, at most k].

    Ties are ordered by index. Transposed scores give the best captions of each image.
    """
    if k < 1:
        raise ValueError(f"k {k}: give at least 1")
    order = [np.argsort(-row, kind="stable")[:k] for row in scores]
    return np.array(order, dtype=np.int64).reshape(len(scores), min(k, scores.shape[1]))
