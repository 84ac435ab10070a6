"""`vilbert evaluate retrieval`: score every caption against every image and rank in both directions.

With --zero-shot a pre-trained model ranks by its alignment head, without training on the task.
"""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.evaluate.evaluation import Answered, Trained, open_images
from vilbert.pipeline.evaluate.settings import RankEvaluateSettings
from vilbert.pipeline.progress_line import ProgressLine
from vilbert.pipeline.shards.canonical import encode_json
from vilbert.pipeline.tasks.captioned_images import CaptionedImage
from vilbert.pipeline.tasks.images import lay_out, read_images
from vilbert.pipeline.tasks.join import Images, join
from vilbert.pipeline.tasks.objective import with_whole_image
from vilbert.pipeline.tasks.retrieval.ranks import retrieval_figures, top_list
from vilbert.pipeline.tasks.retrieval.score_plan import ScoreSettings
from vilbert.pipeline.tasks.retrieval.scores import ImagePool, ImageTensors, score_pairs
from vilbert.pipeline.tasks.retrieval.task import RetrievalTask
from vilbert.pipeline.tasks.task import Task
from vilbert.pipeline.tasks.texts import text_ids
from vilbert.pipeline.train.data.feature_rows import features_on

logger = logging.getLogger(__name__)

LISTED = 20


def answer(settings: RankEvaluateSettings, trained: Trained, task: Task) -> Answered:
    """Score every caption against every image with features; return recall in both directions and the best images."""
    images = open_images(settings, trained, settings.data)
    wanted = cast(RetrievalTask, task).captioned[: settings.images]
    joined = with_features(wanted, images, settings)
    captioned, pool = image_pool(images, joined, trained.card.max_regions, blind=settings.blind)
    unread = len(joined) - len(captioned)
    if unread:
        message = f"{settings.task}, {settings.split}: {unread:,} of {len(joined):,} images cannot be read"
        if unread > settings.max_missing_fraction * len(joined):
            raise RefusedError(
                f"{message}, more than --max-missing-fraction {settings.max_missing_fraction:g} allows; see "
                "`vilbert verify`"
            )
        logger.warning("%s; recall is computed over the other %d and their captions", message, len(captioned))
    texts = [(caption,) for image in captioned for caption in image.captions]
    words = text_ids(trained.tokenizer, texts, max_words=trained.card.max_words)
    line = ProgressLine(sys.stderr)
    scores = score_pairs(
        trained.model,
        words,
        pool,
        settings=ScoreSettings(
            pairs_per_batch=settings.pairs_per_batch,
            hold_bytes=settings.hold_bytes,
            precision="bfloat16" if settings.precision == "bf16" else "float32",
        ),
        task_id=trained.task_token,
        folder=settings.scores,
        progress=lambda done, pairs: line.show(lambda: f"{settings.task}: {done:,}/{pairs:,} pairs"),
    )
    line.close(f"{settings.task}: {scores.size:,} pairs in {line.seconds:.0f} s")
    image_of = np.repeat(np.arange(len(captioned)), [len(image.captions) for image in captioned])
    results = ranking(scores, image_of, captioned)
    return Answered(retrieval_figures(scores, image_of), results, len(wanted) - len(captioned))


def with_features(
    captioned: Sequence[CaptionedImage], images: Images, settings: RankEvaluateSettings
) -> list[CaptionedImage]:
    """Return the images with features; raise RefusedError if too many have none."""
    what = f"{settings.task}, {settings.split}"
    joined = join(
        captioned, lambda image: (image.image_id,), images, what=what, most_missing=settings.max_missing_fraction
    )
    return [captioned[number] for number in sorted(joined.kept.tolist())]


def image_pool(
    images: Images, captioned: Sequence[CaptionedImage], max_regions: int, *, blind: bool
) -> tuple[list[CaptionedImage], ImagePool]:
    """Return the readable images, and a pool that reads them again on demand."""
    wanted = [images.other(it.image_id, 0) if blind else it.image_id for it in captioned]
    regions = images.region_counts(wanted)
    readable = [(it, name, count) for it, name, count in zip(captioned, wanted, regions, strict=True) if count]
    looked_at = [name for _, name, _ in readable]
    counts = [1 + min(count, max_regions) for _, _, count in readable]

    def read(numbers: NDArray[np.int64]) -> ImageTensors:
        shown = read_images(images, None, [looked_at[number] for number in numbers], max_regions=max_regions)
        rows = lay_out(shown, feature_dim=images.corpus.feature_dim, max_regions=max_regions)
        tensors = (torch.from_numpy(values) for values in (rows.weights, rows.locations, rows.mask))
        return ImageTensors(*with_whole_image(features_on("cpu", *rows.features), *tensors))

    facts = [part["records_sha256"] for part in images.corpus.fingerprints]
    named = hashlib.sha256(encode_json([facts, looked_at, max_regions])).hexdigest()
    return [it for it, _, _ in readable], ImagePool(
        regions=np.array(counts, dtype=np.int64), read=read, fingerprint=named
    )


def ranking(scores: NDArray[np.float32], image_of: NDArray[np.int64], captioned: Sequence[CaptionedImage]) -> bytes:
    """Return JSON: for each caption its image and the best images, best first."""
    captions = [text for image in captioned for text in image.captions]
    rows = [
        {
            "image_id": captioned[own].image_id,
            "caption": caption,
            "ranked": [captioned[number].image_id for number in best],
        }
        for own, caption, best in zip(image_of.tolist(), captions, top_list(scores, LISTED).tolist(), strict=True)
    ]
    return encode_json(rows)
